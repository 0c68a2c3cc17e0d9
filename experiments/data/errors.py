"""Errors about a data set that is missing or cannot be used."""

from collections.abc import Iterable
from pathlib import Path

from experiments.common import UserError

ELSEWHERE = "data.root=/path/to/it, or set PUZZLEMIX_DATA to the folder of all data sets"


class DatasetError(UserError):
    """A data set cannot be used as it is; the message names the file, what is wrong and the way out, in one line."""

    def __init__(self, message: str) -> None:
        # A DataLoader re-raises errors of its workers with their traceback in the message.
        if "\nOriginal Traceback" in message:
            message = message.rpartition(f".{type(self).__name__}: ")[2]
        # File names may have bytes that are not UTF-8, which no console could print.
        super().__init__(" ".join(message.encode(errors="backslashreplace").decode().splitlines()))


class UnreadableImageError(DatasetError):
    """A file cannot be read as an image, or its values are ambiguous."""


class MissingDataError(UserError):
    """A data set is not there; the message names the searched paths, or why it cannot be downloaded, and the way out."""


def missing_data(title: str, *, searched: Iterable[Path], remedy: str) -> MissingDataError:
    """The error for a data set that is in none of the searched paths; `remedy` says how to get it."""
    paths = "\n".join(f"  {path.absolute()}" for path in searched)
    return MissingDataError(
        f"{title} was not found. Searched paths:\n{paths}\nHow to get it: {remedy}\nIf it is elsewhere: {ELSEWHERE}."
    )
