"""Lines for the user, whole, so that paths and commands in them can be pasted; progress bars; the file of a log."""

import logging
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn, TypeVar

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from rich import get_console
from rich.console import Console
from rich.progress import track

T = TypeVar("T")


def print_plain(text: str, console: Console | None = None, *, style: str | None = None) -> None:
    """Print a text without wrapping, highlighting or markup; by default to the terminal."""
    (console or get_console()).print(text, soft_wrap=True, highlight=False, markup=False, style=style)


def exit_with_error(message: str) -> NoReturn:
    """Print the message and exit with code 1, without a traceback."""
    print_plain(message, style="red")
    raise SystemExit(1)


def short(path: Path) -> Path:
    """The path from the folder that the command was typed in, which `hydra.job.chdir=true` leaves, if it is below."""
    moved = HydraConfig.initialized() and OmegaConf.select(HydraConfig.get(), "job.chdir")
    start = Path(HydraConfig.get().runtime.cwd) if moved else Path.cwd()
    return path.relative_to(start) if path.is_relative_to(start) else path


def with_progress(iterable: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
    """Iterate with a progress bar, which vanishes at the end; where the output is no terminal there is none."""
    return track(iterable, description, total=total, transient=True, disable=not get_console().is_terminal)


class LogFile(logging.FileHandler):
    """Prints once that it cannot be written, where Python's prints a traceback for every line; the terminal has the lines."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Print the error, and take no more lines."""
        print_plain(f"{self.baseFilename} cannot be written: {getattr(sys.exc_info()[1], 'strerror', None)}")
        self.addFilter(lambda record: False)
