"""Note on errors of ``training_step`` that its targets do not have the form in which the DataLoader returned them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_puzzlemix.validation import describe_value

# What code raises that needs class indices and gets something else.
_CAUSED_BY_FORM = (RuntimeError, TypeError, ValueError, IndexError, AttributeError)


def add_targets_note(error: BaseException, owner: str, entries: Sequence[tuple[object, object, object]]) -> None:
    """Add a note to an error that the changed form of the targets may have caused; Python 3.10 has no notes.

    Args:
        error: What ``training_step`` raised.
        owner: Name of the callback that changed the targets.
        entries: The name, the old and the new value of each entry that was replaced.
    """
    if not isinstance(error, _CAUSED_BY_FORM) or isinstance(error, torch.cuda.OutOfMemoryError) or _is_ours(error):
        return
    for name, before, after in entries:
        if isinstance(before, Tensor) and _has_other_form(before, after) and hasattr(error, "add_note"):
            soft = f"soft targets, {describe_value(after)}," if isinstance(after, Tensor) else ""
            given = soft or "PairTargets (first, second, ratio)"
            text = f"{owner} gave training_step {given} for {name!r}, {describe_value(before)} in the batch."
            error.add_note(f"{text} {_advice(after)}")
            return


def _is_ours(error: BaseException) -> bool:
    """Tell whether this package raised an error, whose message then gives advice already."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    name = trace.tb_frame.f_globals.get("__name__", "") if trace is not None else ""
    return str(name).partition(".")[0] == __name__.partition(".")[0]


def _has_other_form(before: Tensor, after: object) -> bool:
    if not isinstance(after, Tensor):
        return True
    return after.ndim != before.ndim or after.is_floating_point() != before.is_floating_point()


def _advice(after: object) -> str:
    if not isinstance(after, Tensor):
        return "Compute the loss by lightning_puzzlemix.pair_loss(loss, logits, targets), or use targets='soft'"
    classes = "targets.argmax(1)" if after.ndim == 2 and after.shape[1] > 1 else "(targets >= 0.5).long()"
    return (
        "A loss that needs classes works with targets='pair' and lightning_puzzlemix.pair_loss(loss, logits, targets); "
        f"a metric that needs them works with {classes}"
    )
