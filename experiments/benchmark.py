"""Measure the mixing against the authors' formulation, and saliency against a training step.

    python -m experiments.benchmark

Prints tables and writes the figures as JSON. Every ratio is measured side by side: the two sides take turns, round after round,
in one process, and medians are compared. Images are crops of the two photographs that come with scikit-learn, saliency is the
gradient of a narrow PreActResNet that was trained for a moment to tell the crops apart.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from experiments.dense_baseline import mix_densely
from experiments.models.preactresnet import PreActResNet
from lightning_puzzlemix import PuzzleMixConfig, puzzle_mix
from lightning_puzzlemix.blocks import Grid
from lightning_puzzlemix.energy import block_saliency, mask_energy, pixel_cells
from lightning_puzzlemix.gco_solver import solve_masks_gco
from lightning_puzzlemix.mask_solver import HostEnergy, solve_masks
from lightning_puzzlemix.saliency import gradient_saliency

GRID_SIZES = (2, 4, 8, 16)
Figures = dict[str, Any]


def photograph_crops(count: int, size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Cut crops out of scikit-learn's two photographs, each of twice the size and then halved.

    Returns:
        (count, 3, size, size) images in [0, 1] and (count,) classes 0 to 7: which photograph, which quarter of it.
    """
    rng = np.random.default_rng(seed)
    photographs = [torch.from_numpy(image.copy()).permute(2, 0, 1) / 255 for image in load_sample_images().images]
    crops, classes = [], []
    for index in range(count):
        photograph = photographs[index % len(photographs)]
        side = min(2 * size, *photograph.shape[1:])
        top, left = (int(rng.integers(length - side + 1)) for length in photograph.shape[1:])
        crop = photograph[None, :, top : top + side, left : left + side]
        crops.append(F.interpolate(crop, size=(size, size), mode="bilinear", antialias=True))
        middle_row, middle_col = (
            2 * start + side >= length for start, length in zip((top, left), photograph.shape[1:], strict=True)
        )
        classes.append(4 * (index % len(photographs)) + 2 * middle_row + middle_col)
    return torch.cat(crops), torch.tensor(classes)


@lru_cache(maxsize=1)
def trained_net(steps: int = 60) -> PreActResNet:
    """Train a narrow PreActResNet to tell the crops apart: an untrained one looks everywhere alike, which is no test."""
    torch.manual_seed(0)
    net = PreActResNet(num_classes=8, width=16)
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9, nesterov=True, weight_decay=1e-4)
    images, classes = photograph_crops(50 * steps, 32, seed=1)
    for step in range(steps):
        part = slice(50 * step, 50 * step + 50)
        optimizer.zero_grad()
        F.cross_entropy(net(images[part]), classes[part]).backward()
        optimizer.step()
    return net


