"""From images and saliency to the energy over masks (paper section 4.1), and the energy of a given mask.

A mask m holds for each block the share of the first image, one of 0, 1/(L-1), ..., 1. Its energy is
``sum_p [m_p cost_first_p + (1 - m_p) cost_second_p + prior(m_p)] + sum_pq weight_pq (m_p - m_q)^2``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_puzzlemix.config import PuzzleMixConfig
from lightning_puzzlemix.core.grid import Grid, pool
from lightning_puzzlemix.normalization import to_pixels
from lightning_puzzlemix.solvers import Energy


def block_saliency(saliency: Tensor, grid: Grid) -> Tensor:
    """Pool (B, H, W) saliency to (B, rows, cols) shares that sum to 1 (method, step 2).

    A map that is all zero, or that holds NaN or infinity, becomes uniform, for that sample alone.
    """
    # Finite values may overflow in a sum; as shares of the largest they cannot. A double may be too large or too small for a
    # float, so that the shares are taken before.
    saliency = saliency if saliency.dtype == torch.float64 else saliency.float()
    peak = saliency.amax((1, 2), keepdim=True)
    shares = pool((saliency / peak).float(), grid)
    total = shares.sum((1, 2), keepdim=True)
    # Not so where a share is NaN: comparisons with NaN are false.
    known = (total > 0) & (total < torch.inf)
    return torch.where(known, shares / total, 1.0 / (grid.shape[0] * grid.shape[1]))


def pixel_cells(images: Tensor, grid: Grid, config: PuzzleMixConfig) -> Tensor:
    """Average (B, C, H, W) normalized images over the grid's cells and bring them to [0, 1] pixel units, as float32."""
    return to_pixels(pool(images.float(), grid), config.mean, config.std)


def _border_gaps(cells: Tensor, above: Tensor, below: Tensor, size: tuple[int, int]) -> Tensor:
    """Mean absolute difference across each border between vertical neighbors.

    Args:
        cells: (B, C, rows, cols).
        above: (M,) the samples whose cells are taken above the borders.
        below: (M,) the samples whose cells are taken below them.
        size: Cells of a block along its height and width.

    Returns:
        (M, n - 1, n).
    """
    high, wide = size
    gap = (cells[:, :, high - 1 : -1 : high][above] - cells[:, :, high::high][below]).abs().mean(1)
    return gap if wide == 1 else gap.unflatten(-1, (-1, wide)).mean(-1)


def mask_energy(
    shares: Tensor, cells: Tensor, partner: Tensor, cells_grid: Grid, *, beta: float, gamma: float
) -> Energy:
    """Build the energy of a batch (method, step 4; ``mixup_graph`` of the reference).

    Args:
        shares: (B, n, n) block saliency of the images, each summing to 1.
        cells: (B, C, n k, n l) images in pixel units, averaged over the cells of ``cells_grid``.
        partner: (B,) int64, each image's partner.
        cells_grid: The blocks, each cut into k x l cells.
        beta: Label smoothness.
        gamma: Data smoothness.
    """
    n = cells_grid.rows.blocks
    label_weight = beta / (16 * n)
    half = label_weight * gamma / 2
    size = (cells_grid.rows.cells, cells_grid.cols.cells)
    own = torch.arange(len(cells), device=cells.device)
    # The two sides p and q of a border show: first and first, first and second, second and first. All three in one
    # operation, as on a GPU the number of operations is what these small tensors cost.
    sides = torch.cat([own, own, partner]), torch.cat([own, partner, own])
    cost_first, cost_second = shares[partner], shares.clone()
    weights = []
    for axis in (1, 2):
        if axis == 1:
            gaps = _border_gaps(cells, *sides, size)
        else:
            gaps = _border_gaps(cells.transpose(2, 3), *sides, size[::-1]).transpose(1, 2)
        gaps = gaps.unflatten(0, (3, -1))
        p11, p10, p01 = gaps
        p00 = p11[partner]
        first, second = gaps[1:] + p11, gaps[1:] + p00
        cost_first.narrow(axis, 0, n - 1).add_(first[0], alpha=half)
        cost_first.narrow(axis, 1, n - 1).add_(first[1], alpha=half)
        cost_second.narrow(axis, 0, n - 1).add_(second[1], alpha=half)
        cost_second.narrow(axis, 1, n - 1).add_(second[0], alpha=half)
        # With pixels in [0, 1] and gamma <= 1 this is never negative; pixels outside could make it so.
        weights.append((label_weight + half * (p10 + p01 - p11 - p00)).clamp_min_(0))
    return Energy(cost_first, cost_second, *weights)
