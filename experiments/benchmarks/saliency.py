"""What each source of saliency costs, and how close its block maps come to the paper's."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from rich.box import SIMPLE
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import default_collate

from experiments.benchmarks.setup import GRID_SIZES, Figures, photograph_crops, time_interleaved, trained_net
from experiments.checkpoints.foreign_config import checked_group
from experiments.checkpoints.safe_loading import safe_load
from experiments.common.plain_yaml import read_plain_yaml
from experiments.data import ImageDataModule, MissingDataError
from experiments.models.preactresnet import PreActResNet
from lightning_puzzlemix import CutMix, ManifoldMix, MixUp, PuzzleMix, PuzzleMixConfig
from lightning_puzzlemix.core.energy import block_saliency
from lightning_puzzlemix.core.grid import Grid
from lightning_puzzlemix.mixers import Mixer
from lightning_puzzlemix.mixers.baselines import blend
from lightning_puzzlemix.saliency.gradient import gradient_saliency
from lightning_puzzlemix.saliency.source import SaliencySource

# What the network is trained on: images and targets, made from the images and classes of the batch.
MakeBatch = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

SOURCES = {
    "gradient": SaliencySource(),
    "gradient, bf16": SaliencySource(precision="bf16-mixed"),
    "feature, stages.0": SaliencySource("feature", "stages.0"),
    "feature, stages.1": SaliencySource("feature", "stages.1"),
    "feature, default": SaliencySource("feature"),
    "spectral": SaliencySource("spectral"),
}


@dataclass(frozen=True)
class Evaluator:
    """A trained network and what it is shown: normalized images (B,C,H,W) and their classes (B,)."""

    net: PreActResNet
    images: Tensor
    classes: Tensor
    config: PuzzleMixConfig
    description: str


def quick_model(images: int = 100) -> Evaluator:
    """The net that was trained for a moment on crops of photographs, and other crops."""
    crops, classes = photograph_crops(images, 32)
    net = deepcopy(trained_net())
    return Evaluator(net, crops, classes, PuzzleMixConfig(), "trained for a moment on crops of two photographs")


def load_subject(checkpoint: Path, images: int = 100) -> Evaluator:
    """A network that `python -m experiments.train` has left, on validation images of its data set, spread evenly.

    Width, depths, channels and classes are read off the weights; the data and the stem's stride come from the run's
    `config.yaml`. Where that or the data is missing, the net looks at crops of photographs, with its own predictions for
    classes.

    Raises:
        ValueError: If the checkpoint holds no PreActResNet under `net`.
    """
    settings = checkpoint.resolve().parent.parent / "config.yaml"
    run = read_plain_yaml(settings) if settings.is_file() else {}
    net = _load_net(checkpoint, stem_stride=int(run.get("model", {}).get("stem_stride", 1)))
    try:
        data: ImageDataModule | None = (
            instantiate(checked_group(settings, "data", run["data"])) if "data" in run else None
        )
        if data is not None:
            data.setup("validate")
    except MissingDataError:
        data = None
    if data is None:
        return _on_photographs(net, checkpoint, images)
    split = data.split("val")
    picked = torch.linspace(0, len(split) - 1, min(images, len(split))).long().tolist()
    shown, classes = default_collate([split[position] for position in picked])
    config = PuzzleMixConfig(mean=data.mean, std=data.std)
    return Evaluator(net, shown, classes, config, f"{_shown(checkpoint)} on its validation images")


def _on_photographs(net: PreActResNet, checkpoint: Path, images: int) -> Evaluator:
    mean, std = (0.5,) * net.stem.in_channels, (0.25,) * net.stem.in_channels
    shown = (photograph_crops(images, 32)[0][:, : len(mean)] - mean[0]) / std[0]
    with torch.no_grad():
        classes = net.eval()(shown).argmax(1)
    config = PuzzleMixConfig(mean=mean, std=std)
    return Evaluator(
        net.train(), shown, classes, config, f"{_shown(checkpoint)} on photographs: its own data is not there"
    )


def _shown(checkpoint: Path) -> Path:
    """The end of the path, from the run's name on: the rest says something of this machine alone."""
    return Path(*checkpoint.parts[-4:])


