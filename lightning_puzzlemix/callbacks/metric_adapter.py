"""Keep metrics of an unmodified module right while its training batches are mixed.

Classification metrics of ``torchmetrics`` want classes. Given soft targets they raise, or silently return 0. While the targets
are soft, those that the module holds, as children or in plain lists and dicts, get what the larger share of each sample has:
multi-class ones its class, binary and multi-label ones its zeros and ones. All other metrics get what ``training_step`` gave
them, unless they cannot take that.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
import torchmetrics
from torch import Tensor, nn
from torchmetrics.wrappers.abstract import WrapperMetric

from lightning_puzzlemix.callbacks.metric_search import find_metrics

_CLASSIFICATION = "torchmetrics.classification."
_KINDS = ("Multiclass", "Multilabel", "Binary")


class MetricAdapter:
    """Wraps ``update`` of a module's metrics for one batch; ``metric(...)`` goes through ``update`` as well.

    Attributes:
        used: Names of the metrics that were given dominant classes, in the order in which that happened.
        kept: Names of those that took soft targets in place of class indices.
    """

    def __init__(self) -> None:
        self._wrapped: list[torchmetrics.Metric] = []
        self._originals: list[Callable[..., Any]] = []
        self._answers: dict[str, bool] = {}
        self.used: list[str] = []
        self.kept: list[str] = []

    def install(self, module: nn.Module, soft: list[Any], originals: Sequence[Any] = ()) -> None:
        """Let the metrics below ``module`` that want classes see the dominant classes instead of any of the soft targets.

        Args:
            module: The LightningModule.
            soft: The targets that ``training_step`` gets: (B, classes) tensors, or tuples (first, second, ratio).
            originals: What each of them was made from, class indices or (B, classes) floats. A metric that is no multi-class
                one is given classes only in place of class indices, and only if it cannot take what stands in for them.
        """
        self.remove()
        targets = _SoftTargets(soft, originals)
        for metric, name in find_metrics(module).items():
            self._wrapped.append(metric)
            self._originals.append(metric.update)
            # Past the metric's own __setattr__, which looks at every name; update lies on the instance already.
            metric.__dict__["update"] = self._swapping(metric, name, metric.update, targets)

    def _swapping(
        self, metric: torchmetrics.Metric, name: str, update: Callable[..., Any], targets: _SoftTargets
    ) -> Callable[..., Any]:
        kind = _kind(metric)

        @wraps(update)
        def swapped(*args: Any, **kwargs: Any) -> Any:
            if kind is not None or self._wants_classes(metric, name, targets, args, kwargs):
                given = targets.hardened(args, kwargs, kind)
                if given is not None:
                    args, kwargs = given
                    if name not in self.used:
                        self.used.append(name)
            return update(*args, **kwargs)

        return swapped

    def _wants_classes(
        self, metric: torchmetrics.Metric, name: str, targets: _SoftTargets, args: Any, kwargs: Any
    ) -> bool:
        """Tell whether a metric of no known kind is made for classes: if it cannot take what stands in for them."""
        soft = targets.standing_in_for_classes(args, kwargs)
        if soft is None or isinstance(metric, WrapperMetric):
            # The metrics inside a wrapper decide for themselves.
            return False
        if name not in self._answers:
            self._answers[name] = not _takes(metric, args, kwargs, soft)
            if not self._answers[name]:
                self.kept.append(name)
        return self._answers[name]

    def remove(self) -> None:
        """Give every metric its own ``update`` back."""
        for metric, original in zip(self._wrapped, self._originals, strict=True):
            metric.__dict__["update"] = original
        self._wrapped, self._originals = [], []

    def forget(self) -> None:
        """Begin another fit: its module may have other metrics under the same names."""
        self._answers.clear()
        self.used.clear()
        self.kept.clear()


class _SoftTargets:
    """The targets of one batch, and the dominant classes of those that are asked for."""

    def __init__(self, soft: Sequence[Any], originals: Sequence[Any]) -> None:
        self._soft = soft
        self._of_classes = [isinstance(each, Tensor) and not each.is_floating_point() for each in originals]
        self._of_classes += [False] * (len(soft) - len(originals))
        self._hard: dict[int, Tensor] = {}

    def _index(self, value: Any) -> int | None:
        return next((i for i, targets in enumerate(self._soft) if _is_same(value, targets)), None)

    def standing_in_for_classes(self, args: Any, kwargs: Any) -> Any | None:
        """Return the soft targets among the arguments that were made from class indices."""
        indices = (self._index(value) for value in (*args, *kwargs.values()))
        return next((self._soft[i] for i in indices if i is not None and self._of_classes[i]), None)

    def _wants_one_class(self, index: int, kind: str | None) -> bool:
        """Tell whether a metric of this kind wants the class with the largest share: two columns are two classes too."""
        soft = self._soft[index]
        if kind == "Binary":
            return self._of_classes[index] and not (isinstance(soft, Tensor) and soft.shape[1:] != (2,))
        return kind != "Multilabel"

    def hardened(self, args: Any, kwargs: Any, kind: str | None) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Return the arguments with hard targets in place of soft ones; ``None`` where there are none.

        Args:
            args: Arguments of ``update``: predictions, targets.
            kwargs: The same by name.
            kind: "Multiclass", "Multilabel", "Binary"; ``None`` for another metric that wants classes.
        """

        def swap(value: Any, is_target: bool) -> Any:
            index = self._index(value)
            if index is not None and self._wants_one_class(index, kind):
                if index not in self._hard:
                    self._hard[index] = dominant_classes(self._soft[index])
                return self._hard[index]
            if index is not None:
                return _dominant_labels(value)
            # Copies and parts of soft targets, on another device or in another dtype: no such metric takes a float target.
            if kind is None or not is_target or not isinstance(value, Tensor) or not value.is_floating_point():
                return value
            if kind == "Multiclass":
                return dominant_classes(value) if value.ndim == 2 else value
            return _dominant_labels(value)

        new = tuple(swap(value, position == 1) for position, value in enumerate(args))
        named = {name: swap(value, name == "target") for name, value in kwargs.items()}
        before = [*args, *kwargs.values()]
        changed = any(ours is not theirs for ours, theirs in zip([*new, *named.values()], before, strict=True))
        return (new, named) if changed else None


