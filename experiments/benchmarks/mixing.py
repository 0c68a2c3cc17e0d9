"""Mixing against the authors' formulation: masks alone, the whole step, and its memory."""

from __future__ import annotations

import os
import statistics
import tracemalloc
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jsonargparse.typing import PositiveInt
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from experiments.benchmarks.dense_mixing import host_energy, mix_densely
from experiments.benchmarks.setup import (
    GRID_SIZES,
    Metrics,
    in_milliseconds,
    photograph_crops,
    print_table,
    time_interleaved,
    trained_net,
)
from lightning_puzzlemix import PuzzleMixConfig, puzzle_mix
from lightning_puzzlemix.saliency import gradient_saliency
from lightning_puzzlemix.solvers import solve_masks, solve_masks_gco

CORES = os.cpu_count() or 1


def measure_mixing(rounds: PositiveInt = 11, threads: PositiveInt = CORES) -> Metrics:
    """Mixing against the authors' formulation with gco.

    Args:
        rounds: Measured rounds of each comparison.
        threads: Threads of the solver.
    """
    metrics: Metrics = {"rounds": rounds, "threads": threads, "masks": measure_masks(rounds, threads)}
    _print_by_grid("100 masks, 3 labels, 3x32x32 (median)", metrics["masks"])
    metrics["mixing"] = measure_whole_step(rounds, threads)
    _print_by_grid("Mixing 100 images, 3x32x32, transport on (median)", metrics["mixing"])
    metrics["large"] = measure_large(rounds, threads)
    rows = {name: {"": f"{value:,.1f}"} for name, value in metrics["large"].items()}
    print_table("Mixing 32 images, 3x224x224, n = 16: median in ms, and memory", rows)
    return metrics


@dataclass(frozen=True)
class Batch:
    """A batch to mix: images in [0, 1], their saliency, their partners, and lam of each, evenly spaced over [0, 1]."""

    images: Tensor
    saliency: Tensor
    permutation: Tensor
    lam: Tensor

    @classmethod
    def of(cls, count: int, size: int) -> Batch:
        """Take ``count`` crops of ``size`` x ``size`` pixels."""
        images, classes = photograph_crops(count, size)
        parts = zip(images.split(25), classes.split(25), strict=True)
        saliency = torch.cat([gradient_saliency(trained_net(), *part).saliency for part in parts])
        generator = torch.Generator().manual_seed(0)
        permutation, order = (torch.randperm(count, generator=generator) for _ in range(2))
        return cls(images, saliency, permutation, ((torch.arange(count) + 0.5) / count)[order])

    def mix(self, n: int, config: PuzzleMixConfig) -> None:
        """Mix as a user does."""
        puzzle_mix(
            self.images, self.saliency, permutation=self.permutation, lam=self.lam, blocks_per_side=n, config=config
        )


def measure_masks(rounds: int, threads: int) -> Metrics:
    """Masks alone, 100 of them at 32 px, in ms: the loop over gco against the exact solver."""
    batch, one, many = Batch.of(100, 32), PuzzleMixConfig(threads=1), PuzzleMixConfig(threads=threads)
    lam = batch.lam.numpy()
    metrics: Metrics = {}
    for n in GRID_SIZES:
        energy, _ = host_energy(batch.images, batch.saliency, batch.permutation, n, one)
        candidates = {
            "gco": partial(solve_masks_gco, energy, lam, one),
            "exact_1_thread": partial(solve_masks, energy, lam, one),
            "exact": partial(solve_masks, energy, lam, many),
        }
        seconds = time_interleaved(rounds, candidates)
        metrics[str(n)] = in_milliseconds(seconds) | {"ratio": seconds["gco"] / seconds["exact"]}
    return metrics


def measure_whole_step(rounds: int, threads: int) -> Metrics:
    """The whole mixing step, 100 images at 32 px, in ms: the dense formulation with gco against ``puzzle_mix``."""
    batch, config = Batch.of(100, 32), PuzzleMixConfig(threads=threads)
    metrics: Metrics = {}
    for n in GRID_SIZES:
        dense = partial(mix_densely, batch.images, batch.saliency, batch.permutation, batch.lam, n, config)
        seconds = time_interleaved(rounds, {"dense": dense, "puzzle_mix": partial(batch.mix, n, config)})
        metrics[str(n)] = in_milliseconds(seconds) | {"ratio": seconds["dense"] / seconds["puzzle_mix"]}
    mean = {name: statistics.mean(row[name] for row in metrics.values()) for name in ("dense", "puzzle_mix")}
    return metrics | {"mean": {**mean, "ratio": mean["dense"] / mean["puzzle_mix"]}}


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest tensor that any operation returned."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count what it returns."""
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self.elements = max(self.elements, value.numel())
        return result


def measure_large(rounds: int, threads: int) -> Metrics:
    """The whole mixing step on 32 images at 224 px, n = 16, in ms, and its memory."""
    batch, config = Batch.of(32, 224), PuzzleMixConfig(neighborhood_size=2, threads=threads)
    seconds = time_interleaved(rounds, {"puzzle_mix": partial(batch.mix, 16, config)})
    tracemalloc.start()
    with LargestTensor() as largest:
        batch.mix(16, config)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return in_milliseconds(seconds) | {
        "largest_tensor_elements": largest.elements,
        "batch_elements": batch.images.numel(),
        "dense_plan_elements": 32 * 16**4,
        "peak_host_arrays_mib": peak / 2**20,
    }


def _print_by_grid(title: str, metrics: Metrics) -> None:
    def cells(row: Metrics) -> dict[str, str]:
        return {name: f"{value:.1f}x" if name == "ratio" else f"{value:.2f} ms" for name, value in row.items()}

    print_table(title, {f"n = {n}" if n != "mean" else n: cells(row) for n, row in metrics.items()})
