"""See what a pass of the mixer did, though it brings back whatever a model records."""

from __future__ import annotations

from queue import SimpleQueue
from typing import Any


class Witness:
    """Keeps values in a queue, which belongs to Python and so is not brought back as a list would be."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self._drained: list[Any] = []

    def add(self, value: Any) -> None:
        """Keep a value; returns nothing, as ``list.append``."""
        self._queue.put(value)

    def seen(self) -> list[Any]:
        """Return all values so far."""
        while not self._queue.empty():
            self._drained.append(self._queue.get())
        return list(self._drained)
