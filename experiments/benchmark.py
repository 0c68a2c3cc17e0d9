"""Measure the mixing against the authors' formulation, and saliency against a training step.

    python -m experiments.benchmark
    python -m experiments.benchmark --saliency --checkpoint runs/.../checkpoints/last.ckpt
    python -m experiments.benchmark --steps
    python -m experiments.benchmark --looking

Prints tables and writes the figures as JSON. Every ratio is measured side by side: the two sides take turns, round after round,
in one process, and medians are compared. Images are crops of the two photographs that come with scikit-learn, saliency is the
gradient of a narrow PreActResNet that was trained for a moment to tell the crops apart.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tracemalloc
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from experiments.benchmarks.dense_mixing import mix_densely
from experiments.benchmarks.logging_cost import looking_table, measure_looking
from experiments.benchmarks.saliency import (
    load_subject,
    measure_pass,
    measure_sources,
    measure_steps,
    quick_model,
    sources_table,
    steps_table,
)
from experiments.benchmarks.setup import (
    GRID_SIZES,
    Figures,
    in_milliseconds,
    machine,
    photograph_crops,
    time_interleaved,
    trained_net,
)
from experiments.common.atomic_files import write_json
from experiments.common.console import exit_with_error
from experiments.common.errors import UnwritableError
from lightning_puzzlemix import PuzzleMixConfig, puzzle_mix
from lightning_puzzlemix.core.energy import block_saliency, mask_energy, pixel_cells
from lightning_puzzlemix.core.grid import Grid
from lightning_puzzlemix.saliency.gradient import gradient_saliency
from lightning_puzzlemix.solvers.gco import solve_masks_gco
from lightning_puzzlemix.solvers.host import solve_masks
from lightning_puzzlemix.solvers.problem import Energy

RESULTS = Path("experiments/results")


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


def host_energy(batch: Problem, n: int, config: PuzzleMixConfig) -> Energy[Any]:
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
    return Energy(*(getattr(energy, name).numpy() for name in Energy.__dataclass_fields__))


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
        seconds = time_interleaved(rounds, sides)
        figures[str(n)] = in_milliseconds(seconds) | {"ratio": seconds["gco"] / seconds["exact"]}
    return figures


def measure_mixing(rounds: int, threads: int) -> Figures:
    """The whole mixing step, 100 images at 32 px: the dense formulation with gco against ``puzzle_mix``."""
    batch, config = Problem.of(100, 32), PuzzleMixConfig(threads=threads)
    figures: Figures = {}
    for n in GRID_SIZES:
        sides = {"dense": partial(mix_densely, batch.images, batch.saliency, batch.permutation, batch.lam, n, config)}
        seconds = time_interleaved(rounds, sides | {"puzzle_mix": partial(mix, batch, n, config)})
        figures[str(n)] = in_milliseconds(seconds) | {"ratio": seconds["dense"] / seconds["puzzle_mix"]}
    mean = {name: statistics.mean(figures[str(n)][name] for n in GRID_SIZES) for name in ("dense", "puzzle_mix")}
    figures["mean"] = {**mean, "ratio": mean["dense"] / mean["puzzle_mix"]}
    return figures


def measure_large(rounds: int, threads: int) -> Figures:
    """The whole mixing step on 32 images at 224 px, n = 16, with what memory it takes."""
    batch, config = Problem.of(32, 224), PuzzleMixConfig(neighborhood_size=2, threads=threads)
    seconds = time_interleaved(rounds, {"puzzle_mix": partial(mix, batch, 16, config)})
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


def grid_table(title: str, figures: Figures, columns: dict[str, str]) -> Table:
    """Lay out figures by grid; ``columns`` maps their names to headings."""
    table = Table(title=title)
    table.add_column("n")
    for heading in (*columns.values(), "ratio"):
        table.add_column(heading, justify="right")
    for n, row in figures.items():
        table.add_row(n, *(f"{row[name]:.2f} ms" for name in columns), f"{row['ratio']:.1f}x")
    return table


def measure_mixes(arguments: argparse.Namespace, console: Console) -> Figures:
    """Measure the mixing, showing each comparison as soon as it is there."""
    figures: Figures = {"threads": arguments.threads}
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
        saliency = figures["saliency"] = measure_pass(arguments.saliency_rounds)
        console.print(
            f"PreActResNet-18, 100 images, 3x32x32: training step {saliency['step']:.2f} s, saliency pass "
            f"{saliency['saliency']:.2f} s = {saliency['share_of_step']:.2f} of the step"
        )
    return figures


def measure_and_show(arguments: argparse.Namespace, console: Console) -> Figures:
    """Run the measurements asked for."""
    figures: Figures = {"machine": machine(), "rounds": arguments.rounds}
    if arguments.saliency:
        subject = load_subject(arguments.checkpoint) if arguments.checkpoint else quick_model()
        figures["saliency_sources"] = measure_sources(subject, arguments.rounds)
        console.print(sources_table(figures["saliency_sources"]))
    elif arguments.steps:
        figures["steps"] = measure_steps(arguments.saliency_rounds)
        figures["rounds"] = arguments.saliency_rounds
        console.print(steps_table(figures["steps"]))
    elif arguments.looking:
        figures["looking"] = measure_looking(arguments.saliency_rounds, arguments.threads)
        figures["rounds"] = arguments.saliency_rounds
        console.print(looking_table(figures["looking"]))
    else:
        figures |= measure_mixes(arguments, console)
    return figures


def parse() -> argparse.Namespace:
    """Parse and check the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--saliency", action="store_true", help="instead: cost and likeness of every source of saliency")
    what.add_argument("--steps", action="store_true", help="instead: whole training steps of PreActResNet-18")
    what.add_argument(
        "--looking", action="store_true", help="instead: what the figures and pictures of the mixing cost"
    )
    parser.add_argument(
        "--checkpoint", type=Path, help="with --saliency: a network that `python -m experiments.train` has left"
    )
    parser.add_argument("--rounds", type=int, default=11, help="measured rounds of each comparison (default: 11)")
    parser.add_argument(
        "--saliency-rounds",
        type=int,
        default=5,
        help="rounds of what takes training steps of PreActResNet-18, each of seconds; 0: none (default: 5)",
    )
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count() or 1, help="threads of the solver (default: cores)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        help=f"where the figures are written (default: {RESULTS}/benchmark[_saliency|_steps|_looking].json)",
    )
    arguments = parser.parse_args()
    if (
        arguments.rounds < 1
        or arguments.saliency_rounds < (arguments.steps or arguments.looking)
        or arguments.threads < 1
    ):
        parser.error(
            "--rounds and --threads must be at least 1, --saliency-rounds at least 0, with --steps and --looking 1"
        )
    if arguments.checkpoint is not None and not arguments.saliency:
        parser.error("--checkpoint belongs to --saliency")
    if arguments.checkpoint is not None and not arguments.checkpoint.is_file():
        parser.error(f"--checkpoint {arguments.checkpoint} is not there")
    if arguments.output is None:
        chosen = [name for name in ("saliency", "steps", "looking") if getattr(arguments, name)]
        suffix = "".join(f"_{name}" for name in chosen)
        arguments.output = RESULTS / f"benchmark{suffix}.json"
    return arguments


def main() -> None:
    """Measure, and write the figures."""
    arguments = parse()
    console = Console()
    console.print(", ".join(f"{name}: {value}" for name, value in machine().items()), highlight=False)
    figures = measure_and_show(arguments, console)
    try:
        write_json(arguments.output, figures)
    except UnwritableError as error:
        exit_with_error(f"--output: {error}")
    console.print(f"Figures written to {arguments.output}")


if __name__ == "__main__":
    main()
