"""Puzzle Mix (Kim, Choo, Song, ICML 2020) as a PyTorch Lightning callback, with an exact and fast mask solver."""

from lightning_puzzlemix.callbacks import (
    CutMixCallback,
    ManifoldMixCallback,
    MixCallback,
    MixUpCallback,
    PuzzleMixCallback,
    RandomMixCallback,
)
from lightning_puzzlemix.config import PuzzleMixConfig
from lightning_puzzlemix.core import puzzle_mix
from lightning_puzzlemix.mixers import CutMix, ManifoldMix, MixUp, PuzzleMix, apply_mix
from lightning_puzzlemix.pair_losses import pair_loss
from lightning_puzzlemix.results import MixedBatch, MixResult
from lightning_puzzlemix.sampling import BaselineDraw, MixDraw
from lightning_puzzlemix.targets import PairTargets, mix_targets

__all__ = [
    "BaselineDraw",
    "CutMix",
    "CutMixCallback",
    "ManifoldMix",
    "ManifoldMixCallback",
    "MixCallback",
    "MixDraw",
    "MixResult",
    "MixUp",
    "MixUpCallback",
    "MixedBatch",
    "PairTargets",
    "PuzzleMix",
    "PuzzleMixCallback",
    "PuzzleMixConfig",
    "RandomMixCallback",
    "apply_mix",
    "mix_targets",
    "pair_loss",
    "puzzle_mix",
]
