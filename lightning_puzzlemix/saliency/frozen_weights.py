"""Find the frozen weights that a model's forward writes to, such as those of a momentum encoder or an EMA teacher."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

# What the first pass of a model may hold in copies. Beyond that weights are taken for what they are called: frozen.
_MOST_BYTES = 2**30


class FrozenWeights:
    """What is known of a model's frozen weights: which of them its forward writes to.

    Found out once for each by comparing it before and after a pass, which is the only sure way: a write through ``.data``
    leaves no other trace. To copy all of them in each pass would cost as much memory as the model.
    """

    def __init__(self) -> None:
        self._written: dict[str, bool] = {}
        self._looked_at: list[tuple[str, Tensor, Tensor]] = []
        self._bytes_left = _MOST_BYTES

    @classmethod
    def of(cls, model: nn.Module) -> FrozenWeights:
        """Return what earlier passes have found out about a model."""
        if model not in _KNOWN:
            _KNOWN[model] = cls()
        return _KNOWN[model]

    def is_written(self, path: str) -> bool:
        """Tell whether forward is known to write to a weight."""
        return self._written.get(path, False)

    def is_unknown(self, path: str, weight: Tensor) -> bool:
        """Tell whether that is still to be found out, and there is room to do so."""
        return path not in self._written and weight.numel() * weight.element_size() <= self._bytes_left

    def compute(self, path: str, weight: Tensor, before: Tensor | None) -> None:
        """Remember a weight with its values before a pass; ``None``: they could not be copied."""
        if before is None:
            self._written[path] = False
        else:
            self._looked_at.append((path, weight, before))
            self._bytes_left -= before.numel() * before.element_size()

    def conclude(self) -> None:
        """Compare after a pass. Reads one answer for each weight, once in the life of a model."""
        for path, weight, before in self._looked_at:
            self._written[path] = not torch.equal(weight.detach(), before)
        self._looked_at = []


_KNOWN: WeakKeyDictionary[nn.Module, FrozenWeights] = WeakKeyDictionary()
