"""What is checked of the arguments of the mixing beside the images themselves."""

from __future__ import annotations

from torch import Tensor

from lightning_puzzlemix.config import MOST_BLOCKS, MOST_MOVING_BLOCKS, PuzzleMixConfig
from lightning_puzzlemix.sampling import MixDraw
from lightning_puzzlemix.solvers import check_lam
from lightning_puzzlemix.validation import check_integer, check_permutation


def check_mix_inputs(images: Tensor, saliency: Tensor, draw: MixDraw) -> None:
    """Check saliency and draw against (B, C, H, W) images."""
    batch, _, height, width = images.shape
    if not isinstance(saliency, Tensor) or not saliency.is_floating_point():
        kind = saliency.dtype if isinstance(saliency, Tensor) else type(saliency).__name__
        raise TypeError(f"saliency must be a floating point tensor of shape (B, H, W), got {kind}")
    if saliency.shape != (batch, height, width):
        raise ValueError(
            f"saliency must have shape {(batch, height, width)}, one value a pixel of images {tuple(images.shape)}, got "
            f"{tuple(saliency.shape)}: reduce channels with saliency.square().mean(1).sqrt()"
        )
    if saliency.device != images.device:
        raise ValueError(f"saliency must lie on the images' device {images.device}, got {saliency.device}")
    check_permutation(draw.permutation, batch)
    check_lam(draw.lam, batch)
    blocks, shorter = check_integer("blocks_per_side", draw.blocks_per_side, least=1), min(height, width)
    if blocks > shorter:
        raise ValueError(
            f"blocks_per_side must be at least 1 and at most the shorter image side {shorter}, got {blocks}: choose smaller "
            "grid_sizes"
        )
    check_integer("blocks_per_side", blocks, least=1, most=MOST_BLOCKS, hint=": choose smaller grid_sizes")


def check_content(name: str, content: Tensor, images: Tensor) -> None:
    """Raise a ``ValueError`` unless what is shown in place of images has their shape, dtype and device."""
    if content.shape != images.shape or content.dtype != images.dtype or content.device != images.device:
        raise ValueError(
            f"{name} must be {tuple(images.shape)} {images.dtype} on {images.device} like images, got "
            f"{tuple(content.shape)} {content.dtype} on {content.device}"
        )


def check_moving_blocks(grid: tuple[int, int], images: Tensor, config: PuzzleMixConfig) -> None:
    """Raise a ``ValueError`` if there are more moving blocks than can be matched in reasonable time and memory."""
    if config.transport and max(grid) > MOST_MOVING_BLOCKS:
        raise ValueError(
            f"transport_size={config.transport_size} cuts images {tuple(images.shape)} into {grid[0]} x {grid[1]} moving "
            f"blocks, where {MOST_MOVING_BLOCKS} a side are the most: use a transport_size of at least "
            f"{-(-max(images.shape[2:]) // MOST_MOVING_BLOCKS)}, or None"
        )
