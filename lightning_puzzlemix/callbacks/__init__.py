"""When a batch is mixed, and how a Trainer's training_step gets it; no arithmetic."""

from lightning_puzzlemix.callbacks.base import LOG_IMAGES_EVERY_N_STEPS, MixCallback
from lightning_puzzlemix.callbacks.baselines import CutMixCallback, ManifoldMixCallback, MixUpCallback
from lightning_puzzlemix.callbacks.puzzlemix import PuzzleMixCallback
from lightning_puzzlemix.callbacks.random_mix import RandomMixCallback

__all__ = [
    "LOG_IMAGES_EVERY_N_STEPS",
    "CutMixCallback",
    "ManifoldMixCallback",
    "MixCallback",
    "MixUpCallback",
    "PuzzleMixCallback",
    "RandomMixCallback",
]
