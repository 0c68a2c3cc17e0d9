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


def _across_rows(upper: Tensor, lower: Tensor, cells: tuple[int, int]) -> Tensor:
    """Mean absolute difference across each border between vertical neighbors: (B, C, rows, cols) to (B, n - 1, n)."""
    high, wide = cells
    gap = (upper[:, :, high - 1 : -1 : high] - lower[:, :, high::high]).abs().mean(1)
    return gap if wide == 1 else gap.unflatten(-1, (-1, wide)).mean(-1)


def _across_cols(left: Tensor, right: Tensor, cells: tuple[int, int]) -> Tensor:
    """Do the same for horizontal neighbors, to (B, n, n - 1)."""
    return _across_rows(left.transpose(2, 3), right.transpose(2, 3), cells[::-1]).transpose(1, 2)


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
    cells_partner = cells[partner]
    cost_first, cost_second = shares[partner], shares.clone()
    weights = []
    for across, axis in ((_across_rows, 1), (_across_cols, 2)):
        # p10: this side shows the first image, the other side the second.
        p11, p10 = across(cells, cells, size), across(cells, cells_partner, size)
        p01, p00 = across(cells_partner, cells, size), p11[partner]
        cost_first.narrow(axis, 0, n - 1).add_(p10 + p11, alpha=half)
        cost_first.narrow(axis, 1, n - 1).add_(p01 + p11, alpha=half)
        cost_second.narrow(axis, 0, n - 1).add_(p01 + p00, alpha=half)
        cost_second.narrow(axis, 1, n - 1).add_(p10 + p00, alpha=half)
        # With pixels in [0, 1] and gamma <= 1 this is never negative; pixels outside could make it so.
        weights.append((label_weight + half * (p10 + p01 - p11 - p00)).clamp_min_(0))
    return Energy(cost_first, cost_second, *weights)
