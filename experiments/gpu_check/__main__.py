"""`python -m experiments.gpu_check PART FILE`, one part at a time; see `gpu_check.sh`."""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from pathlib import Path

import torch

from experiments.gpu_check.measuring import Results, wait
from experiments.gpu_check.solver import problems, time_solver
from experiments.gpu_check.training_steps import time_steps
from lightning_puzzlemix import PuzzleMixConfig
from lightning_puzzlemix.solvers import Energy, device

# What a pass means, see `summarize`.
MOST_MASK_MICROSECONDS = 200
MOST_SHARE = {"preactresnet18": 0.03, "resnet50": 0.005}


def summarize(folder: Path) -> list[str]:
    """Return what the results say, line by line; a criterion that is not met begins with FAIL."""
    solver, steps = ({}, {})
    for name, into in (("times_solver.json", solver), ("times_steps.json", steps)):
        if (folder / name).is_file():
            into.update(json.loads((folder / name).read_text()))
    lines = [f"{solver.get('device', 'no device')}, torch {solver.get('torch', '?')}"]

    def criterion(met: bool, text: str) -> None:
        lines.append(f"{'pass' if met else 'FAIL'}  {text}")

    wrong = [value for name, value in solver.items() if name.startswith("masks that differ")]
    criterion(bool(wrong) and not any(wrong), f"masks equal to the host's: {sum(wrong)} samples differ")
    if solver.get("emulated"):
        return [*lines, "      nothing is measured without a device"]
    mask = solver.get("mask us, n=16 batch=128", {}).get("median", math.inf)
    criterion(mask < MOST_MASK_MICROSECONDS, f"mask, n=16, batch 128: {mask:.0f} us (under {MOST_MASK_MICROSECONDS})")
    for net, most in MOST_SHARE.items():
        times = steps.get(f"step ms, {net}, fp32", {})
        share = _share_of_mixing(times, "device")
        criterion(share < most, f"mixing on the device, {net}: {share:.2%} of a plain step (under {most:.1%})")
        lines.append(f"      mixing on the host, {net}: {_share_of_mixing(times, 'host'):.2%} of a plain step")
    return lines


def _share_of_mixing(times: dict[str, float], where: str) -> float:
    """Return what mixing adds to the saliency, as a share of a plain step; infinity where it was not measured."""
    if f"puzzlemix, {where}" not in times:
        return math.inf
    return (times[f"puzzlemix, {where}"] - times["saliency alone"]) / times["plain"]


def main() -> int:
    """Run one part; return 1 where something differs."""
    parser = argparse.ArgumentParser(prog="python -m experiments.gpu_check", description=__doc__)
    parser.add_argument("part", choices=("solver", "steps", "once", "summary"))
    parser.add_argument("path", nargs="?", type=Path, help="the file to write, or of summary the folder to read")
    parser.add_argument("--emulate", action="store_true", help="on the CPU, with small inputs: it measures nothing")
    given = parser.parse_args()
    if given.part == "summary":
        lines = summarize(given.path)
        sys.stdout.write("\n".join(lines) + "\n")
        return int(any(line.startswith("FAIL") for line in lines))
    target = torch.device("cpu" if given.emulate else "cuda")
    if given.emulate:
        _emulate()
    if given.part == "once":
        terms = problems(16, 4, 0, target)
        labels = device.solve_masks(Energy(*terms[:4]), 0.4, PuzzleMixConfig())
        device.plan_moves(terms[4], terms[5], labels, PuzzleMixConfig())
        wait()
        return 0
    results = Results(given.path, emulated=given.emulate)
    if given.part == "solver":
        time_solver(results, target, (4,) if given.emulate else (128, 256))
    else:
        time_steps(results, target, emulated=given.emulate)
    return 0


def _emulate() -> None:
    """Let the emulator of the tests take the device's place."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
    import emulated
    import pytest

    emulated.build(Path(tempfile.mkdtemp())).install(pytest.MonkeyPatch())


if __name__ == "__main__":
    raise SystemExit(main())