def _kind(metric: torchmetrics.Metric) -> str | None:
    """Return which kind of torchmetrics' classification metrics a metric is, or is made of; ``None``: another.

    ``Accuracy(task="multiclass")`` and the like are of these classes too. A wrapper is of the kind of all the metrics in it:
    some hand on copies of targets, in which the metrics inside could not recognize them.
    """
    if isinstance(metric, WrapperMetric):
        inside = [each for each in metric.modules() if isinstance(each, torchmetrics.Metric)]
        kinds = {_kind(each) for each in inside if not isinstance(each, WrapperMetric)}
        return kinds.pop() if len(kinds) == 1 else None
    for each in type(metric).__mro__:
        if each.__module__.startswith(_CLASSIFICATION):
            return next((kind for kind in _KINDS if each.__name__.startswith(kind)), None)
    return None


@torch.no_grad()
def _dominant_labels(targets: Any) -> Tensor:
    """Return the zeros and ones of the image with the larger share, from shares in [0, 1] or from (first, second, ratio)."""
    if isinstance(targets, Tensor):
        return (targets >= 0.5).long()
    first, second, ratio = targets
    return torch.where(ratio.view(-1, *[1] * (first.ndim - 1)) >= 0.5, first, second).long()


def _takes(metric: torchmetrics.Metric, args: Any, kwargs: Any, soft: Any) -> bool:
    """Try soft targets on a copy of a metric; with one sample less where as many samples as classes would hide a mismatch."""
    square = isinstance(soft, Tensor) and soft.shape[0] == soft.shape[1] > 1

    def cut(value: Any) -> Any:
        whole = square and isinstance(value, Tensor) and value.ndim and len(value) == len(soft)
        return value.detach()[:-1] if whole else value

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trial = copy.deepcopy(metric)
        try:
            trial.update(*map(cut, args), **{name: cut(value) for name, value in kwargs.items()})
        except Exception:
            return False
    return True


def _is_same(value: Any, targets: Any) -> bool:
    """Tell whether a metric was given these targets, themselves or as a view such as ``targets.detach()``."""
    if value is targets:
        return True
    if not isinstance(value, Tensor) or not isinstance(targets, Tensor) or value.shape != targets.shape:
        return False
    return value.dtype == targets.dtype and value.device == targets.device and value.data_ptr() == targets.data_ptr()


@torch.no_grad()
def dominant_classes(targets: Any) -> Tensor:
    """Return the (B,) class with the largest share of each sample, of soft targets or of (first, second, ratio).

    One logit has shares of the class 1, (B,) or (B, 1), and gets zeros and ones in their shape.
    """
    if isinstance(targets, Tensor):
        return _dominant_labels(targets) if targets.shape[1:] in ((), (1,)) else targets.argmax(1)
    first, second, ratio = targets
    if first.is_floating_point():
        share = ratio.to(first.dtype).unsqueeze(1)
        return (share * first + (1 - share) * second).argmax(1)
    return torch.where(ratio >= 0.5, first, second)
