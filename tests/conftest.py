"""What all tests share: fixed seeds, a tiny model, and the numbers recorded from the authors' code."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import nn

# The same examples in every run: a red build is then red again on the next machine.
settings.register_profile(
    "fixed", deadline=None, derandomize=True, max_examples=25, suppress_health_check=list(HealthCheck)
)
settings.load_profile("fixed")

_GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden"


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


def _path(name: str) -> Path:
    path = _GOLDEN / name
    if not path.exists():
        pytest.skip(f"the recorded file {name} is not part of the package")
    return path


@lru_cache(maxsize=1)
def _load_set(name: str) -> GoldenSet:
    with np.load(_path(f"{name}.npz")) as arrays:
        loaded = {key: arrays[key] for key in arrays}
    cases = json.loads(_path(f"{name}.json").read_text())
    mean, std = (tuple(float(value) for value in loaded[key]) for key in ("mean", "std"))
    return GoldenSet(torch.from_numpy(loaded["images"]), torch.from_numpy(loaded["saliency"]), mean, std, cases, loaded)


@pytest.fixture
def golden() -> Callable[[str], GoldenSet]:
    """Load a recorded set by name; skip where it is absent."""
    return _load_set


@pytest.fixture(scope="session")
def step() -> dict[str, np.ndarray]:
    """The recorded training step."""
    with np.load(_path("step.npz")) as arrays:
        return {key: arrays[key] for key in arrays}


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


@pytest.fixture
def tiny_net() -> nn.Sequential:
    torch.manual_seed(7)
    return make_tiny_net()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  (the code under test must leave the legacy state alone)
