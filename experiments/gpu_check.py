"""What a CUDA device makes of the mixing: times of the solver, of whole training steps, and memory; run by `gpu_check.sh`.

Imports the plugin, the networks of the study and scikit-learn's photographs alone, as the machine may have little else.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_images
from torch import Tensor, nn
from torchvision.models import resnet50

from experiments.models import PreActResNet
from lightning_puzzlemix import CutMix, MixUp, PuzzleMix, PuzzleMixConfig, puzzle_mix
from lightning_puzzlemix.core import Grid, block_saliency, mask_energy, pixel_cells
from lightning_puzzlemix.solvers import Energy, device, host

GRID_SIZES = (2, 4, 8, 16)
# What a pass means, see `summarize`.
MOST_MASK_MICROSECONDS = 200
MOST_SHARE = {"preactresnet18": 0.03, "resnet50": 0.005}


class Results:
    """A JSON file that is written anew with each result, so that a run that is cut off leaves what it has."""

    def __init__(self, path: Path, *, emulated: bool) -> None:
        self._path = path
        self._values: dict[str, Any] = {"torch": torch.__version__, "emulated": emulated}
        self._values["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"

    def add(self, name: str, value: Any) -> None:
        """Keep and print a result."""
        self._values[name] = value
        self._path.write_text(json.dumps(self._values, indent=1) + "\n")
        sys.stdout.write(f"{name}: {value}\n")
        sys.stdout.flush()


def photographs(batch: int, side: int, seed: int) -> tuple[Tensor, Tensor]:
    """Crop scikit-learn's photographs: (B, 3, side, side) in [0, 1], and the local contrast as (B, side, side) saliency."""
    generator = torch.Generator().manual_seed(seed)
    whole = [torch.from_numpy(image.copy()).permute(2, 0, 1) / 255 for image in load_sample_images().images]
    crops = []
    for index in range(batch):
        image = whole[index % len(whole)]
        zoom = min(2 * side, *image.shape[1:])
        top, left = (int(torch.randint(edge - zoom + 1, (), generator=generator)) for edge in image.shape[1:])
        crops.append(
            F.interpolate(image[None, :, top : top + zoom, left : left + zoom], size=(side, side), mode="area")
        )
    images = torch.cat(crops)
    blurred = F.avg_pool2d(images, 5, stride=1, padding=2, count_include_pad=False)
    return images, (images - blurred).square().mean(1).sqrt()


def problems(n: int, batch: int, seed: int, target: torch.device) -> list[Tensor]:
    """Return the four terms of the energies of photographs, and the shares of both images."""
    images, saliency = (each.to(target) for each in photographs(batch, 32, seed))
    config, partner = PuzzleMixConfig(), torch.arange(batch, device=target).roll(1)
    cells = Grid.of(32, 32, n, config.neighborhood_size)
    shares = block_saliency(saliency, Grid.of(32, 32, n))
    energy = mask_energy(
        shares, pixel_cells(images, cells, config), partner, cells, beta=config.beta, gamma=config.gamma
    )
    return [*vars(energy).values(), shares, shares[partner]]


def microseconds(run: Callable[[int], object], rounds: int = 40) -> dict[str, float]:
    """Time a call by events of the device, behind a kernel that sleeps, so that launching it is not counted."""
    if not torch.cuda.is_available():
        run(0)
        return {}
    times = []
    for turn in range(rounds + 8):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda._sleep(2_000_000)
        begin.record()
        run(turn)
        end.record()
        end.synchronize()
        times.append(1000 * begin.elapsed_time(end))
    return {"median": statistics.median(times[8:]), "most": max(times[8:])}


def time_kernels(results: Results, target: torch.device, n: int, batch: int) -> None:
    """Compare the masks of photographs with the host's, and time masks and plans."""
    config, name = PuzzleMixConfig(), f"n={n} batch={batch}"
    pool = [problems(n, batch, seed, target) for seed in range(4)]
    prior = device.device_prior(0.4, config, n, target)
    labels = [device.minimize_labels(Energy(*each[:4]), prior) for each in pool]
    wrong = 0
    for each, found in zip(pool, labels, strict=True):
        terms = Energy(*(term.cpu().contiguous().numpy() for term in each[:4]))
        wrong += int((host.solve_masks(terms, 0.4, config) != found.cpu().numpy()).any((1, 2)).sum())
    results.add(f"masks that differ from the host's, {name}", wrong)
    if target.type == "cuda":
        results.add(
            f"mask us, {name}", microseconds(lambda turn: device.minimize_labels(Energy(*pool[turn % 4][:4]), prior))
        )
        results.add(
            f"plan us, {name}",
            microseconds(lambda turn: device.plan_moves(*pool[turn % 4][4:], labels[turn % 4], config)),
        )


def time_mixing(results: Results, target: torch.device, solve_on: str, side: int, batch: int) -> None:
    """Time `puzzle_mix`, the mean over the grid sizes."""
    images, saliency = (each.to(target) for each in photographs(batch, side, 9))
    permutation, config = torch.randperm(batch, device=target), PuzzleMixConfig(solve_on=solve_on)

    def mix(turn: int) -> None:
        n = GRID_SIZES[turn % 4]
        puzzle_mix(images, saliency, permutation=permutation, lam=0.4, blocks_per_side=n, config=config)

    results.add(f"mixing ms, {solve_on}, side={side} batch={batch}", milliseconds(mix))


