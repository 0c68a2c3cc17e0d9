"""Metrics of what a mix did, computed on the batch's device without waiting for it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_puzzlemix.core import Axis, Grid, block_saliency
from lightning_puzzlemix.results import MixedBatch


@torch.no_grad()
def mix_metrics(mixed: MixedBatch) -> dict[str, Tensor]:
    """Measure a mixed batch.

    Args:
        mixed: The batch, on any device; nothing is copied from it.

    Returns:
        Scalars on that device, means over the batch. For every mixing method ``ratio``, the share of the first image in [0, 1].
        If there is a saliency also ``mask_entropy``, the binary entropy of the mask's blocks in bits, 0 if every block shows
        one image and 1 if each shows both equally; ``moved_blocks``, the share in [0, 1] of the visible blocks that come from
        another place of their image; ``retained_saliency``, see :func:`retained_saliency`, and ``retained_saliency_cutmix``,
        see :func:`expected_cutmix_saliency`, over both images of each pair.
    """
    metrics = {"ratio": mixed.ratio.mean()}
    if mixed.saliency is None:
        return metrics
    entropy = torch.special.entr(mixed.mask) + torch.special.entr(1 - mixed.mask)
    visible, moved = visible_moves(mixed)
    return metrics | {
        "mask_entropy": entropy.mean() / math.log(2),
        "moved_blocks": moved.sum() / visible.sum(),
        "retained_saliency": retained_saliency(mixed).mean(),
        "retained_saliency_cutmix": expected_cutmix_saliency(mixed).mean(),
    }


def moving_grid(mixed: MixedBatch) -> Grid:
    """Return the grid of the blocks that may move: the plan's, or without transport the mask's."""
    height, width = mixed.images.shape[2:]
    blocks = mixed.mask.shape[-1]
    rows, cols = mixed.mask.shape[1:] if mixed.plan is None else mixed.plan.shape[2:]
    return Grid(Axis(height, blocks, rows // blocks), Axis(width, blocks, cols // blocks))


def visible_moves(mixed: MixedBatch) -> tuple[Tensor, Tensor]:
    """Return two (2, B, R, C) boolean tensors over :func:`moving_grid`: visible blocks, and visible blocks that moved there.

    [0] holds those of the first images, [1] of their partners.
    """
    shares = _shares(mixed)
    visible = shares > 0
    if mixed.plan is None:
        return visible, torch.zeros_like(visible)
    rows, cols = mixed.plan.shape[2:]
    own = torch.arange(rows * cols, device=mixed.plan.device).view(rows, cols)
    return visible, visible & (mixed.plan != own)


def retained_saliency(mixed: MixedBatch) -> Tensor:
    """Return the share of each image's saliency that stays visible in the mix.

    A block is weighted by the share with which the mask shows it, at the place it was moved to; one that is shown twice counts
    once, by the larger share.

    Args:
        mixed: A batch with saliency.

    Returns:
        (2, B) in [0, 1], of the first images and of their partners.
    """
    grid = moving_grid(mixed)
    saliency = _both(block_saliency(_saliency(mixed), grid), mixed).flatten(2)
    shown = _shares(mixed).flatten(2)
    if mixed.plan is not None:
        plan = mixed.plan.flatten(2).long()
        shown = torch.zeros_like(shown).scatter_reduce(2, plan, shown, "amax")
    return (saliency * shown).sum(2)


def expected_cutmix_saliency(mixed: MixedBatch) -> Tensor:
    """Return the share of each image's saliency that CutMix would keep visible with a box of the same area, in expectation.

    The box has the image's proportions and the area that the mask gives to the partner; every place inside the image is
    equally likely. Nothing is sampled: the chance of a pixel to be covered is a product of two trapezoids.

    Args:
        mixed: A batch with saliency.

    Returns:
        (2, B) in [0, 1], of the first images outside the box, and of their partners inside it.
    """
    saliency = _saliency(mixed)
    height, width = saliency.shape[1:]
    shares = _both(block_saliency(saliency, Grid(Axis(height, height), Axis(width, width))), mixed)
    side = (1 - mixed.ratio).clamp(0, 1).sqrt()
    rows, cols = _chance_covered(height, side), _chance_covered(width, side)
    inside = (torch.matmul(shares, cols[None, :, :, None])[..., 0] * rows).sum(-1)
    return torch.stack([1 - inside[0], inside[1]])


def _chance_covered(size: int, side: Tensor) -> Tensor:
    """Return (B, size): the chance that a random interval of (B,) length ``side`` in [0, 1] covers each pixel's center."""
    middle = (torch.arange(size, device=side.device) + 0.5) / size
    side = side[:, None]
    # The interval begins uniformly in [0, room], and covers a point if it begins in (point - side, point).
    room = (1 - side).clamp_min(1e-6)
    return (torch.minimum(middle, room) - (middle - side).clamp_min(0)) / room


def _saliency(mixed: MixedBatch) -> Tensor:
    if mixed.saliency is None:
        raise ValueError("mixed.saliency is None: only Puzzle Mix computes saliency, the baselines do not")
    return mixed.saliency


def _shares(mixed: MixedBatch) -> Tensor:
    """Return (2, B, R, C): how much each block of the moving grid shows of the first image and of its partner."""
    grid = moving_grid(mixed)
    first = mixed.mask.repeat_interleave(grid.rows.cells, 1).repeat_interleave(grid.cols.cells, 2)
    return torch.stack([first, 1 - first])


def _both(values: Tensor, mixed: MixedBatch) -> Tensor:
    """Return (2, B, ...): values of the first images and of their partners."""
    return torch.stack([values, values[mixed.draw.permutation.to(values.device, torch.int64)]])
