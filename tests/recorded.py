"""The numbers recorded from the authors' code, and the net of their training step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

_GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden"
# Small, of free photographs, and so part of the project.
_PHOTOS = Path(__file__).resolve().parent / "data" / "photos.npz"


@dataclass(frozen=True)
class GoldenSet:
    """Recorded inputs and cases of one image size; see the README beside the files."""

    images: torch.Tensor
    saliency: torch.Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    cases: list[dict[str, Any]]
    arrays: Mapping[str, np.ndarray]

    def array(self, case: dict[str, Any], name: str) -> np.ndarray:
        return self.arrays[f"{case['case']}.{name}"]


def path_of(name: str) -> Path:
    path = _GOLDEN / name
    if not path.exists():
        pytest.skip(f"the recorded file {name} is not part of the package")
    return path


@lru_cache(maxsize=1)
def load_set(name: str) -> GoldenSet:
    with np.load(path_of(f"{name}.npz")) as arrays:
        loaded = {key: arrays[key] for key in arrays}
    cases = json.loads(path_of(f"{name}.json").read_text())
    mean, std = (tuple(float(value) for value in loaded[key]) for key in ("mean", "std"))
    return GoldenSet(torch.from_numpy(loaded["images"]), torch.from_numpy(loaded["saliency"]), mean, std, cases, loaded)


def load_photos() -> list[tuple[GoldenSet, dict[str, Any]]]:
    """Load the recording that ships with the tests: each case with the images of its side."""
    with np.load(_PHOTOS) as arrays:
        loaded = {key: arrays[key] for key in arrays}
    mean, std = (tuple(float(value) for value in loaded[key]) for key in ("mean", "std"))
    found = []
    for case in json.loads(_PHOTOS.with_suffix(".json").read_text()):
        pixels = torch.from_numpy(loaded[f"pixels{case['side']}"]).float() / 255
        images = (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
        saliency = torch.from_numpy(loaded[f"saliency{case['side']}"])
        found.append((GoldenSet(images, saliency, mean, std, [case], loaded), {"transport": True, **case}))
    return found


def make_tiny_net() -> nn.Sequential:
    """Build the net of the recorded training step."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )
