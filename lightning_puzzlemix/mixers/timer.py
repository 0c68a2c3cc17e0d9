"""Measures how long saliency and mixing take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class PhaseTimer:
    """Measures named phases of work on a device, without ever making the host wait for it.

    On the CPU a phase is read off the clock. On an accelerator, where kernels run later than they are launched, it lies
    between two events on the device, and its time is known once both have passed.
    """

    def __init__(self) -> None:
        self._totals: dict[str, float] = {}
        self._latest: dict[str, float] = {}
        self._pending: list[tuple[str, Any, Any]] = []

    @contextmanager
    def phase(self, name: str, device: torch.device) -> Iterator[None]:
        """Measure the work of the ``with`` block on ``device`` under ``name``."""
        if device.type == "cpu":
            start = time.perf_counter()
            yield
            self._add(name, time.perf_counter() - start)
            return
        make_event = torch.get_device_module(device).Event
        begin, end = make_event(enable_timing=True), make_event(enable_timing=True)
        begin.record()
        yield
        end.record()
        self._pending.append((name, begin, end))

    def _add(self, name: str, seconds: float) -> None:
        self._totals[name] = self._totals.get(name, 0.0) + seconds
        self._latest[name] = seconds

    def _collect(self, wait: bool) -> None:
        while self._pending:
            name, begin, end = self._pending[0]
            if wait:
                end.synchronize()
            elif not end.query():
                return
            self._add(name, begin.elapsed_time(end) / 1000)
            self._pending.pop(0)

    def latest(self) -> dict[str, float]:
        """Return the seconds of each phase's latest finished run; on an accelerator that may be the batch before."""
        self._collect(wait=False)
        return dict(self._latest)

    def totals(self) -> dict[str, float]:
        """Return the seconds of all runs of each phase since the last reset; waits for the device."""
        self._collect(wait=True)
        return dict(self._totals)

    def reset(self) -> None:
        """Start the totals again from zero."""
        self._collect(wait=True)
        self._totals.clear()

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the events of a device."""
        return self.__dict__ | {"_pending": []}
