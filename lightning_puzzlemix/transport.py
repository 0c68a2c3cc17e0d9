"""Which block moves where, and moving blocks with a gather (paper section 4.2)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lightning_puzzlemix.blocks import Grid, from_blocks, to_blocks
from lightning_puzzlemix.config import PuzzleMixConfig
from lightning_puzzlemix.threads import run_slices, solver_threads


def plan_moves(
    shares_first: np.ndarray, shares_second: np.ndarray, labels: np.ndarray, config: PuzzleMixConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Plan for each pair where the blocks of its two images go.

    The cost of moving block i to j is ``transport_cost * distance^2 - share_i`` where the mask shows the image at j
    (method, step 6), the distance being 1 along the whole longer side. A target that no block gains by taking keeps its
    own content; the reference leaves it black. Among moves of equal cost the shorter one is taken.

    Args:
        shares_first: (B, R, C) float32 block saliency of the first images on the transport's grid.
        shares_second: (B, R, C) of their partners.
        labels: (B, n, n) labels of the mask, k / (L - 1) of the first image.
        config: ``transport_cost``, ``num_labels`` and ``threads`` are read.

    Returns:
        Two (B, R * C) int32 plans, of the first images and of their partners: the source block of each target block.
    """
    from lightning_puzzlemix.matching import match_blocks, sorted_moves

    # Always of the same kind, as Numba would compile the kernel anew for any other.
    shares_first, shares_second = (np.require(each, np.float32, ("C", "W")) for each in (shares_first, shares_second))
    labels = np.require(labels, np.int32, ("C", "W"))
    batch, rows, cols = shares_first.shape
    steps, squared = sorted_moves(rows, cols)
    # In float32 as the reference computes it, so that the same pairs tie.
    prices = np.float32(config.transport_cost) * squared.astype(np.float32)
    plans = np.empty((2, batch, rows * cols), np.int32)
    top = config.num_labels - 1

    def work(start: int, stop: int) -> None:
        match_blocks(shares_first, labels, 0, steps, prices, plans[0], start, stop)
        match_blocks(shares_second, labels, top, steps, prices, plans[1], start, stop)

    run_slices(work, batch, solver_threads(config.threads, max(rows, cols)))
    return plans[0], plans[1]


def move_and_blend(
    first: Tensor, second: Tensor, partner: Tensor, plan_first: Tensor, plan_second: Tensor, mask: Tensor, grid: Grid
) -> Tensor:
    """Move the blocks of both images of each pair and blend them by the mask (method, steps 6 and 7).

    Args:
        first: (B, C, H, W) first images.
        second: (B, C, H, W) the images that the partners are taken from; often ``first`` itself.
        partner: (B,) int64, the index in ``second`` of each first image's partner.
        plan_first: (B, R * C) source block of each target block.
        plan_second: (B, R * C) the same for the partners.
        mask: (B, n, n) share of the first image.
        grid: The transport's grid, a refinement of the mask's.

    Returns:
        (B, C, H, W) in the images' dtype.
    """
    batch, count = plan_first.shape
    blocks_first = to_blocks(first, grid)
    blocks_second = blocks_first if second is first else to_blocks(second, grid)
    own = torch.arange(batch, device=first.device)
    moved_first = blocks_first.flatten(0, 1).index_select(0, (own[:, None] * count + plan_first).flatten())
    moved_second = blocks_second.flatten(0, 1).index_select(0, (partner[:, None] * count + plan_second).flatten())
    weight = mask.repeat_interleave(grid.rows.cells, 1).repeat_interleave(grid.cols.cells, 2)
    mixed = torch.lerp(moved_second, moved_first, weight.to(first.dtype).reshape(-1, 1))
    return from_blocks(mixed.view_as(blocks_first), grid, first.shape[1])
