"""Cost of each saliency source, and correlation of its block maps with those of the gradient."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jsonargparse.typing import PositiveInt
from torch import Tensor, nn
from torch.utils.data import default_collate
from torchvision.transforms.functional import normalize

from experiments.benchmarks.setup import (
    GRID_SIZES,
    Metrics,
    photograph_crops,
    print_table,
    time_interleaved,
    trained_net,
)
from experiments.benchmarks.steps import SOURCES, training_steps
from experiments.common import UserError
from experiments.data import MissingDataError
from experiments.models import PreActResNet
from experiments.show import load_network
from lightning_puzzlemix import PuzzleMixConfig
from lightning_puzzlemix.core import Grid, block_saliency


@dataclass(frozen=True)
class TrainedModel:
    """A trained network with normalized images (B, C, H, W) and their classes (B,)."""

    net: nn.Module
    images: Tensor
    classes: Tensor
    config: PuzzleMixConfig
    description: str


def quick_model(images: int = 100) -> TrainedModel:
    """Return the narrow network that was quickly trained on crops of photographs, with other crops."""
    net = deepcopy(trained_net())
    return TrainedModel(net, *photograph_crops(images, 32), PuzzleMixConfig(), "quickly trained on photographs")


def load_model(checkpoint: str, images: int = 100) -> TrainedModel:
    """Load the PreActResNet of a run, with evenly spaced validation images of its data set.

    Where the data is missing, the images are crops of photographs, and the classes those that the network predicts.

    Raises:
        UserError: If the checkpoint cannot be loaded or is another network.
    """
    net, data, _ = load_network(checkpoint)
    if not isinstance(net, PreActResNet):
        raise UserError(f"--checkpoint must hold a PreActResNet, whose layers are compared, got {type(net).__name__}")
    # The last parts of the path: the others describe this machine.
    name, config = Path(*Path(checkpoint).parts[-4:]), PuzzleMixConfig(mean=data.mean, std=data.std)
    try:
        data.setup("validate")
    except MissingDataError:
        crops, _ = photograph_crops(images, data.image_size)
        inputs = normalize(crops[:, : data.in_channels], data.mean, data.std)
        with torch.no_grad():
            classes = net(inputs).argmax(1)
        return TrainedModel(net, inputs, classes, config, f"{name} on photographs, as its data is missing")
    split = data.split("val")
    indices = torch.linspace(0, len(split) - 1, min(images, len(split))).long().tolist()
    inputs, classes = default_collate([split[index] for index in indices])
    return TrainedModel(net, inputs, classes, config, f"{name} on its validation images")


def measure_saliency(checkpoint: str | None = None, rounds: PositiveInt = 11) -> Metrics:
    """Cost of every saliency source, and correlation of its block maps with those of the gradient.

    Args:
        checkpoint: Run folder of `python -m experiments.train` or a .ckpt in its checkpoints/, of a PreActResNet; left out: a
            network that is quickly trained on photographs.
        rounds: Measured rounds of each comparison.
    """
    model = load_model(checkpoint) if checkpoint else quick_model()
    metrics: Metrics = {name: {"correlation": each} for name, each in correlations(model).items()}
    # A copy: the steps train it, but the model itself must not change.
    net, batch = deepcopy(model.net).train(), (model.images, model.classes)
    passes = {f"pass {name}": partial(source.compute, net, *batch) for name, source in SOURCES.items()}
    seconds = time_interleaved(rounds, passes | training_steps(net, *batch, model.config))
    plain = seconds["plain"]
    for name, row in metrics.items():
        alone, step = seconds[f"pass {name}"], seconds[name]
        row |= {"seconds": alone, "share_of_step": alone / plain, "step_ratio": step / plain}
    shape = list(model.images.shape)
    caption = f"images {shape}, plain step {1000 * plain:.0f} ms; n: correlation of (n, n) maps"
    print_table(f"Saliency: {model.description}", {name: _cells(row) for name, row in metrics.items()}, caption=caption)
    results = {"model": model.description, "images": shape, "step": plain, "sources": metrics}
    return {"rounds": rounds, "saliency_sources": results}


def _cells(row: Metrics) -> dict[str, str]:
    cost, share, ratio = f"{1000 * row['seconds']:.0f} ms", f"{row['share_of_step']:.3f}", f"{row['step_ratio']:.2f}x"
    correlation = {f"n={n}": f"{value:.3f}" for n, value in row["correlation"].items()}
    return {"cost": cost, "of step": share, "step": ratio, **correlation}


def correlations(model: TrainedModel) -> dict[str, dict[str, float]]:
    """Return for every source and n the mean over images of Pearson's correlation of its (n, n) map with the gradient's."""
    maps = {name: source.compute(model.net, model.images, model.classes).saliency for name, source in SOURCES.items()}
    sizes = [n for n in GRID_SIZES if n <= min(model.images.shape[2:])]
    return {name: {str(n): _correlation(found, maps["gradient"], n) for n in sizes} for name, found in maps.items()}


def _correlation(found: Tensor, reference: Tensor, n: int) -> float:
    grid = Grid.of(*found.shape[1:], n)
    pairs = zip(*(block_saliency(maps, grid).flatten(1).double() for maps in (found, reference)), strict=True)
    # Constant maps have no correlation: NaN, and left out.
    return float(torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in pairs]).nanmean())
