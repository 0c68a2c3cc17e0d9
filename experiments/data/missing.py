"""What a user is told when a data set is not there."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.common.errors import UserError

ELSEWHERE = "data.root=/path/to/it, or set PUZZLEMIX_DATA to the folder of all data sets"


class MissingDataError(UserError):
    """A data set was not found; the message says where it was looked for and how to get it.

    Args:
        name: The data set.
        inputs: Every place that was tried.
        remedy: How to get the data, a URL or a command.
        reason: What went wrong, where more is known than that nothing is there.
    """

    def __init__(self, name: str, *, inputs: Sequence[Path], remedy: str, reason: str = "") -> None:
        places = "\n".join(f"  {path.expanduser().absolute()}" for path in inputs)
        cause = f"{reason}\n" if reason else ""
        super().__init__(
            f"{name} was not found. {cause}Looked for:\n{places}\n"
            f"How to get it: {remedy}\n"
            f"If it is elsewhere: {ELSEWHERE}."
        )

    def __reduce__(self) -> Any:
        """The type and the message: by default the message alone would be given to `__init__` in another process."""
        return _restore, (type(self), str(self))


class DownloadError(MissingDataError):
    """A data set could not be downloaded; the message says from where, to where, why, and what to do instead.

    Args:
        name: The data set.
        url: Where it comes from.
        path: The file that it was to become.
        reason: What went wrong.
        kept: A sentence on what is kept of an interrupted download, or "".
    """

    def __init__(self, name: str, *, url: str, path: Path, reason: str, kept: str = "") -> None:
        path = path.expanduser().absolute()
        UserError.__init__(
            self,
            f"{name} is not in {path.parent}. Downloading it failed: {url}: {reason}.{kept} Start again, or put that file "
            f"by hand at {path}, or say where the data is: {ELSEWHERE}.",
        )


def _restore(kind: type[MissingDataError], message: str) -> MissingDataError:
    error = kind.__new__(kind)
    UserError.__init__(error, message)
    return error
