"""Mixers: one call that mixes a batch for a model, by Puzzle Mix or a baseline."""

from lightning_puzzlemix.mixers.apply import apply_mix
from lightning_puzzlemix.mixers.baselines import CutMix, ManifoldMix, MixUp, blend
from lightning_puzzlemix.mixers.mixer import Mixer
from lightning_puzzlemix.mixers.puzzlemix import PuzzleMix
from lightning_puzzlemix.mixers.timer import PhaseTimer

__all__ = ["CutMix", "ManifoldMix", "MixUp", "Mixer", "PhaseTimer", "PuzzleMix", "apply_mix", "blend"]