def _load_net(checkpoint: Path, stem_stride: int) -> PreActResNet:
    state = safe_load(checkpoint)["state_dict"]
    weights = {name.removeprefix("net."): value for name, value in state.items() if name.startswith("net.")}
    if "stem.weight" not in weights or "head.weight" not in weights:
        raise ValueError(
            f"{checkpoint} holds no PreActResNet of `python -m experiments.train` (weights net.stem.*, ...)"
        )
    blocks = {tuple(name.split(".")[1:3]) for name in weights if name.startswith("stages.")}
    net = PreActResNet(
        num_classes=len(weights["head.weight"]),
        in_channels=weights["stem.weight"].shape[1],
        width=len(weights["stem.weight"]),
        stem_stride=stem_stride,
        depths=[sum(stage == str(index) for stage, _ in blocks) for index in range(4)],
    )
    net.load_state_dict(weights)
    return net


def make_batches(net: nn.Module, config: PuzzleMixConfig) -> dict[str, MakeBatch]:
    """Return everything that a training step is measured with, by name; "plain" is what the others are compared with."""
    mixers = {name: partial(PuzzleMix, config, **_arguments(source)) for name, source in SOURCES.items()}
    baselines = {"MixUp": MixUp, "CutMix": CutMix, "CutMix, per sample": partial(CutMix, per_sample=True)}
    steps: dict[str, MakeBatch] = {"plain": lambda images, classes: (images, classes)}
    steps |= {name: _mixing(make(), net) for name, make in (mixers | baselines).items()}
    return steps | {"manifold mixup, stages.0": _mixing_inside(ManifoldMix(["stages.0"]), net)}


def _arguments(source: SaliencySource) -> dict[str, object]:
    return {"saliency": source.source, "saliency_layer": source.layer, "saliency_precision": source.precision}


