"""What is trained and how: module, loss, optimizer, callbacks of a run."""

from experiments.training.builders import RunComponents, build_components, build_optional
from experiments.training.example_images import save_training_images
from experiments.training.module import Classifier

__all__ = ["Classifier", "RunComponents", "build_components", "build_optional", "save_training_images"]
