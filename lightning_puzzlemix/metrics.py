"""Keep metrics of an unmodified module right while its training batches are mixed.

``torchmetrics`` classification metrics want class indices. Given (B, classes) soft targets they raise, or silently return 0.
While a batch is mixed, the metrics that are children of the module get the dominant class of each sample in their place.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
import torchmetrics
from torch import Tensor, nn


class MetricGuard:
    """Wraps ``update`` of a module's metrics for one batch; ``metric(...)`` goes through ``update`` as well."""

    def __init__(self) -> None:
        self._wrapped: list[torchmetrics.Metric] = []
        self._originals: list[Callable[..., Any]] = []
        self.used = False

    def install(self, module: nn.Module, soft: list[Any]) -> None:
        """Let every metric below ``module`` see the dominant classes instead of any of the soft targets.

        Args:
            module: The LightningModule.
            soft: The targets that ``training_step`` gets: (B, classes) tensors, or tuples (first, second, ratio).
        """
        self.remove()
        hard: dict[int, Tensor] = {}

        def swap(value: Any) -> Any:
            index = next((i for i, targets in enumerate(soft) if _is_same(value, targets)), None)
            if index is None:
                return value
            self.used = True
            if index not in hard:
                hard[index] = dominant_classes(soft[index])
            return hard[index]

        for metric in module.modules():
            if isinstance(metric, torchmetrics.Metric):
                self._wrapped.append(metric)
                self._originals.append(metric.update)
                # Past the metric's own __setattr__, which looks at every name; update lies on the instance already.
                metric.__dict__["update"] = _swapping(metric.update, swap)

    def remove(self) -> None:
        """Give every metric its own ``update`` back."""
        for metric, original in zip(self._wrapped, self._originals, strict=True):
            metric.__dict__["update"] = original
        self._wrapped, self._originals = [], []


def _swapping(update: Callable[..., Any], swap: Callable[[Any], Any]) -> Callable[..., Any]:
    @wraps(update)
    def swapped(*args: Any, **kwargs: Any) -> Any:
        return update(*(swap(value) for value in args), **{name: swap(value) for name, value in kwargs.items()})

    return swapped


def _is_same(value: Any, targets: Any) -> bool:
    """Tell whether a metric was given these targets, themselves or as a view such as ``targets.detach()``."""
    if value is targets:
        return True
    if not isinstance(value, Tensor) or not isinstance(targets, Tensor) or value.shape != targets.shape:
        return False
    return value.dtype == targets.dtype and value.device == targets.device and value.data_ptr() == targets.data_ptr()


@torch.no_grad()
def dominant_classes(targets: Any) -> Tensor:
    """Return the (B,) class with the largest share of each sample, of soft targets or of (first, second, ratio)."""
    if isinstance(targets, Tensor):
        return targets.argmax(1)
    first, second, ratio = targets
    if first.is_floating_point():
        share = ratio.to(first.dtype).unsqueeze(1)
        return (share * first + (1 - share) * second).argmax(1)
    return torch.where(ratio >= 0.5, first, second)
