"""Whole training steps, plain and with every way of mixing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count

import torch
import torch.nn.functional as F
from jsonargparse.typing import PositiveInt
from torch import Tensor, nn

from experiments.benchmarks.setup import Metrics, photograph_crops, print_table, time_interleaved
from experiments.models import PreActResNet
from lightning_puzzlemix import CutMix, ManifoldMix, MixUp, PuzzleMix, PuzzleMixConfig
from lightning_puzzlemix.mixers import Mixer, blend
from lightning_puzzlemix.saliency import SaliencySource

# Images and targets to train on, from the images and classes of the batch.
MakeBatch = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

SOURCES = {
    "gradient": SaliencySource(),
    "gradient, bf16": SaliencySource(precision="bf16-mixed"),
    "feature, stages.0": SaliencySource("feature", "stages.0"),
    "feature, stages.1": SaliencySource("feature", "stages.1"),
    "feature, default": SaliencySource("feature"),
    "spectral": SaliencySource("spectral"),
}


def measure_steps(rounds: PositiveInt = 5) -> Metrics:
    """Training steps of PreActResNet-18 and its gradient pass alone, batch 100 at 32 px, as ratios to the plain step.

    Args:
        rounds: Measured rounds of each comparison.
    """
    torch.manual_seed(0)
    net, (images, _), classes = PreActResNet(num_classes=100), photograph_crops(100, 32), torch.arange(100)
    steps = training_steps(net, images, classes, PuzzleMixConfig())
    steps["gradient pass alone"] = lambda: SOURCES["gradient"].compute(net, images, classes)
    plain = steps.pop("plain")
    metrics: Metrics = {}
    for name, step in steps.items():
        # Each beside a plain step of its own: over all of them the machine's speed drifts by more than they differ.
        seconds = time_interleaved(rounds, {"plain": plain, name: step})
        metrics[name] = {"seconds": seconds[name], "plain": seconds["plain"], "ratio": seconds[name] / seconds["plain"]}
    rows = {name: {key: f"{value:.3f}" for key, value in row.items()} for name, row in metrics.items()}
    print_table("Training steps, PreActResNet-18, 100 images, 3x32x32 (median)", rows)
    return {"rounds": rounds, "steps": metrics}


def training_steps(
    net: nn.Module, images: Tensor, classes: Tensor, config: PuzzleMixConfig
) -> dict[str, Callable[[], None]]:
    """Return whole training steps by name: make the batch, forward, backward, SGD; "plain" does not mix."""
    # A small learning rate: many steps on one batch would otherwise lead to denormal numbers, which are slow.
    optimizer = torch.optim.SGD(net.parameters(), 1e-3, momentum=0.9, nesterov=True, weight_decay=1e-4)

    def step(make: MakeBatch) -> None:
        inputs, targets = make(images, classes)
        optimizer.zero_grad()
        F.cross_entropy(net(inputs), targets).backward()
        optimizer.step()

    mixers: dict[str, Mixer] = {
        name: PuzzleMix(
            config, saliency=source.source, saliency_layer=source.layer, saliency_precision=source.precision
        )
        for name, source in SOURCES.items()
    }
    mixers |= {"MixUp": MixUp(), "CutMix": CutMix(), "CutMix, per sample": CutMix(per_sample=True)}
    mixers["manifold mixup, stages.0"] = ManifoldMix(["stages.0"])
    makers: dict[str, MakeBatch] = {"plain": lambda images, classes: (images, classes)}
    makers |= {name: _mixing(mixer, net) for name, mixer in mixers.items()}
    return {name: partial(step, make) for name, make in makers.items()}


def _mixing(mixer: Mixer, net: nn.Module) -> MakeBatch:
    """Mix by the same sequence of draws each time, so that all candidates solve the same problems."""
    turns = count()

    def make(images: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        draw = mixer.draw(images, key=(next(turns),))
        mixed = mixer(net, images, classes, draw)

        def mix_output(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
            handle.remove()
            return blend(output, draw.permutation, mixed.ratio)

        if isinstance(mixer, ManifoldMix):
            handle = net.get_submodule(draw.layer).register_forward_hook(mix_output)
        return mixed.images, mixed.targets

    return make