def take_turns(rounds: int, sides: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Run the sides in turns, once unmeasured, and return the median seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, run in sides.items():
            start = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


class LargestTensor(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that any operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and look at what it returns."""
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(value, Tensor):
                self.elements = max(self.elements, value.numel())
        return result


@dataclass(frozen=True)
class Problem:
    """A batch to mix: images in [0, 1], their saliency, their partners, and one lam each, evenly spread over [0, 1]."""

    images: Tensor
    saliency: Tensor
    permutation: Tensor
    lam: Tensor

    @classmethod
    def of(cls, batch: int, size: int) -> Problem:
        """Cut ``batch`` crops of ``size`` pixels a side."""
        images, classes = photograph_crops(batch, size)
        parts = zip(images.split(25), classes.split(25), strict=True)
        saliency = torch.cat([gradient_saliency(trained_net(), *part).saliency for part in parts])
        generator = torch.Generator().manual_seed(0)
        spread = (torch.arange(batch) + 0.5) / batch
        return cls(
            images,
            saliency,
            torch.randperm(batch, generator=generator),
            spread[torch.randperm(batch, generator=generator)],
        )


def host_energy(batch: Problem, n: int, config: PuzzleMixConfig) -> HostEnergy:
    """Return the energies of a batch on the host."""
    grid = Grid.of(*batch.images.shape[2:], n)
    cells_grid = Grid.of(*batch.images.shape[2:], n, config.neighborhood_size)
    energy = mask_energy(
        block_saliency(batch.saliency, grid),
        pixel_cells(batch.images, cells_grid, config),
        batch.permutation,
        cells_grid,
        beta=config.beta,
        gamma=config.gamma,
    )
    return HostEnergy(*(getattr(energy, name).numpy() for name in HostEnergy.__dataclass_fields__))


def mix(batch: Problem, n: int, config: PuzzleMixConfig) -> None:
    """Mix a batch as a user does."""
    puzzle_mix(
        batch.images, batch.saliency, permutation=batch.permutation, lam=batch.lam, blocks_per_side=n, config=config
    )


def measure_masks(rounds: int, threads: int) -> Figures:
    """Masks alone, 100 of them at 32 px: the loop over gco against the exact solver."""
    batch, lam = Problem.of(100, 32), Problem.of(100, 32).lam.numpy()
    one, many = PuzzleMixConfig(threads=1), PuzzleMixConfig(threads=threads)
    figures: Figures = {}
    for n in GRID_SIZES:
        energy = host_energy(batch, n, one)
        sides = {
            "gco": partial(solve_masks_gco, energy, lam, one),
            "exact_1_thread": partial(solve_masks, energy, lam, one),
            "exact": partial(solve_masks, energy, lam, many),
        }
        seconds = take_turns(rounds, sides)
        figures[str(n)] = in_milliseconds(seconds) | {"ratio": seconds["gco"] / seconds["exact"]}
    return figures


def measure_mixing(rounds: int, threads: int) -> Figures:
    """The whole mixing step, 100 images at 32 px: the dense formulation with gco against ``puzzle_mix``."""
    batch, config = Problem.of(100, 32), PuzzleMixConfig(threads=threads)
    figures: Figures = {}
    for n in GRID_SIZES:
        sides = {"dense": partial(mix_densely, batch.images, batch.saliency, batch.permutation, batch.lam, n, config)}
        seconds = take_turns(rounds, sides | {"puzzle_mix": partial(mix, batch, n, config)})
        figures[str(n)] = in_milliseconds(seconds) | {"ratio": seconds["dense"] / seconds["puzzle_mix"]}
    mean = {name: statistics.mean(figures[str(n)][name] for n in GRID_SIZES) for name in ("dense", "puzzle_mix")}
    figures["mean"] = {**mean, "ratio": mean["dense"] / mean["puzzle_mix"]}
    return figures


def measure_large(rounds: int, threads: int) -> Figures:
    """The whole mixing step on 32 images at 224 px, n = 16, with what memory it takes."""
    batch, config = Problem.of(32, 224), PuzzleMixConfig(neighborhood_size=2, threads=threads)
    seconds = take_turns(rounds, {"puzzle_mix": partial(mix, batch, 16, config)})
    tracemalloc.start()
    with LargestTensor() as largest:
        mix(batch, 16, config)
    host_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return in_milliseconds(seconds) | {
        "largest_tensor_elements": largest.elements,
        "batch_elements": batch.images.numel(),
        "dense_plan_elements": 32 * 16**4,
        "peak_host_arrays_mib": host_bytes / 2**20,
    }


def in_milliseconds(seconds: dict[str, float]) -> Figures:
    """Return the same figures in milliseconds."""
    return {name: 1000 * value for name, value in seconds.items()}


def measure_saliency(rounds: int) -> Figures:
    """The callback's saliency pass against a plain training step of PreActResNet-18, batch 100 at 32 px."""
    torch.manual_seed(0)
    net = PreActResNet(num_classes=100)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=1e-4)
    images, _ = photograph_crops(100, 32)
    targets = torch.arange(100)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(net(images), targets).backward()
        optimizer.step()

    seconds = take_turns(rounds, {"step": step, "saliency": lambda: gradient_saliency(net, images, targets)})
    return {**seconds, "share_of_step": seconds["saliency"] / seconds["step"]}


def machine() -> Figures:
    """Describe where the figures come from."""
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def grid_table(title: str, figures: Figures, columns: dict[str, str]) -> Table:
    """Lay out figures by grid; ``columns`` maps their names to headings."""
    table = Table(title=title)
    table.add_column("n")
    for heading in (*columns.values(), "ratio"):
        table.add_column(heading, justify="right")
    for n, row in figures.items():
        table.add_row(n, *(f"{row[name]:.2f} ms" for name in columns), f"{row['ratio']:.1f}x")
    return table


def measure_and_show(arguments: argparse.Namespace, console: Console) -> Figures:
    """Run the measurements asked for, showing each as soon as it is there."""
    figures: Figures = {"machine": machine(), "rounds": arguments.rounds, "threads": arguments.threads}
    figures["masks"] = measure_masks(arguments.rounds, arguments.threads)
    columns = {
        "gco": "loop over gco",
        "exact_1_thread": "exact, 1 thread",
        "exact": f"exact, {arguments.threads} threads",
    }
    console.print(grid_table("100 masks, 3 labels, 3x32x32 (median)", figures["masks"], columns))
    figures["mixing"] = measure_mixing(arguments.rounds, arguments.threads)
    columns = {"dense": "dense, gco", "puzzle_mix": "puzzle_mix"}
    console.print(grid_table("Mixing 100 images, 3x32x32, transport on (median)", figures["mixing"], columns))
    large = figures["large"] = measure_large(arguments.rounds, arguments.threads)
    console.print(
        f"Mixing 32 images, 3x224x224, n = 16: {large['puzzle_mix']:.1f} ms; largest tensor "
        f"{large['largest_tensor_elements']:,} elements (the batch {large['batch_elements']:,}, a dense plan "
        f"{large['dense_plan_elements']:,}); host arrays at most {large['peak_host_arrays_mib']:.1f} MiB"
    )
    if arguments.saliency_rounds:
        saliency = figures["saliency"] = measure_saliency(arguments.saliency_rounds)
        console.print(
            f"PreActResNet-18, 100 images, 3x32x32: training step {saliency['step']:.2f} s, saliency pass "
            f"{saliency['saliency']:.2f} s = {saliency['share_of_step']:.2f} of the step"
        )
    return figures


def main() -> None:
    """Parse the command line, measure, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11, help="measured rounds of each comparison (default: 11)")
    parser.add_argument(
        "--saliency-rounds",
        type=int,
        default=5,
        help="rounds of saliency against a training step, some 5 s each; 0: none",
    )
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count() or 1, help="threads of the solver (default: cores)"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("experiments/results/benchmark.json"), help="where the figures are written"
    )
    arguments = parser.parse_args()
    if arguments.rounds < 1 or arguments.saliency_rounds < 0 or arguments.threads < 1:
        parser.error("--rounds and --threads must be at least 1, --saliency-rounds at least 0")
    console = Console()
    console.print(", ".join(f"{name}: {value}" for name, value in machine().items()), highlight=False)
    figures = measure_and_show(arguments, console)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(figures, indent=2) + "\n")
    console.print(f"Figures written to {arguments.output}")


if __name__ == "__main__":
    main()
