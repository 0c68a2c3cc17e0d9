"""What a user is told when a data set is not there."""

from collections.abc import Sequence
from pathlib import Path


class MissingDataError(FileNotFoundError):
    """A data set was not found; the message says where it was looked for and how to get it.

    Args:
        name: The data set.
        looked_at: Every place that was tried.
        remedy: How to get the data, a URL or a command.
        reason: What went wrong, where more is known than that nothing is there.
    """

    def __init__(self, name: str, *, looked_at: Sequence[Path], remedy: str, reason: str = "") -> None:
        places = "\n".join(f"  {path.expanduser().absolute()}" for path in looked_at)
        cause = f"{reason}\n" if reason else ""
        super().__init__(
            f"{name} was not found. {cause}Looked for:\n{places}\n"
            f"How to get it: {remedy}\n"
            "If it is elsewhere: data.root=/path/to/it, or set PUZZLEMIX_DATA to the folder of all data sets."
        )