def _mixing(mixer: Mixer, net: nn.Module) -> MakeBatch:
    """Mix by the same sequence of draws each time, so that every side solves the same problems."""
    turns = count()

    def make(images: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        mixed = mixer(net, images, classes, mixer.draw(images, key=(next(turns),)))
        return mixed.images, mixed.targets

    return make


def _mixing_inside(mixer: ManifoldMix, net: nn.Module) -> MakeBatch:
    """Mix the output of the drawn layer in the forward pass that follows, as ManifoldMixCallback does."""
    turns = count()

    def make(images: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        draw = mixer.draw(images, key=(next(turns),))
        mixed = mixer(net, images, classes, draw)

        def mix_output(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
            handle.remove()
            return blend(output, draw.permutation, mixed.ratio)

        handle = net.get_submodule(draw.layer).register_forward_hook(mix_output)
        return mixed.images, mixed.targets

    return make


def training_steps(
    net: nn.Module, images: Tensor, classes: Tensor, config: PuzzleMixConfig
) -> dict[str, Callable[[], None]]:
    """Return whole training steps by name: make the batch, forward, backward, SGD."""
    # A small rate: many steps on one batch would otherwise lead into numbers that the processor is slow at.
    optimizer = torch.optim.SGD(net.parameters(), 1e-3, momentum=0.9, nesterov=True, weight_decay=1e-4)

    def step(make: MakeBatch) -> None:
        inputs, targets = make(images, classes)
        optimizer.zero_grad()
        F.cross_entropy(net(inputs), targets).backward()
        optimizer.step()

    return {name: partial(step, make) for name, make in make_batches(net, config).items()}


def measure_steps(rounds: int) -> Figures:
    """Whole training steps of PreActResNet-18, batch 100 at 32 px, as ratios to the plain step."""
    torch.manual_seed(0)
    images, _ = photograph_crops(100, 32)
    steps = training_steps(PreActResNet(num_classes=100), images, torch.arange(100), PuzzleMixConfig())
    plain = steps.pop("plain")
    figures: Figures = {}
    for name, step in steps.items():
        # Each beside a plain step of its own: over all of them the machine's pace would drift by more than they differ.
        seconds = time_interleaved(rounds, {"plain": plain, name: step})
        figures[name] = {"seconds": seconds[name], "plain": seconds["plain"], "ratio": seconds[name] / seconds["plain"]}
    return figures


def measure_pass(rounds: int) -> Figures:
    """The gradient pass alone against a plain training step of PreActResNet-18, batch 100 at 32 px."""
    torch.manual_seed(0)
    net, (images, _) = PreActResNet(num_classes=100), photograph_crops(100, 32)
    classes = torch.arange(100)
    plain = training_steps(net, images, classes, PuzzleMixConfig())["plain"]
    seconds = time_interleaved(rounds, {"step": plain, "saliency": lambda: gradient_saliency(net, images, classes)})
    return {**seconds, "share_of_step": seconds["saliency"] / seconds["step"]}


def measure_sources(subject: Evaluator, rounds: int) -> Figures:
    """Cost of every source on this network and correlation of its block maps with those of the gradient."""
    figures = {name: {"correlation": each} for name, each in correlations(subject).items()}
    # A copy: the steps train it, and must not look at what they have just changed.
    net = deepcopy(subject.net).train()
    batch = subject.images, subject.classes
    looks = {f"look {name}": partial(source.compute, net, *batch) for name, source in SOURCES.items()}
    seconds = time_interleaved(rounds, looks | training_steps(net, *batch, subject.config))
    plain = seconds["plain"]
    for name in SOURCES:
        look, step = seconds[f"look {name}"], seconds[name]
        figures[name] |= {"seconds": look, "share_of_step": look / plain, "step_ratio": step / plain}
    return {"subject": subject.description, "images": list(subject.images.shape), "step": plain, "sources": figures}


def correlations(subject: Evaluator) -> dict[str, dict[str, float]]:
    """Return for every source and n the mean over images of Pearson's correlation of its (n, n) map with the gradient's."""
    maps = {
        name: source.compute(subject.net, subject.images, subject.classes).saliency for name, source in SOURCES.items()
    }
    sizes = [n for n in GRID_SIZES if n <= min(subject.images.shape[2:])]
    return {name: {str(n): _correlation(found, maps["gradient"], n) for n in sizes} for name, found in maps.items()}


def _correlation(found: Tensor, reference: Tensor, n: int) -> float:
    grid = Grid.of(*found.shape[1:], n)
    one, two = (block_saliency(maps, grid).flatten(1).double() for maps in (found, reference))
    one, two = one - one.mean(1, keepdim=True), two - two.mean(1, keepdim=True)
    # Maps that are the same everywhere correlate with nothing: NaN, and left out.
    return float(((one * two).sum(1) / (one.norm(dim=1) * two.norm(dim=1))).nanmean())


def sources_table(figures: Figures) -> Table:
    """Lay out what :func:`measure_sources` returns."""
    caption = f"images {figures['images']}, plain step {1000 * figures['step']:.0f} ms; n: correlation of (n, n) maps"
    # Eight columns in the 80 characters of a pipe.
    table = Table(title=f"Saliency: {figures['subject']}", caption=caption, box=SIMPLE, padding=(0, 1, 0, 0))
    sizes = list(figures["sources"]["gradient"]["correlation"])
    table.add_column("source", no_wrap=True)
    for heading in ("cost", "of step", "step", *(f"n={n}" for n in sizes)):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, row in figures["sources"].items():
        costs = f"{1000 * row['seconds']:.0f} ms", f"{row['share_of_step']:.3f}", f"{row['step_ratio']:.2f}x"
        table.add_row(name, *costs, *(f"{row['correlation'][n]:.3f}" for n in sizes))
    return table


def steps_table(figures: Figures) -> Table:
    """Lay out what :func:`measure_steps` returns."""
    table = Table(title="Whole training steps, PreActResNet-18, 100 images, 3x32x32 (median)")
    table.add_column("step", no_wrap=True)
    for heading in ("seconds", "plain step", "ratio"):
        table.add_column(heading, justify="right")
    for name, row in figures.items():
        table.add_row(name, f"{row['seconds']:.3f}", f"{row['plain']:.3f}", f"{row['ratio']:.2f}x")
    return table
