"""Puzzle Mix (Kim, Choo, Song, ICML 2020) as a PyTorch Lightning callback, with an exact and fast mask solver."""

from lightning_puzzlemix.base import MixCallback
from lightning_puzzlemix.baseline_callbacks import CutMixCallback, ManifoldMixCallback, MixUpCallback
from lightning_puzzlemix.baselines import BaselineDraw, CutMix, ManifoldMix, MixUp
from lightning_puzzlemix.callback import PuzzleMixCallback
from lightning_puzzlemix.config import PuzzleMixConfig
from lightning_puzzlemix.draw import MixDraw
from lightning_puzzlemix.mix import MixResult, puzzle_mix
from lightning_puzzlemix.mixer import MixedBatch, PuzzleMix
from lightning_puzzlemix.pair_losses import pair_loss
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
    "mix_targets",
    "pair_loss",
    "puzzle_mix",
]