def time_solver(results: Results, target: torch.device, batches: Sequence[int]) -> None:
    """Time masks, plans and the mixing of a batch, on the device and on the host."""
    for batch in batches:
        for n in GRID_SIZES:
            time_kernels(results, target, n, batch)
        for side in (32, 224):
            for solve_on in ("host", "device") if target.type == "cuda" else ("host",):
                time_mixing(results, target, solve_on, side, batch)


def milliseconds(run: Callable[[int], object], rounds: int = 24) -> float:
    """Time calls as the host sees them, the work of the device included: the mean of as many as are queued together."""
    _wait()
    for turn in range(4):
        run(turn)
    _wait()
    start = time.perf_counter()
    for turn in range(rounds):
        run(turn)
    _wait()
    return 1000 * (time.perf_counter() - start) / rounds


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def networks(emulated: bool) -> dict[str, tuple[nn.Module, int, int, int]]:
    """Return network, side of the images, batch and classes by name."""
    if emulated:
        return {"preactresnet18": (PreActResNet(num_classes=10, width=4), 16, 4, 10)}
    return {
        "preactresnet18": (PreActResNet(num_classes=100), 32, 128, 100),
        "resnet50": (resnet50(num_classes=1000), 224, 128, 1000),
    }


def time_steps(results: Results, target: torch.device, *, emulated: bool) -> None:
    """Time whole training steps, plain and with each way of mixing, and the peak of the device's memory."""
    torch.backends.cudnn.benchmark = True
    for name, (net, side, batch, classes) in networks(emulated).items():
        for half in (False, True):
            net = net.to(target, memory_format=torch.channels_last if half else torch.contiguous_format).train()
            images, _ = photographs(batch, side, 5)
            images = images.to(target, memory_format=torch.channels_last if half else torch.contiguous_format)
            targets = torch.randint(classes, (batch,), device=target)
            normal = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
            ways: dict[str, Any] = {
                "plain": None,
                "mixup": MixUp(num_classes=classes),
                "cutmix": CutMix(num_classes=classes),
                "puzzlemix, host": PuzzleMix(PuzzleMixConfig(**normal, solve_on="host")),
            }
            if target.type == "cuda":
                ways["puzzlemix, device"] = PuzzleMix(PuzzleMixConfig(**normal, solve_on="device"))
            ways["saliency alone"] = ways["puzzlemix, host"].source
            times, memory = {}, {}
            for way, mixer in ways.items():
                step = training_step(net, (images - 0.5) / 0.25, targets, mixer, half=half)
                if target.type == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                times[way] = milliseconds(step, 2 if emulated else 20)
                memory[way] = torch.cuda.max_memory_allocated() / 2**20 if target.type == "cuda" else 0
            precision = "bf16 channels_last" if half else "fp32"
            results.add(f"step ms, {name}, {precision}", times)
            results.add(
                f"step over plain, {name}, {precision}", {way: each / times["plain"] for way, each in times.items()}
            )
            results.add(f"peak MiB, {name}, {precision}", memory)


def training_step(net: nn.Module, images: Tensor, targets: Tensor, mixer: Any, *, half: bool) -> Callable[[int], None]:
    """Return one training step with a mixer, with the saliency alone, or plain."""
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9, nesterov=True)

    def context() -> Any:
        return torch.autocast(images.device.type, torch.bfloat16) if half else nullcontext()

    def step(turn: int) -> None:
        inputs, wanted = images, targets
        if hasattr(mixer, "compute"):
            mixer.compute(net, images, targets, forward_context=context)
        elif mixer is not None:
            mixed = mixer(net, images, targets, mixer.draw(images, key=(turn,)), forward_context=context)
            inputs, wanted = mixed.images, mixed.targets
        with context():
            loss = F.cross_entropy(net(inputs), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


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
    mask = solver.get("mask us, n=16 batch=128", {}).get("median")
    if mask is not None:
        criterion(
            mask < MOST_MASK_MICROSECONDS, f"mask, n=16, batch 128: {mask:.0f} us (under {MOST_MASK_MICROSECONDS})"
        )
    for net, most in MOST_SHARE.items():
        times = steps.get(f"step ms, {net}, fp32", {})
        if "puzzlemix, device" in times:
            share = (times["puzzlemix, device"] - times["saliency alone"]) / times["plain"]
            criterion(share < most, f"mixing on the device, {net}: {share:.2%} of a plain step (under {most:.1%})")
            share = (times["puzzlemix, host"] - times["saliency alone"]) / times["plain"]
            lines.append(f"      mixing on the host, {net}: {share:.2%} of a plain step")
    return lines


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
        _wait()
        return 0
    results = Results(given.path, emulated=given.emulate)
    if given.part == "solver":
        time_solver(results, target, (4,) if given.emulate else (128, 256))
    else:
        time_steps(results, target, emulated=given.emulate)
    return 0


def _emulate() -> None:
    """Let the emulator of the tests take the device's place."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    import emulated
    import pytest

    emulated.build(Path(tempfile.mkdtemp())).install(pytest.MonkeyPatch())


if __name__ == "__main__":
    raise SystemExit(main())
