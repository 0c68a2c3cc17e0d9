"""Targets of every task: checked, mixed as their images were, paired, and reduced to the dominant class.

Tasks differ in the form of their targets: (B,) class indices; (B, classes) floats, one label or several a row; for a model
with one logit (B,) or (B, 1), 0 and 1 or floats; for a regression floats of any value.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_puzzlemix.validation import check_permutation

_REGRESSION = (
    "for a regression pass saliency_loss, a callable (module, images, targets) that returns the loss, such as "
    "lambda module, images, targets: F.mse_loss(module(images), targets)"
)


class PairTargets(NamedTuple):
    """Targets of mixed images as the pair that they were mixed from, for losses that need classes.

    Attributes:
        first: (B,) classes or (B, classes) probabilities of the first images.
        second: The same of their partners.
        ratio: (B,) share of the first image in [0, 1].
    """

    first: Tensor
    second: Tensor
    ratio: Tensor


def check_targets(targets: Tensor, batch: int, num_classes: int) -> None:
    """Check that targets are (B,) class indices or (B, num_classes) probabilities.

    Values are checked only on the CPU, where it costs no transfer; on an accelerator the loss refuses an index out of range.

    Raises:
        TypeError: If ``targets`` is not a tensor, or neither of integers nor of floats.
        ValueError: If shape or values do not fit.
    """
    if not isinstance(targets, Tensor):
        raise TypeError(f"targets must be a tensor of class indices or probabilities, got {type(targets).__name__}")
    if targets.dtype == torch.bool or targets.is_complex():
        raise TypeError(
            f"targets must be integers or floats, got {targets.dtype}: convert multi-hot masks with .float()"
        )
    classes = not targets.is_floating_point()
    if targets.shape != ((batch,) if classes else (batch, num_classes)):
        kind = "class indices" if classes else "probabilities"
        advice = target_advice(targets, batch)
        raise ValueError(
            f"targets must be ({batch},) integer class indices or ({batch}, {num_classes}) float probabilities for a model "
            f"with {num_classes} classes, got {kind} of dtype {targets.dtype} with shape {tuple(targets.shape)}"
            f"{f': {advice}' if advice else ''}"
        )
    if batch < 1:
        raise ValueError(f"targets must hold at least one sample, got shape {tuple(targets.shape)}")
    if not classes:
        scale = "scale them to [0, 1], also for a regression"
        softmax = "apply a softmax to logits, or scale the targets of a regression to [0, 1]"
        _check_range(targets, "targets must be probabilities in [0, 1]", scale if num_classes == 1 else softmax)
    elif targets.device.type == "cpu" and not (int(targets.min()) >= 0 and int(targets.max()) < num_classes):
        raise ValueError(
            f"targets must be classes in [0, {num_classes - 1}], got {int(targets.min())} to {int(targets.max())}: mixing has "
            "no ignore_index, and a model needs one output for each class (where its outputs are not classes, as those of an "
            "ordinal head, pass num_classes and a saliency_loss)"
        )


def check_task_targets(targets: Tensor, batch: int, num_classes: int, *, bounded: bool = True) -> None:
    """Check (B,) class indices or (B, num_classes) floats; for one logit (B,) or (B, 1), of integers or floats.

    Args:
        targets: Of a batch; values are checked only on the CPU, where it costs no transfer.
        batch: B.
        num_classes: Number of the model's outputs.
        bounded: Whether floats must lie in [0, 1]; not where the user's own loss makes the saliency.

    Raises:
        TypeError: If ``targets`` is not a tensor, or neither of integers nor of floats.
        ValueError: If shape or values do not fit.
    """
    numeric = isinstance(targets, Tensor) and targets.dtype != torch.bool and not targets.is_complex()
    floats = numeric and targets.is_floating_point()
    columns = floats and targets.shape == (batch, num_classes)
    if numeric and num_classes == 1 and targets.shape in ((batch,), (batch, 1)) and batch > 0:
        if bounded:
            way_out = _REGRESSION if floats else f"several classes need one output each; {_REGRESSION}"
            kind = "between 0 and 1" if floats else "classes 0 and 1"
            _check_range(targets, f"targets of a model with one output must be {kind}", way_out)
    elif not columns:
        check_targets(targets, batch, num_classes)
    elif bounded:
        _check_range(targets, "targets must be probabilities in [0, 1]", f"apply a softmax to logits; {_REGRESSION}")


def _check_range(values: Tensor, required: str, way_out: str) -> None:
    """Raise a ``ValueError`` unless values on the CPU lie in [0, 1]."""
    if values.device.type != "cpu":
        return
    least, most = float(values.min()), float(values.max())
    # Sums of rounded shares may leave [0, 1] by a few units in the last place.
    slack = 4 * torch.finfo(values.dtype).eps if values.is_floating_point() else 0.0
    if not (least >= -slack and most <= 1 + slack):
        raise ValueError(f"{required}, got values from {least:g} to {most:g}: {way_out}")


def mix_targets(targets: Tensor, *, permutation: Tensor, ratio: Tensor, num_classes: int) -> Tensor:
    """Mix targets as their images were mixed: ``ratio * y + (1 - ratio) * y[permutation]`` (method, step 7).

    Args:
        targets: (B,) class indices, or (B, num_classes) probabilities.
        permutation: (B,) integers in [0, B), each image's partner.
        ratio: (B,) share of the first image in [0, 1].
        num_classes: Number of classes, at least 1.

    Returns:
        (B, num_classes) floats, a new tensor.

    Raises:
        TypeError: If an argument has the wrong type or dtype.
        ValueError: If a shape or value does not fit.
    """
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1:
        raise ValueError(f"num_classes must be an integer of at least 1, got {num_classes!r}")
    batch = len(targets) if isinstance(targets, Tensor) and targets.ndim else 0
    check_targets(targets, batch, num_classes)
    check_permutation(permutation, batch)
    if not isinstance(ratio, Tensor) or not ratio.is_floating_point() or ratio.shape != (batch,):
        shown = f"{ratio.dtype} {tuple(ratio.shape)}" if isinstance(ratio, Tensor) else repr(ratio)
        raise ValueError(f"ratio must be a floating point tensor of shape ({batch},), got {shown}")
    slack = 4 * torch.finfo(ratio.dtype).eps
    if ratio.device.type == "cpu" and not bool(((ratio >= -slack) & (ratio <= 1 + slack)).all()):
        raise ValueError(f"ratio must lie in [0, 1], got {ratio.min().tolist():g} to {ratio.max().tolist():g}")
    if not targets.is_floating_point():
        targets = F.one_hot(targets.long(), num_classes).float()
    return blend_targets(targets, permutation=permutation, ratio=ratio, num_classes=num_classes)


def mix_task_targets(
    targets: Tensor, *, permutation: Tensor, ratio: Tensor, num_classes: int, bounded: bool = True
) -> Tensor:
    """Mix targets of any task as their images were mixed; arguments and errors as of :func:`check_task_targets`.

    Returns:
        (B, num_classes) floats; for one logit floats in the shape of the targets, (B,) or (B, 1).
    """
    if num_classes > 1 and (bounded or not targets.is_floating_point()):
        return mix_targets(targets, permutation=permutation, ratio=ratio, num_classes=num_classes)
    check_task_targets(targets, len(ratio), num_classes, bounded=bounded)
    return blend_targets(targets, permutation=permutation, ratio=ratio, num_classes=num_classes)


def blend_targets(targets: Tensor, *, permutation: Tensor, ratio: Tensor, num_classes: int) -> Tensor:
    """Do what :func:`mix_task_targets` does, for arguments that have been checked."""
    if targets.is_floating_point():
        first = targets.to(torch.promote_types(targets.dtype, torch.float32))
    else:
        first = F.one_hot(targets.long(), num_classes).float() if num_classes > 1 else targets.float()
    share = ratio.to(first.dtype).view(-1, *[1] * (first.ndim - 1))
    return share * first + (1 - share) * first[permutation.to(first.device, torch.int64)]


def pair_targets(targets: Tensor, *, permutation: Tensor, ratio: Tensor) -> PairTargets:
    """Pair (B,) classes or (B, classes) probabilities with those of their partners."""
    return PairTargets(targets, targets[permutation.to(targets.device, torch.int64)], ratio)


@torch.no_grad()
def dominant_class(targets: Tensor | PairTargets) -> Tensor:
    """Return the (B,) class with the largest share of each sample, of (B,) classes, (B, classes) shares or pairs.

    One logit has shares of class 1, (B,) or (B, 1) floats, and gets zeros and ones in their shape.
    """
    if isinstance(targets, Tensor):
        if targets.ndim == 1 and not targets.is_floating_point():
            return targets
        return dominant_labels(targets) if targets.shape[1:] in ((), (1,)) else targets.argmax(1)
    first, second, ratio = targets
    if first.is_floating_point():
        share = ratio.to(first.dtype).unsqueeze(1)
        return (share * first + (1 - share) * second).argmax(1)
    return torch.where(ratio >= 0.5, first, second)


@torch.no_grad()
def dominant_labels(targets: Tensor | PairTargets) -> Tensor:
    """Return the zeros and ones of the image with the larger share, of shares in [0, 1] of any shape, or of pairs."""
    if isinstance(targets, Tensor):
        return (targets >= 0.5).long()
    first, second, ratio = targets
    return torch.where(ratio.view(-1, *[1] * (first.ndim - 1)) >= 0.5, first, second).long()


def is_targets(value: Any, batch: int) -> bool:
    """Tell whether a value can be targets of a batch: (B,) integers or (B, classes) floats."""
    if not isinstance(value, Tensor) or value.ndim not in (1, 2) or len(value) != batch or value.dtype == torch.bool:
        return False
    return not value.is_complex() and value.is_floating_point() == (value.ndim == 2)


def target_advice(value: Any, batch: int) -> str | None:
    """Describe how to turn an entry that is almost targets into them; ``None`` where that is impossible or unnecessary."""
    if not isinstance(value, Tensor) or value.ndim not in (1, 2) or len(value) != batch or is_targets(value, batch):
        return None
    if value.dtype == torch.bool and value.ndim == 1:
        return "pass .long() for two classes, or .float().unsqueeze(1) for one logit"
    if value.ndim == 1:
        return "for classes pass .long(); for one logit or a regression name them, or pass (B, 1) floats"
    if value.shape[1] == 1 and value.dtype != torch.bool:
        return "a column of classes becomes (B,) classes with .squeeze(1)"
    return "one-hot or multi-hot rows become probabilities with .float()"
