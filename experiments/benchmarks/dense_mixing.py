"""The mixing step in the authors' formulation, the baseline of the benchmark; written from the paper's Algorithm 1.

Masks come from a loop over gco, the transport from n rounds over a dense (B, n^2, n^2) cost, and blocks are moved by a matrix
product with the dense plan. Pooling and energies are the plugin's own, so that the ratios measure solver and transport alone.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_puzzlemix import PuzzleMixConfig
from lightning_puzzlemix.core import Grid, block_saliency, mask_energy, pixel_cells
from lightning_puzzlemix.solvers import Energy, solve_masks_gco


def dense_plan(mask: Tensor, shares: Tensor, transport_cost: float) -> Tensor:
    """Return the (B, n^2, n^2) plan, 1 where block i moves to block j, of one image under (B, n, n) ``mask``."""
    batch, n = mask.shape[:2]
    row, col = torch.arange(n * n) // n, torch.arange(n * n) % n
    squared = (row[:, None] - row) ** 2 + (col[:, None] - col) ** 2
    visible = (mask > 0).float().view(batch, 1, n * n)
    cost = transport_cost * squared / (n - 1) ** 2 - shares.view(batch, n * n, 1) * visible
    won = torch.zeros_like(cost)
    for _ in range(n):
        wanted = torch.zeros_like(cost).scatter_(2, cost.argmin(2, keepdim=True), 1.0)
        cheapest = (wanted * cost).argmin(1, keepdim=True)
        won = torch.zeros_like(cost).scatter_(1, cheapest, 1.0) * wanted
        cost = cost + (wanted - won)
    return won


def move_blocks(images: Tensor, plan: Tensor, n: int) -> Tensor:
    """Move the blocks of (B, C, H, W) images by a product with the dense plan."""
    side = images.shape[-1] // n
    blocks = F.unfold(images, side, stride=side)
    return F.fold(blocks @ plan, images.shape[-1], side, stride=side)


@torch.no_grad()
def mix_densely(
    images: Tensor, saliency: Tensor, permutation: Tensor, lam: Tensor, blocks_per_side: int, config: PuzzleMixConfig
) -> tuple[Tensor, Tensor]:
    """Mix square images whose side the grid divides; return (B, C, H, W) images and (B,) ratios."""
    n, size = blocks_per_side, images.shape[-1]
    energy, shares = host_energy(images, saliency, permutation, n, config)
    mask = torch.from_numpy(solve_masks_gco(energy, lam.numpy(), config)).float() / (config.num_labels - 1)
    first = move_blocks(images, dense_plan(mask, shares, config.transport_cost), n)
    second = move_blocks(images[permutation], dense_plan(1 - mask, shares[permutation], config.transport_cost), n)
    weight = F.interpolate(mask.unsqueeze(1), size=size)
    return weight * first + (1 - weight) * second, mask.mean((1, 2))


def host_energy(
    images: Tensor, saliency: Tensor, permutation: Tensor, n: int, config: PuzzleMixConfig
) -> tuple[Energy[Any], Tensor]:
    """Return the energies on the host, and the (B, n, n) block saliency that they were made from."""
    size = images.shape[2:]
    cells = Grid.of(*size, n, config.neighborhood_size)
    shares, pixels = block_saliency(saliency, Grid.of(*size, n)), pixel_cells(images, cells, config)
    energy = mask_energy(shares, pixels, permutation, cells, beta=config.beta, gamma=config.gamma)
    return Energy(*(getattr(energy, field.name).numpy() for field in fields(Energy))), shares
