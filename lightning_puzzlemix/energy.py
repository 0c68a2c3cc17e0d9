"""From images and saliency to the energy over masks (paper section 4.1), and the energy of a given mask.

A mask m holds for each block the share of the first image, one of 0, 1/(L-1), ..., 1. Its energy is
``sum_p [m_p cost_first_p + (1 - m_p) cost_second_p + prior(m_p)] + sum_pq weight_pq (m_p - m_q)^2``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lightning_puzzlemix.blocks import Grid, pool
from lightning_puzzlemix.config import PuzzleMixConfig

# lam is kept this far from 0 and 1. A margin inside the logarithm instead, as in the reference, would not keep the prior
# convex for four labels and more, and a prior that is not convex has no exact solver.
_LAM_MARGIN = 1e-8


@dataclass(frozen=True)
class Energy:
    """The energies of a batch of masks, without the prior; all float32 tensors.

    Attributes:
        cost_first: (B, n, n), paid by a block in proportion to how much of the first image it shows.
        cost_second: (B, n, n), the same for the second image.
        weight_rows: (B, n - 1, n) >= 0, smoothness weight between blocks (i, j) and (i + 1, j).
        weight_cols: (B, n, n - 1) >= 0, between blocks (i, j) and (i, j + 1).
    """

    cost_first: Tensor
    cost_second: Tensor
    weight_rows: Tensor
    weight_cols: Tensor


@dataclass(frozen=True)
class HostEnergy:
    """An :class:`Energy` on the host; float32 arrays of the same names and shapes."""

    cost_first: np.ndarray
    cost_second: np.ndarray
    weight_rows: np.ndarray
    weight_cols: np.ndarray


def block_saliency(saliency: Tensor, grid: Grid) -> Tensor:
    """Pool (B, H, W) saliency to (B, rows, cols) shares that sum to 1 (method, step 2).

    A map that is all zero, or that holds NaN or infinity, says nothing: that sample alone gets a
    uniform map.
    """
    # Finite values may overflow in a sum; as shares of the largest they cannot. A double may be too large or too small for a
    # float, so that the shares are taken before.
    saliency = saliency if saliency.dtype == torch.float64 else saliency.float()
    peak = saliency.amax((1, 2), keepdim=True)
    shares = pool((saliency / peak).float(), grid)
    shares = shares / shares.sum((1, 2), keepdim=True)
    known = torch.isfinite(shares).flatten(1).all(1)[:, None, None]
    return torch.where(known, shares, 1.0 / (grid.shape[0] * grid.shape[1]))


def pixel_cells(images: Tensor, grid: Grid, config: PuzzleMixConfig) -> Tensor:
    """Average (B, C, H, W) normalised images over the grid's cells and bring them to [0, 1] pixel units, as float32."""
    cells = pool(images.float(), grid)
    if config.mean is None or config.std is None:
        return cells
    return cells * per_channel(config.std, cells.device) + per_channel(config.mean, cells.device)


def per_channel(values: Sequence[float], device: torch.device) -> Tensor:
    """Return (C, 1, 1) float32; filled on the device, as a tensor of the host's numbers would be one more copy a batch."""
    # Of a dtype of their own: torch's default dtype may be another.
    return torch.stack([torch.full((1, 1), value, dtype=torch.float32, device=device) for value in values])


def _across_rows(upper: Tensor, lower: Tensor, cells: tuple[int, int]) -> Tensor:
    """Mean absolute difference across each border between vertical neighbours: (B, C, rows, cols) to (B, n - 1, n)."""
    high, wide = cells
    gap = (upper[:, :, high - 1 : -1 : high] - lower[:, :, high::high]).abs().mean(1)
    return gap if wide == 1 else gap.unflatten(-1, (-1, wide)).mean(-1)


def _across_cols(left: Tensor, right: Tensor, cells: tuple[int, int]) -> Tensor:
    """Do the same for horizontal neighbours, to (B, n, n - 1)."""
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


def mixing_prior(lam: float | np.ndarray, num_labels: int, *, eta: float, blocks_per_side: int) -> np.ndarray:
    """Price each label by how unlikely it is under Binomial(L - 1, lam) (method, step 4).

    Args:
        lam: Expected share of the first image in [0, 1], or (B,) of them.
        num_labels: L >= 2.
        eta: Weight of the prior.
        blocks_per_side: n.

    Returns:
        (1, L) or (B, L) float64, convex along the labels; label k shows the share k / (L - 1) of the first image.
    """
    share = np.clip(np.atleast_1d(np.asarray(lam, np.float64))[:, None], _LAM_MARGIN, 1 - _LAM_MARGIN)
    label = np.arange(num_labels)
    ways = np.array([math.log(math.comb(num_labels - 1, k)) for k in label])
    likelihood = ways + label * np.log(share) + (num_labels - 1 - label) * np.log1p(-share)
    return -eta / blocks_per_side**2 * likelihood


def energy_of_mask(mask: Tensor, energy: Energy, prior: np.ndarray | Tensor) -> Tensor:
    """Evaluate the energy of given masks.

    Args:
        mask: (B, n, n) with values k / (L - 1).
        energy: The energy of the batch.
        prior: (B, L) or (1, L) of :func:`mixing_prior`.

    Returns:
        (B,) float64.
    """
    share = mask.double()
    prior = torch.as_tensor(prior, dtype=torch.float64, device=mask.device).expand(len(mask), -1)
    labels = torch.round(share * (prior.shape[1] - 1)).long()
    blocks = share * energy.cost_first + (1 - share) * energy.cost_second
    blocks = blocks + prior.gather(1, labels.flatten(1)).view_as(share)
    rows = energy.weight_rows * share.diff(dim=1).square()
    cols = energy.weight_cols * share.diff(dim=2).square()
    return blocks.sum((1, 2)) + rows.sum((1, 2)) + cols.sum((1, 2))
