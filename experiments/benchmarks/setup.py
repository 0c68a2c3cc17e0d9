"""What all measurements share: real images, a net that has learned something, and turns."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_images
from torch import Tensor

from experiments.models.preactresnet import PreActResNet

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


def time_interleaved(rounds: int, sides: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Run the sides in turns, once unmeasured, and return the median seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, run in sides.items():
            start = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def machine() -> Figures:
    """Describe where the figures come from."""
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def in_milliseconds(seconds: dict[str, float]) -> Figures:
    """Return the same figures in milliseconds."""
    return {name: 1000 * value for name, value in seconds.items()}
