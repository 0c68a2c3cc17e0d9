"""The loss of pairs of targets, computed with a loss for single targets."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_puzzlemix.targets import PairTargets
from lightning_puzzlemix.validation import describe_value

Loss = Callable[..., Tensor]
# Their mean over class indices is divided by the classes' weights instead of by the number of samples.
_WEIGHTED_FUNCTIONS = (F.cross_entropy, F.nll_loss)
_WEIGHTED_FORWARDS = (nn.CrossEntropyLoss.forward, nn.NLLLoss.forward)


def pair_loss(loss: Loss, logits: Tensor, targets: PairTargets) -> Tensor:
    """Weight a loss of either image of each pair by its share: ``r * loss(y1) + (1 - r) * loss(y2)``, sample by sample.

    The samples are reduced as the loss itself reduces them, so that the scale stays its own: where the ratio is 1 everywhere
    this is the loss of the first targets, whatever its ``weight``, ``reduction``, ``ignore_index`` or ``label_smoothing``.
    A sum stays a sum. A mean over class weights (``weight`` of cross-entropy and negative log-likelihood with class indices,
    also with ``ignore_index``) is divided by the weights mixed in the same way,
    ``sum(r * w(y1) * l(y1) + (1 - r) * w(y2) * l(y2)) / sum(r * w(y1) + (1 - r) * w(y2))``.

    Args:
        loss: Maps (B, classes) logits and targets to a loss: a function, a ``functools.partial`` or a module. One with a
            ``reduction`` (attribute or argument) is also called with ``"none"``; one that returns (B, ...) losses is averaged.
            Any other is called for the batch and, which is slow, sample by sample: exact for a mean and for a sum over
            samples, and for any other reduction where all ratios are the same.
        logits: (B, classes).
        targets: What ``targets="pair"`` hands to ``training_step``.

    Returns:
        A scalar.

    Raises:
        TypeError: If ``targets`` are not such pairs.
    """
    if not hasattr(targets, "ratio"):
        raise TypeError(
            "targets must be PairTargets (first, second, ratio), which training_step gets from a callback with targets='pair', "
            f"got {describe_value(targets)}: for any other targets, as in validation_step, call the loss itself"
        )
    ratio = targets.ratio
    both = [(targets.first, ratio), (targets.second, 1 - ratio)]
    single = _without_reduction(loss)
    if single is not None:
        parts = [single(logits, labels) for labels, _ in both]
        if all(part.ndim for part in parts):
            return _reduced(loss, logits, both, parts)
    whole = [loss(logits, labels) for labels, _ in both]
    if all(part.ndim for part in whole):
        return torch.stack([_weighted(part, share).mean() for part, (_, share) in zip(whole, both, strict=True)]).sum()
    return torch.stack(
        [_opaque(loss, logits, labels, share, part) for (labels, share), part in zip(both, whole, strict=True)]
    ).sum()


def _weighted(losses: Tensor, share: Tensor) -> Tensor:
    """Multiply (B, ...) losses by (B,) shares."""
    return losses * share.to(losses.dtype).view(-1, *[1] * (losses.ndim - 1))


def _without_reduction(loss: Loss) -> Loss | None:
    """Return the same loss with one value a sample, where it has a ``reduction``."""
    if isinstance(loss, nn.Module):
        if not hasattr(loss, "reduction"):
            return None
        single = copy.copy(loss)
        single.reduction = "none"  # type: ignore[assignment]
        return single
    return functools.partial(loss, reduction="none") if "reduction" in _parameters(loss) else None


def _parameters(function: Any) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}


def _reduced(loss: Loss, logits: Tensor, both: list[tuple[Tensor, Tensor]], parts: list[Tensor]) -> Tensor:
    """Reduce the (B, ...) losses of both targets as the loss does."""
    total = torch.stack([_weighted(part, share).sum() for part, (_, share) in zip(parts, both, strict=True)]).sum()
    options = _options(loss)
    if options.get("reduction") == "mean" and _divides_by_weights(loss):
        counts = [_weights(labels, logits, options) * share for labels, share in both]
        return total / torch.stack([count.sum() for count in counts]).sum().to(total.dtype)
    divisors = [
        _divisor(loss(logits, labels).detach(), part.detach()) * share.to(part.dtype).mean()
        for part, (labels, share) in zip(parts, both, strict=True)
    ]
    return total if options.get("reduction") == "sum" else total / torch.stack(divisors).sum().to(total.dtype)


def _divisor(whole: Tensor, losses: Tensor) -> Tensor:
    """Read off what a loss divides the sum of its (B, ...) losses by: samples, elements, or those that count."""
    # Apple's GPUs have no float64.
    dtype = torch.float32 if losses.device.type == "mps" else torch.float64
    elements = torch.full((), float(losses.numel()), dtype=dtype, device=losses.device)
    if whole.ndim:
        return elements
    whole, summed = whole.to(dtype), losses.to(dtype).sum()
    readable = (whole != 0) & (summed != 0)
    divisor = torch.where(readable, summed / torch.where(readable, whole, 1.0), elements)
    # Where only rounding lies between the two, in 16 bits too.
    return torch.where((divisor / elements - 1).abs() < 0.01, elements, divisor)


def _options(loss: Loss) -> dict[str, Any]:
    """Return what a loss was made with: the attributes of a module, the defaults and bound arguments of a function."""
    if isinstance(loss, nn.Module):
        return {name: getattr(loss, name, None) for name in ("reduction", "weight", "ignore_index")}
    return {name: parameter.default for name, parameter in _parameters(loss).items()}


def _divides_by_weights(loss: Loss) -> bool:
    if isinstance(loss, nn.Module):
        return type(loss).forward in _WEIGHTED_FORWARDS
    while isinstance(loss, functools.partial):
        loss = loss.func
    return loss in _WEIGHTED_FUNCTIONS


def _weights(labels: Tensor, logits: Tensor, options: Mapping[str, Any]) -> Tensor:
    """Return the (B,) weights that cross-entropy divides by: 1 for probabilities, 0 for an ignored class."""
    if labels.is_floating_point():
        return logits.new_ones(len(labels))
    counted, weight = labels != options["ignore_index"], options["weight"]
    if weight is None:
        return counted.to(logits.dtype)
    return torch.where(counted, weight[torch.where(counted, labels, 0)], 0)


def _opaque(loss: Loss, logits: Tensor, labels: Tensor, share: Tensor, whole: Tensor) -> Tensor:
    """Weight a loss that returns one number: its own value by the mean share, and what single samples differ by."""
    single = torch.stack([loss(logits[i : i + 1], labels[i : i + 1]) for i in range(len(logits))])
    share = share.to(single.dtype)
    apart = ((share - share.mean()) * single).mean()
    with torch.no_grad():
        # A sum over samples has this part times their number, a mean has it once.
        total, tolerance = single.sum(), 1e-3 * single.abs().sum()
        is_sum = ((whole - total).abs() <= tolerance) & ((whole - single.mean()).abs() > tolerance)
        times = torch.where(is_sum, float(len(single)), 1.0)
    return share.mean() * whole + times * apart
