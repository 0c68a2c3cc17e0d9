"""Pure functions of tensors: images and their saliency to mixed images."""

from lightning_puzzlemix.core.energy import block_saliency, mask_energy, pixel_cells
from lightning_puzzlemix.core.grid import Axis, Grid, expand
from lightning_puzzlemix.core.pipeline import keep_samples, mix_checked, mix_like, puzzle_mix

__all__ = [
    "Axis",
    "Grid",
    "block_saliency",
    "expand",
    "keep_samples",
    "mask_energy",
    "mix_checked",
    "mix_like",
    "pixel_cells",
    "puzzle_mix",
]
