"""What all tests share: fixed seeds, a tiny model, and the numbers recorded from the authors' code."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

# Read when torch is imported: its threads then sleep soon while they wait, instead of keeping others off their cores.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Several workers share the cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from recorded import GoldenSet, load_set, make_tiny_net, path_of
from torch import nn

# The same examples in every run: a red build is then red again on the next machine.
settings.register_profile(
    "fixed", deadline=None, derandomize=True, max_examples=25, suppress_health_check=list(HealthCheck)
)
settings.load_profile("fixed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--result-lines", metavar="FILE", help="write each test's outcome to FILE as it ends, a JSON a line"
    )


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--result-lines")
    if path:
        config.pluginmanager.register(_ResultLines(Path(path)))


class _ResultLines:
    """What is there of a run that is cut off."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            line = {"test": report.nodeid, "outcome": report.outcome, "seconds": round(report.duration, 3)}
            if report.failed:
                line["error"] = str(report.longrepr)[-2000:]
            with self._path.open("a") as file:
                file.write(json.dumps(line) + "\n")


@pytest.fixture
def golden() -> Callable[[str], GoldenSet]:
    """Load a recorded set by name; skip where it is absent."""
    return load_set


@pytest.fixture(scope="session")
def step() -> dict[str, np.ndarray]:
    """The recorded training step."""
    with np.load(path_of("step.npz")) as arrays:
        return {key: arrays[key] for key in arrays}


@pytest.fixture
def tiny_net() -> nn.Sequential:
    torch.manual_seed(7)
    return make_tiny_net()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  (the code under test must leave the legacy state alone)


@pytest.fixture
def offline_wandb(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """W&B in this process, writing files alone."""
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    # A run or session that an earlier test has begun would keep the settings of that test.
    wandb.finish()
    wandb.teardown()
    yield
    wandb.teardown()
