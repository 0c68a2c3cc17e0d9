"""What a CUDA device makes of the mixing, part by part for `gpu_check.sh`: needs the plugin, torchvision and scikit-learn."""

from __future__ import annotations

import argparse
import importlib
import json
import math
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision.models import resnet50

from experiments.benchmarks.setup import GRID_SIZES, Batch, on_host, photograph_crops, training_steps
from experiments.benchmarks.timing import Metrics, peak_device_memory, time_interleaved
from experiments.models import PreActResNet
from lightning_puzzlemix import CutMix, MixUp, PuzzleMix, PuzzleMixConfig
from lightning_puzzlemix.saliency import SaliencySource
from lightning_puzzlemix.solvers import Energy, device, host
from lightning_puzzlemix.solvers.transfer import to_host

# What a pass means, see `summarize`: a mask with n = 16 in a batch of 128, and what mixing adds to a plain training step.
MOST_MASK_MICROSECONDS = 200
MOST_SHARE = {"preactresnet18": 0.03, "resnet50": 0.005}
DIFFERING = "samples that differ from the host's"
Found = Iterator[tuple[str, Any]]


def measure_solver(target: torch.device, *, emulated: bool) -> Found:
    """Compare masks and plans of photographs with the host's, and time them and the mixing, there and on the device."""
    config, places = PuzzleMixConfig(), ("host",) if emulated else ("host", "device")
    for count, side in product((4,) if emulated else (128, 256), (32, 224)):
        # Without a network, whose training would take half of the time.
        batch = Batch.of(count, side, "spectral", target)
        for n in GRID_SIZES:
            case = f"n={n} batch={count} side={side}"
            energy, shares = batch.energy(n, config)
            moving = shares, shares[batch.permutation]
            mask = partial(device.minimize_labels, energy, device.device_prior(0.4, config, n, target))
            plan = partial(device.plan_moves, *moving, mask(), config)
            masks = host.solve_masks(on_host(energy), 0.4, config)
            plans = host.plan_moves(*to_host(moving), masks, config)
            wrong = (mask().cpu().numpy() != masks).any((1, 2)) | (plan().cpu().numpy() != plans).any((0, 2))
            yield f"{DIFFERING}, {case}", int(wrong.sum())
            if not emulated:
                yield f"kernels ms, {case}", time_interleaved(7, {"mask": mask, "plan": plan}, repeats=40)
            ways = {place: partial(batch.mix, n, PuzzleMixConfig(solve_on=place)) for place in places}
            yield f"mixing ms, {case}", time_interleaved(1 if emulated else 5, ways, repeats=4)


def measure_steps(target: torch.device, *, emulated: bool) -> Found:
    """Time whole training steps, plain and with each way of mixing, and measure the peak of the device's memory."""
    torch.backends.cudnn.benchmark = True
    networks: dict[str, tuple[nn.Module, int, int]] = {"preactresnet18": (PreActResNet(10, width=4), 4, 16)}
    if not emulated:
        networks = {"preactresnet18": (PreActResNet(100), 128, 32), "resnet50": (resnet50(), 128, 224)}
    for (name, (net, count, side)), half in product(networks.items(), (False, True)):
        layout = torch.channels_last if half else torch.contiguous_format
        images = ((photograph_crops(count, side)[0] - 0.5) / 0.25).to(target, memory_format=layout)
        ways: dict[str, Any] = {"mixup": MixUp(), "cutmix": CutMix(), "saliency alone": SaliencySource()}
        for place in ("host",) if emulated else ("host", "device"):
            config = PuzzleMixConfig(mean=(0.5,) * 3, std=(0.25,) * 3, solve_on=place)
            ways[f"puzzlemix, {place}"] = PuzzleMix(config)
        context = partial(torch.autocast, target.type, torch.bfloat16, enabled=half)
        classes = torch.arange(count, device=target) % 10
        steps = training_steps(net.to(target, memory_format=layout).train(), images, classes, ways, context)
        times = time_interleaved(1 if emulated else 5, steps, repeats=1 if emulated else 4)
        case = f"{name}, {'bf16 channels_last' if half else 'fp32'}"
        yield f"step ms, {case}", times
        yield f"step over plain, {case}", {way: each / times["plain"] for way, each in times.items()}
        yield f"peak MiB, {case}", {way: peak_device_memory(step) for way, step in steps.items()}


def solve_once(target: torch.device, *, emulated: bool) -> Found:
    """Solve four random problems, for compute-sanitizer."""
    first, second = torch.rand(2, 4, 16, 16, device=target)
    labels = device.solve_masks(Energy(first, second, first[:, 1:], second[:, :, 1:]), 0.4, PuzzleMixConfig())
    plans = device.plan_moves(first, second, labels, PuzzleMixConfig())
    yield "sum of labels and plans", int(labels.sum() + plans.sum())


def summarize(folder: Path) -> list[str]:
    """Return what the results say, line by line; a criterion that is not met or not measured begins with FAIL."""
    found: Metrics = {}
    for file in folder.glob("times_*.json"):
        found |= json.loads(file.read_bytes())

    wrong = [value for name, value in found.items() if name.startswith(DIFFERING)]
    criteria: dict[str, tuple[float, float]] = {DIFFERING: (sum(wrong) if wrong else math.inf, 1)}
    lines = [f"{found.get('device', 'no device')}, torch {found.get('torch', '?')}"]
    if found.get("emulated"):
        lines.append("      nothing is measured without a device")
    else:
        mask = 1000 * found.get("kernels ms, n=16 batch=128 side=32", {}).get("mask", math.inf)
        criteria["microseconds of the masks, n=16 batch=128"] = mask, MOST_MASK_MICROSECONDS
        for net, most in MOST_SHARE.items():
            times = found.get(f"step ms, {net}, fp32", {})
            mixing = times.get("puzzlemix, device", math.inf) - times.get("saliency alone", 0)
            criteria[f"share of the mixing in a plain step of {net}"] = mixing / times.get("plain", 1), most
    for name, (value, limit) in criteria.items():
        lines.append(f"{'pass' if value < limit else 'FAIL'}  {name}: {value:.4g} (under {limit})")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one part, writing the results anew with each of them; return 1 where the summary says FAIL."""
    parser = argparse.ArgumentParser(prog="python -m experiments.gpu_check", description=__doc__)
    parser.add_argument("part", choices=("solver", "steps", "once", "summary"))
    parser.add_argument("path", type=Path, help="the file to write, or of summary the folder to read")
    parser.add_argument("--emulate", action="store_true", help="on the CPU, with small inputs: it measures nothing")
    given = parser.parse_args(arguments)
    if given.part == "summary":
        lines = summarize(given.path)
        sys.stdout.write("\n".join(lines) + "\n")
        return int(any(line.startswith("FAIL") for line in lines))
    if given.emulate:
        # The emulator of the tests takes the device's place.
        sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
        importlib.import_module("emulated").install()
    name = "cpu" if given.emulate else torch.cuda.get_device_name()
    results: Metrics = {"torch": torch.__version__, "emulated": given.emulate, "device": name}
    measure = {"solver": measure_solver, "steps": measure_steps, "once": solve_once}[given.part]
    draft = given.path.with_suffix(".part")
    for name, value in measure(torch.device("cpu" if given.emulate else "cuda"), emulated=given.emulate):
        results[name] = value
        draft.write_text(json.dumps(results, indent=1) + "\n")
        draft.replace(given.path)
        sys.stdout.write(f"{name}: {value}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
