"""Results that outlive a run that is cut off, and times on a device."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


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


def milliseconds(run: Callable[[int], object], rounds: int = 24) -> float:
    """Time calls as the host sees them, the work of the device included: the mean of as many as are queued together."""
    wait()
    for turn in range(4):
        run(turn)
    wait()
    start = time.perf_counter()
    for turn in range(rounds):
        run(turn)
    wait()
    return 1000 * (time.perf_counter() - start) / rounds


def wait() -> None:
    """Let the device finish what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
