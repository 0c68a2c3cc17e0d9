"""Mixing against the authors' formulation: masks alone, and the whole step, its memory and its operations.

The authors' formulation is written from the paper's Algorithm 1: masks come from a loop over gco, the transport from n rounds
over a dense (B, n^2, n^2) cost, and blocks are moved by a matrix product with the dense plan. Pooling and energies are the
plugin's own, so that the ratios measure solver and transport alone.
"""

from __future__ import annotations

import statistics
import tracemalloc
from functools import partial

import torch
import torch.nn.functional as F
from jsonargparse.typing import PositiveInt
from torch import Tensor

from experiments.benchmarks.setup import CORES, GRID_SIZES, Batch, on_host
from experiments.benchmarks.timing import Candidates, Metrics, OperationCounter, print_table, time_interleaved
from lightning_puzzlemix import PuzzleMixConfig
from lightning_puzzlemix.solvers import solve_masks, solve_masks_gco


def measure_mixing(rounds: PositiveInt = 11, threads: PositiveInt = CORES) -> Metrics:
    """Mixing against the authors' formulation with gco.

    Args:
        rounds: Measured rounds of each comparison.
        threads: Threads of the solver.
    """
    batch, one, many = Batch.of(100, 32), PuzzleMixConfig(threads=1), PuzzleMixConfig(threads=threads)
    masks, mixing = {}, {}
    for n in GRID_SIZES:
        problem = on_host(batch.energy(n, one)[0]), batch.lam.numpy()
        gco, exact = partial(solve_masks_gco, *problem, one), partial(solve_masks, *problem)
        solvers = {"gco": gco, "exact_1_thread": partial(exact, one), "exact": partial(exact, many)}
        masks[str(n)] = _compare(rounds, solvers)
        steps = {"dense": partial(mix_densely, batch, n, many), "puzzle_mix": partial(batch.mix, n, many)}
        mixing[str(n)] = _compare(rounds, steps)
    dense, ours = (statistics.mean(row[name] for row in mixing.values()) for name in ("dense", "puzzle_mix"))
    mixing["mean"] = {"dense": dense, "puzzle_mix": ours, "ratio": dense / ours}
    print_table("100 masks by n, 3 labels, 3x32x32: median ms", masks)
    print_table("Mixing 100 images by n, 3x32x32, transport on: median ms", mixing)
    large = measure_large(rounds, threads)
    print_table("Mixing 32 images, 3x224x224, n = 16", {name: {"": value} for name, value in large.items()})
    return {"rounds": rounds, "threads": threads, "masks": masks, "mixing": mixing, "large": large}


def _compare(rounds: int, candidates: Candidates) -> Metrics:
    """Return the milliseconds of each, and those of the first over those of the last as the ratio."""
    times = time_interleaved(rounds, candidates)
    first, *_, last = times.values()
    return times | {"ratio": first / last}


def measure_large(rounds: int, threads: int) -> Metrics:
    """The whole mixing step on 32 images at 224 px, n = 16: its ms, kernel launches and memory."""
    batch, config = Batch.of(32, 224), PuzzleMixConfig(neighborhood_size=2, threads=threads)
    times = time_interleaved(rounds, {"puzzle_mix": partial(batch.mix, 16, config)})
    tracemalloc.start()
    with OperationCounter() as operations:
        batch.mix(16, config)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return times | {
        "kernel_launches": operations.launches,
        "largest_tensor_elements": operations.largest,
        "batch_elements": batch.images.numel(),
        "dense_plan_elements": 32 * 16**4,
        "peak_host_arrays_mib": peak / 2**20,
    }


@torch.no_grad()
def mix_densely(batch: Batch, n: int, config: PuzzleMixConfig) -> tuple[Tensor, Tensor]:
    """Mix square images whose side the grid divides; return (B, C, H, W) images and (B,) ratios."""
    (energy, shares), size = batch.energy(n, config), batch.images.shape[-1]
    labels = solve_masks_gco(on_host(energy), batch.lam.numpy(), config)
    mask = torch.from_numpy(labels).float() / (config.num_labels - 1)

    def moved(images: Tensor, shares: Tensor, mask: Tensor) -> Tensor:
        blocks = F.unfold(images, size // n, stride=size // n)
        return F.fold(blocks @ dense_plan(mask, shares, config.transport_cost), size, size // n, stride=size // n)

    first = moved(batch.images, shares, mask)
    second = moved(batch.images[batch.permutation], shares[batch.permutation], 1 - mask)
    weight = F.interpolate(mask.unsqueeze(1), size=size)
    return weight * first + (1 - weight) * second, mask.mean((1, 2))


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
