"""Several mixing callbacks in one Trainer: which of them has to do with a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar


class HasEpochs(Protocol):
    """What counts of a mixing callback here."""

    start_epoch: int
    stop_epoch: int | None
    targets: str


Callback = TypeVar("Callback", bound=HasEpochs)


def check_sharing(callbacks: Sequence[HasEpochs]) -> None:
    """Refuse callbacks that would mix the same batches, or hand over targets of different forms.

    Raises:
        ValueError: If two mix in the same epoch, or their ``targets`` differ.
    """
    for epoch in sorted({each.start_epoch for each in callbacks}):
        active = [each for each in callbacks if _is_active(each, epoch)]
        if len(active) > 1:
            raise ValueError(
                f"{_names(active)} would both mix the batches of epoch {epoch}, and no batch can be mixed twice: use one of "
                "them, or give each epochs of its own by start_epoch and stop_epoch"
            )
    if len({each.targets for each in callbacks}) > 1:
        forms = ", ".join(f"{type(each).__name__}(targets={each.targets!r})" for each in callbacks)
        raise ValueError(f"{_names(callbacks)} must hand over targets of one form, got {forms}: use the same for all")


def responsible(callbacks: Sequence[Callback], epoch: int) -> Callback:
    """Return the callback that has to do with the batches of an epoch: the one that mixes in it, else the first."""
    return next((each for each in callbacks if _is_active(each, epoch)), callbacks[0])


def _is_active(callback: HasEpochs, epoch: int) -> bool:
    return callback.start_epoch <= epoch and (callback.stop_epoch is None or epoch < callback.stop_epoch)


def _names(callbacks: Sequence[HasEpochs]) -> str:
    return " and ".join(type(each).__name__ for each in callbacks)
