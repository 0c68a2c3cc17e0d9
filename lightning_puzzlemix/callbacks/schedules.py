"""Several mixing callbacks in one Trainer: which one handles the batches of an epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar


class Scheduled(Protocol):
    """What is asked of a mixing callback here (see ``MixCallback``)."""

    start_epoch: int
    stop_epoch: int | None
    targets: str


Callback = TypeVar("Callback", bound=Scheduled)


def check_schedules(callbacks: Sequence[Scheduled]) -> None:
    """Refuse callbacks that mix in the same epoch, or whose targets have different forms.

    Raises:
        ValueError: If two mix in the same epoch, or their ``targets`` differ.
    """
    for epoch in sorted({each.start_epoch for each in callbacks}):
        active = [each for each in callbacks if is_active(each, epoch)]
        if len(active) > 1:
            raise ValueError(
                f"{_names(active)} would both mix the batches of epoch {epoch}, but a batch can be mixed only once: use one of "
                "them, or separate their epochs by start_epoch and stop_epoch"
            )
    if len({each.targets for each in callbacks}) > 1:
        forms = ", ".join(f"{type(each).__name__}(targets={each.targets!r})" for each in callbacks)
        raise ValueError(f"{_names(callbacks)} must return targets of one form, got {forms}: use the same for all")


def active_callback(callbacks: Sequence[Callback], epoch: int) -> Callback:
    """Return the callback that mixes in an epoch; the first one if none does, to convert the targets."""
    return next((each for each in callbacks if is_active(each, epoch)), callbacks[0])


def is_active(callback: Scheduled, epoch: int) -> bool:
    """Tell whether a callback mixes in an epoch."""
    return callback.start_epoch <= epoch and (callback.stop_epoch is None or epoch < callback.stop_epoch)


def _names(callbacks: Sequence[Scheduled]) -> str:
    return " and ".join(type(each).__name__ for each in callbacks)
