"""Targets of tasks other than one label of several: one logit, several labels, regression; checked and mixed in their form."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_puzzlemix.targets import as_probabilities, check_targets, mix_targets

_REGRESSION = (
    "for a regression pass saliency_loss, a callable (module, images, targets) that returns the loss, such as "
    "lambda module, images, targets: F.mse_loss(module(images), targets)"
)


def check_task_targets(targets: Tensor, batch: int, num_classes: int, *, bounded: bool = True) -> None:
    """Ask for (B,) class indices or (B, num_classes) floats; for one logit for (B,) or (B, 1), of integers or floats.

    Values are looked at where that costs no transfer, on the host.

    Args:
        targets: Of a batch.
        batch: B.
        num_classes: Number of the model's outputs.
        bounded: Whether floats must lie in [0, 1]; they need not where the user's own loss makes the saliency.

    Raises:
        TypeError: If ``targets`` is no tensor or of a dtype that is neither.
        ValueError: If shape or values do not fit.
    """
    numeric = isinstance(targets, Tensor) and targets.dtype != torch.bool and not targets.is_complex()
    one_output = numeric and num_classes == 1 and targets.shape in ((batch,), (batch, 1)) and batch > 0
    free = numeric and not bounded and targets.is_floating_point() and targets.shape == (batch, num_classes)
    if not one_output and not free:
        if numeric and bounded and targets.is_floating_point() and targets.shape == (batch, num_classes):
            _check_values(
                targets, "targets must be probabilities in [0, 1]", f"apply a softmax to scores; {_REGRESSION}"
            )
        check_targets(targets, batch, num_classes)
        return
    if not bounded:
        return
    kind = "between 0 and 1" if targets.is_floating_point() else "classes 0 and 1"
    way_out = _REGRESSION if targets.is_floating_point() else f"several classes need one output each; {_REGRESSION}"
    _check_values(targets, f"targets of a model with one output must be {kind}", way_out)


def _check_values(targets: Tensor, wanted: str, way_out: str) -> None:
    if targets.device.type != "cpu":
        return
    least, most = float(targets.min()), float(targets.max())
    # Sums of rounded shares may leave [0, 1] by a few units in the last place.
    slack = 4 * torch.finfo(targets.dtype).eps if targets.is_floating_point() else 0.0
    if not (least >= -slack and most <= 1 + slack):
        raise ValueError(f"{wanted}, got values from {least:g} to {most:g}: {way_out}")


def mix_task_targets(
    targets: Tensor, *, permutation: Tensor, ratio: Tensor, num_classes: int, bounded: bool = True
) -> Tensor:
    """Mix targets as their images were mixed, in their own form.

    Args:
        targets: (B,) class indices or (B, num_classes) floats; for one logit (B,) or (B, 1).
        permutation: (B,) integers, each image's partner.
        ratio: (B,) share of the first image.
        num_classes: Number of the model's outputs.
        bounded: See :func:`check_task_targets`.

    Returns:
        (B, num_classes) floats; for one logit floats in the shape of the targets, (B,) or (B, 1).
    """
    if num_classes > 1 and (bounded or not targets.is_floating_point()):
        return mix_targets(targets, permutation=permutation, ratio=ratio, num_classes=num_classes)
    check_task_targets(targets, len(ratio), num_classes, bounded=bounded)
    values = as_probabilities(targets, num_classes) if targets.is_floating_point() else targets.float()
    share = ratio.to(values.dtype).reshape(-1, *[1] * (values.ndim - 1))
    return share * values + (1 - share) * values[permutation.to(values.device, torch.int64)]
