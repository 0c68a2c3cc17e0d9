"""Finds the frozen weights that a model's forward writes to, such as those of a momentum encoder or an EMA teacher."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

# What the first pass of a model may hold in copies. Weights beyond that count as never written.
_MOST_BYTES = 2**30


class FrozenWeights:
    """Which of a model's frozen weights its forward writes to, by path.

    Each weight is compared before and after one pass, which is the only sure way: a write through ``.data`` leaves no other
    trace. Copying all of them in each pass would cost as much memory as the model.
    """

    def __init__(self) -> None:
        self.written: dict[str, bool] = {}
        self._compared: list[tuple[str, Tensor, Tensor]] = []
        self._bytes_left = _MOST_BYTES

    @classmethod
    def of(cls, model: nn.Module) -> FrozenWeights:
        """Return what earlier passes found out about a model."""
        return _KNOWN.setdefault(model, cls())

    def can_compare(self, path: str, weight: Tensor) -> bool:
        """Tell whether a weight was not compared yet, and its copy fits into memory."""
        return path not in self.written and weight.numel() * weight.element_size() <= self._bytes_left

    def compare(self, path: str, weight: Tensor, before: Tensor | None) -> None:
        """Compare a weight with its values before a pass when :meth:`conclude` runs; ``None``: they could not be copied."""
        if before is None:
            self.written[path] = False
        else:
            self._compared.append((path, weight, before))
            self._bytes_left -= before.numel() * before.element_size()

    def conclude(self) -> None:
        """Compare after a pass. Reads one answer for each weight, once in the life of a model."""
        for path, weight, before in self._compared:
            self.written[path] = not torch.equal(weight.detach(), before)
        self._compared = []


_KNOWN: WeakKeyDictionary[nn.Module, FrozenWeights] = WeakKeyDictionary()
