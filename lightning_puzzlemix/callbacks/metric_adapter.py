"""Keep the metrics of an unmodified module correct while its training targets are soft.

Classification metrics of torchmetrics need class indices or labels; soft targets make them raise, or silently return 0. While
the targets are soft, multi-class metrics of the module get each sample's dominant class, binary and multi-label ones the
labels with a share of at least one half. All other metrics get what ``training_step`` passed, unless they cannot take it.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torchmetrics
from pytorch_lightning.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn
from torchmetrics.wrappers.abstract import WrapperMetric

from lightning_puzzlemix.callbacks.method_patch import MethodPatch
from lightning_puzzlemix.callbacks.metric_search import find_metrics
from lightning_puzzlemix.targets import dominant_class, dominant_labels

_CLASSIFICATION = "torchmetrics.classification."
_KINDS = ("Multiclass", "Multilabel", "Binary")


class MetricAdapter:
    """Replaces soft targets in the ``update`` of a module's metrics for one batch; ``metric(...)`` calls ``update``, too.

    Args:
        owner: Name of the callback, for messages.
    """

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._patches: list[MethodPatch] = []
        self.reset()

    def reset(self) -> None:
        """Begin another fit, whose module may have other metrics under the same names."""
        self._accepts_soft: dict[str, bool] = {}
        # Names in the order of their first update.
        self._adapted: dict[str, None] = {}
        self._reported = False

    def install(self, module: nn.Module, soft: Sequence[Any], originals: Sequence[Any]) -> None:
        """Replace the soft targets that ``training_step`` passes to metrics.

        Args:
            module: The LightningModule.
            soft: The targets that ``training_step`` gets: (B, classes) tensors, or tuples (first, second, ratio).
            originals: What each of them was made from, class indices or (B, classes) floats. A metric that is not a
                classification metric gets classes only in place of class indices, and only if it fails on soft targets.
        """
        self.remove()
        targets = _SoftTargets(soft, originals)
        self._patches = [
            MethodPatch(metric, "update", partial(self._update, metric, name, targets))
            for metric, name in find_metrics(module).items()
        ]

    def remove(self) -> None:
        """Restore the ``update`` of every metric; report once per fit what the first batches showed."""
        for patch in self._patches:
            patch.remove()
        self._patches = []
        kept = [name for name, accepts in self._accepts_soft.items() if accepts]
        if self._reported or not (self._adapted or kept):
            return
        self._reported = True
        if self._adapted:
            rank_zero_info(
                f"{self._owner}: metrics on mixed batches are computed against the dominant class: {', '.join(self._adapted)}"
            )
        if kept:
            rank_zero_info(
                f"{self._owner}: metrics that get soft targets in place of class indices, since they accept them: "
                f"{', '.join(kept)}. If one needs classes, its value may be wrong: pass it targets.argmax(1)"
            )

    def _update(
        self,
        metric: torchmetrics.Metric,
        name: str,
        targets: _SoftTargets,
        update: Callable[..., Any],
        /,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        kind = _kind(metric)
        if kind is not None or self._needs_classes(metric, name, targets, args, kwargs):
            hard = targets.hardened(args, kwargs, kind)
            if hard is not None:
                args, kwargs = hard
                self._adapted[name] = None
        return update(*args, **kwargs)

    def _needs_classes(
        self, metric: torchmetrics.Metric, name: str, targets: _SoftTargets, args: Any, kwargs: Any
    ) -> bool:
        """Tell whether a metric of unknown kind needs classes: if it fails on the soft targets made from them."""
        soft = targets.made_from_classes(args, kwargs)
        # The metrics inside a wrapper are adapted themselves.
        if soft is None or isinstance(metric, WrapperMetric):
            return False
        if name not in self._accepts_soft:
            self._accepts_soft[name] = _accepts(metric, args, kwargs, soft)
        return not self._accepts_soft[name]


class _SoftTargets:
    """The soft targets of one batch, and their dominant classes once a metric needs them."""

    def __init__(self, soft: Sequence[Any], originals: Sequence[Any]) -> None:
        self._soft = soft
        self._from_classes = [isinstance(each, Tensor) and not each.is_floating_point() for each in originals]
        self._hard: dict[int, Tensor] = {}

    def _index(self, value: Any) -> int | None:
        return next((i for i, targets in enumerate(self._soft) if _is_same(value, targets)), None)

    def made_from_classes(self, args: Any, kwargs: Any) -> Any | None:
        """Return the soft targets among the arguments that were made from class indices."""
        indices = (self._index(value) for value in (*args, *kwargs.values()))
        return next((self._soft[i] for i in indices if i is not None and self._from_classes[i]), None)

    def hardened(self, args: Any, kwargs: Any, kind: str | None) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Return the arguments with hard targets in place of soft ones; ``None`` if there are none.

        Args:
            args: Arguments of ``update``: predictions, targets.
            kwargs: The same by name.
            kind: "Multiclass", "Multilabel", "Binary"; ``None`` for another metric that needs classes.
        """
        new = tuple(self._harden(value, kind, is_target=position == 1) for position, value in enumerate(args))
        named = {name: self._harden(value, kind, is_target=name == "target") for name, value in kwargs.items()}
        before = [*args, *kwargs.values()]
        changed = any(ours is not theirs for ours, theirs in zip([*new, *named.values()], before, strict=True))
        return (new, named) if changed else None

    def _harden(self, value: Any, kind: str | None, is_target: bool) -> Any:
        index = self._index(value)
        if index is not None:
            if not self._needs_one_class(index, kind):
                return dominant_labels(value)
            if index not in self._hard:
                self._hard[index] = dominant_class(value)
            return self._hard[index]
        # A copy or part of soft targets, or one cast or moved: no classification metric takes other float targets.
        if kind is None or not is_target or not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        if kind == "Multiclass":
            return dominant_class(value) if value.ndim == 2 else value
        return dominant_labels(value)

    def _needs_one_class(self, index: int, kind: str | None) -> bool:
        """Tell whether a metric of this kind needs one class a sample; a binary one may be given two columns."""
        soft = self._soft[index]
        if kind == "Binary":
            return self._from_classes[index] and not (isinstance(soft, Tensor) and soft.shape[1:] != (2,))
        return kind != "Multilabel"


def _kind(metric: torchmetrics.Metric) -> str | None:
    """Return the kind of a classification metric of torchmetrics or of a subclass; ``None`` for another metric.

    A wrapper has the kind of all the metrics in it: some pass copies of targets on, which the inner metrics cannot recognize.
    """
    if isinstance(metric, WrapperMetric):
        inside = [each for each in metric.modules() if isinstance(each, torchmetrics.Metric)]
        kinds = {_kind(each) for each in inside if not isinstance(each, WrapperMetric)}
        return kinds.pop() if len(kinds) == 1 else None
    for each in type(metric).__mro__:
        if each.__module__.startswith(_CLASSIFICATION):
            return next((kind for kind in _KINDS if each.__name__.startswith(kind)), None)
    return None


def _accepts(metric: torchmetrics.Metric, args: Any, kwargs: Any, soft: Any) -> bool:
    """Try soft targets on a copy of a metric; without the last sample if B equals classes, which would hide a mismatch."""
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
    """Tell whether a metric was passed these targets, themselves or as a view such as ``targets.detach()``."""
    if value is targets:
        return True
    if not isinstance(value, Tensor) or not isinstance(targets, Tensor) or value.shape != targets.shape:
        return False
    return value.dtype == targets.dtype and value.device == targets.device and value.data_ptr() == targets.data_ptr()
