"""What a user is told about a data set that is there and cannot be used."""

from collections.abc import Iterable

from experiments.common.errors import UserError


class DatasetError(UserError):
    """A data set cannot be used as it is; the message says in one line which file, what is wrong, and what to do.

    Args:
        message: That line. A DataLoader raises the errors of its processes anew with the traceback in the message: of that
            the line alone is kept.
    """

    def __init__(self, message: str) -> None:
        if message.startswith("Caught ") and "\nOriginal Traceback" in message:
            message = message.rpartition(f".{type(self).__name__}: ")[2]
        super().__init__(printable(" ".join(message.splitlines())))


class UnreadableImageError(DatasetError):
    """A file cannot be read as an image, or in more than one way."""


def few(names: Iterable[str], limit: int = 5) -> str:
    """The first of the names, in order, and how many others there are."""
    ordered = sorted(names)
    others = len(ordered) - limit
    return printable(", ".join(ordered[:limit]) + (f" and {others} others" if others > 0 else ""))


def printable(text: str) -> str:
    """The text with the bytes of file names that are no UTF-8 written out: no console could show them."""
    return text.encode(errors="backslashreplace").decode()
