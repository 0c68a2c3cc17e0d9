"""What is trained and how: module, loss, optimizer, callbacks of a run."""

from experiments.training.builders import GROUPS, RunComponents, build_components, build_optional, choices
from experiments.training.example_images import save_training_images
from experiments.training.module import Classifier

__all__ = [
    "GROUPS", "Classifier", "RunComponents", "build_components", "build_optional", "choices", "save_training_images",
]  # fmt: skip
