"""Which block moves where, and moving blocks with a gather (paper section 4.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_puzzlemix.core.grid import Grid, from_blocks, to_blocks


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
