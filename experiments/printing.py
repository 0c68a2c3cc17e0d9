"""Lines for the user: whole, so that what they name can be pasted, and as they are."""

from pathlib import Path

from rich import get_console
from rich.console import Console


def say(text: str, console: Console | None = None, *, style: str | None = None) -> None:
    """Print a text without wrapping, highlighting or markup.

    Args:
        text: One line or several.
        console: Where to; None: rich's own, the terminal.
        style: A style of rich, such as "red"; None: as it is.
    """
    (console or get_console()).print(text, soft_wrap=True, highlight=False, markup=False, style=style)


def short(path: Path) -> Path:
    """The path from here where that is shorter, as it can be pasted into the next command."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
