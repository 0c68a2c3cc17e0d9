"""Find the logits in what a classifier's forward returned, and refuse to guess."""

from __future__ import annotations

from typing import Any

from torch import Tensor


class NoLogitsError(ValueError):
    """There are no logits, or several tensors that they could be.

    Args:
        found: What the model returned instead.
        advice: What to do, for callers that have all arguments that it names.
    """

    def __init__(self, found: str, advice: str) -> None:
        super().__init__(f"{found}: {advice}")
        self.found = found


def logits_of(output: Any, batch: int, *, targets: Any = None, num_classes: int | None = None) -> Tensor:
    """Find the (B, classes) logits in what a classifier's forward returned.

    Args:
        output: The logits; or an object, namedtuple or dict with them under ``logits``; or a tuple or list with them first.
            If such a tuple holds several (B, K) tensors of different widths, the logits are those as wide as
            ``num_classes``, or as targets with a row for each sample.
        batch: B.
        targets: Those of the batch. A (B,) output is one logit a sample where targets are (B,) floats or classes 0 and 1.
        num_classes: The number of classes, where known.

    Raises:
        NoLogitsError: If there are none, or several that they could be.
    """
    logits = output
    if isinstance(output, dict):
        logits = output.get("logits")
    elif isinstance(getattr(output, "logits", None), Tensor):
        logits = output.logits
    elif isinstance(output, (tuple, list)) and output:
        logits = _first_of(output, batch, _width(targets) if num_classes is None else num_classes)
    if isinstance(logits, Tensor) and logits.shape == (batch,) and logits.is_floating_point() and _is_binary(targets):
        return logits.unsqueeze(1)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != batch or logits.shape[1] < 1:
        shown = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"type {type(output).__name__}"
        raise NoLogitsError(
            f"the model's output must be (B, classes) = ({batch}, classes) logits, or hold them first in a tuple or under "
            f"'logits', got {shown}",
            "let forward(images) return the logits, or pass saliency_loss, a callable (module, images, targets) that returns "
            "the loss",
        )
    return logits


def _first_of(output: tuple[Any, ...] | list[Any], batch: int, width: int | None) -> Any:
    """Return the first entry, or the one of the right width where entries of several could be the logits."""
    candidates = [each for each in output if _could_be_logits(each, batch)]
    widths = {_width(each) for each in candidates}
    if not candidates or (len(widths) == 1 and candidates[0] is output[0]):
        return output[0]
    fitting = [each for each in candidates if _width(each) == width]
    if fitting:
        return fitting[0]
    if len(widths) == 1:
        return output[0]
    shapes = ", ".join(str(tuple(each.shape)) for each in candidates)
    known = "" if width is None else f", and none has {width} columns"
    raise NoLogitsError(
        f"the model returns several outputs that could be its logits, of shapes {shapes}{known}",
        "pass num_classes, which says which of them are the logits, or saliency_loss, a callable (module, images, targets) "
        "that returns the loss, or let forward(images) return the logits alone",
    )


def _could_be_logits(value: Any, batch: int) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim in (1, 2) and len(value) == batch


def _width(value: Any) -> int | None:
    """Return the number of columns of floats, 1 for (B,); ``None`` for class indices, which have none."""
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.ndim not in (1, 2):
        return None
    return value.shape[1] if value.ndim == 2 else 1


def _is_binary(targets: Any) -> bool:
    """Tell whether targets can be those of one logit a sample; values of classes are read only on the CPU."""
    if not isinstance(targets, Tensor):
        return False
    if targets.is_floating_point():
        return targets.ndim == 1 or targets.shape[1:] == (1,)
    return targets.device.type != "cpu" or not targets.numel() or int(targets.max()) <= 1
