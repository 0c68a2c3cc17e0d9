"""What is trained and how: module, loss, optimizer, callbacks of a run."""

from experiments.training.builders import RunComponents, build_components, build_optional
from experiments.training.example_images import save_training_images
from experiments.training.lightning_messages import quiet_lightning
from experiments.training.module import Classifier

__all__ = [
    "Classifier", "RunComponents", "build_components", "build_optional", "quiet_lightning", "save_training_images",
]  # fmt: skip
