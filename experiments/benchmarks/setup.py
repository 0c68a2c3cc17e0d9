"""Shared by all measurements: real images, a quickly trained network, interleaved timing, tables."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_sample_images
from torch import Tensor

from experiments.common.versions import gather_versions
from experiments.models import PreActResNet

GRID_SIZES = (2, 4, 8, 16)
Metrics = dict[str, Any]


def photograph_crops(count: int, size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Crop scikit-learn's two photographs, at twice the size and then halved.

    Returns:
        (count, 3, size, size) images in [0, 1] and (count,) classes 0 to 7: photograph and quadrant of the crop.
    """
    rng = np.random.default_rng(seed)
    photographs = [torch.from_numpy(image.copy()).permute(2, 0, 1) / 255 for image in load_sample_images().images]
    crops, classes = [], []
    for index in range(count):
        photograph = photographs[index % len(photographs)]
        height, width = photograph.shape[1:]
        side = min(2 * size, height, width)
        top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        crop = photograph[None, :, top : top + side, left : left + side]
        crops.append(F.interpolate(crop, size=(size, size), mode="bilinear", antialias=True))
        classes.append(4 * (index % len(photographs)) + 2 * (2 * top + side >= height) + (2 * left + side >= width))
    return torch.cat(crops), torch.tensor(classes)


@lru_cache(maxsize=1)
def trained_net(steps: int = 60) -> PreActResNet:
    """Train a narrow PreActResNet on the crops: the saliency of an untrained one is nearly uniform."""
    torch.manual_seed(0)
    net = PreActResNet(num_classes=8, width=16)
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9, nesterov=True, weight_decay=1e-4)
    images, classes = photograph_crops(50 * steps, 32, seed=1)
    for part in zip(images.split(50), classes.split(50), strict=True):
        optimizer.zero_grad()
        F.cross_entropy(net(part[0]), part[1]).backward()
        optimizer.step()
    return net


def time_interleaved(rounds: int, candidates: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Run the candidates in turns, one round unmeasured, and return the median seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(rounds + 1):
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def in_milliseconds(seconds: Mapping[str, float]) -> Metrics:
    """Convert seconds to milliseconds."""
    return {name: 1000 * value for name, value in seconds.items()}


def describe_machine() -> Metrics:
    """Return cores, load and versions."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cores": cores, "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None, **gather_versions()}


def print_table(title: str, rows: Mapping[str, Mapping[str, str]], *, caption: str | None = None) -> None:
    """Print rows by name; the columns are the keys of the first row."""
    table = Table(title=title, caption=caption, box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for heading in next(iter(rows.values())):
        table.add_column(heading, justify="right")
    for name, row in rows.items():
        table.add_row(name, *row.values())
    Console().print(table)
