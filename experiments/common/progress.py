"""Progress bars of the commands."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich import get_console
from rich.progress import track

T = TypeVar("T")


def with_progress(iterable: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Iterate with a progress bar, which vanishes at the end; where the output is no terminal there is none.

    Args:
        iterable: What is iterated over.
        description: What is being done, in front of the bar.
        total: Number of items; None: `len(iterable)`, or not known where it has no length.
    """
    console = get_console()
    yield from track(
        iterable, description, total=total, console=console, transient=True, disable=not console.is_terminal
    )
