"""Errors about a data set that is missing or cannot be used."""

from collections.abc import Iterable
from pathlib import Path

from experiments.common import UserError

ELSEWHERE = "data.root=/path/to/it, or set PUZZLEMIX_DATA to the folder of all data sets"


class DatasetError(UserError):
    """A data set cannot be used as it is; the message names the file, what is wrong and the way out, in one line.

    Args:
        message: That line. A DataLoader re-raises errors of its workers with their traceback in the message, of which only
            the line is kept.
    """

    def __init__(self, message: str) -> None:
        if message.startswith("Caught ") and "\nOriginal Traceback" in message:
            message = message.rpartition(f".{type(self).__name__}: ")[2]
        super().__init__(printable(" ".join(message.splitlines())))


class UnreadableImageError(DatasetError):
    """A file cannot be read as an image, or its values are ambiguous."""


class MissingDataError(UserError):
    """A data set was not found; the message names the searched paths and how to get it."""


class DownloadError(MissingDataError):
    """A data set could not be downloaded; the message names the URL, the path, the reason and the way out."""


def missing_data(title: str, *, searched: Iterable[Path], remedy: str, reason: str = "") -> MissingDataError:
    """The error for a data set that was not found.

    Args:
        title: Name of the data set.
        searched: Every path that was tried.
        remedy: How to get the data, a URL or a command.
        reason: What is wrong, where more is known than that nothing is there.
    """
    paths = "\n".join(f"  {path.expanduser().absolute()}" for path in searched)
    return MissingDataError(
        f"{title} was not found. {reason and reason + chr(10)}Searched paths:\n{paths}\n"
        f"How to get it: {remedy}\nIf it is elsewhere: {ELSEWHERE}."
    )


def few(names: Iterable[str], limit: int = 5) -> str:
    """The first `limit` names in order, and the number of others."""
    ordered = sorted(names)
    others = len(ordered) - limit
    return printable(", ".join(ordered[:limit]) + (f" and {others} others" if others > 0 else ""))


def printable(text: str) -> str:
    """The text with bytes of file names that are not UTF-8 escaped, which no console could print."""
    return text.encode(errors="backslashreplace").decode()
