"""Say in a traceback out of ``training_step`` that its targets are not in the form that the DataLoader gave them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_puzzlemix.validation import describe_value

# What code that wants class indices raises when it gets something else.
_OF_FORM = (RuntimeError, TypeError, ValueError, IndexError, AttributeError)


def note_form(error: BaseException, owner: str, entries: Sequence[tuple[object, object, object]]) -> None:
    """Add a note to an error that the other form of the targets may have caused; Python 3.10 has no notes.

    Args:
        error: What ``training_step`` raised.
        owner: Name of the callback that changed the targets.
        entries: For each entry that was replaced: what it is called, what was there, and what came in its place.
    """
    if (
        not isinstance(error, _OF_FORM)
        or isinstance(error, torch.cuda.OutOfMemoryError)
        or not hasattr(error, "add_note")
    ):
        return
    if _is_own(error):
        return
    for name, before, after in entries:
        if isinstance(before, Tensor) and _differs(before, after):
            error.add_note(
                f"{owner} gave training_step {_described(after)} for {name!r}, {describe_value(before)} in the batch. "
                f"{_way_out(after)}"
            )
            return


def _is_own(error: BaseException) -> bool:
    """Tell whether this project has raised an error: its message says what to do already."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    name = trace.tb_frame.f_globals.get("__name__", "") if trace is not None else ""
    return str(name).partition(".")[0] == __name__.partition(".")[0]


def _differs(before: Tensor, after: object) -> bool:
    if not isinstance(after, Tensor):
        return True
    return after.ndim != before.ndim or after.is_floating_point() != before.is_floating_point()


def _described(after: object) -> str:
    return (
        f"soft targets, {describe_value(after)}," if isinstance(after, Tensor) else "PairTargets (first, second, ratio)"
    )


def _way_out(after: object) -> str:
    if not isinstance(after, Tensor):
        return "Take the loss by lightning_puzzlemix.pair_loss(loss, logits, targets), or use targets='soft'"
    classes = "targets.argmax(1)" if after.ndim == 2 and after.shape[1] > 1 else "(targets >= 0.5).long()"
    return (
        "A loss that needs classes works with targets='pair' and lightning_puzzlemix.pair_loss(loss, logits, targets); "
        f"where a metric needs them, take {classes}"
    )
