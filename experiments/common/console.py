"""Lines for the user: whole, so that paths and commands in them can be pasted."""

from pathlib import Path
from typing import NoReturn

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from rich import get_console
from rich.console import Console


def print_plain(text: str, console: Console | None = None, *, style: str | None = None) -> None:
    """Print a text without wrapping, highlighting or markup; by default to the terminal."""
    (console or get_console()).print(text, soft_wrap=True, highlight=False, markup=False, style=style)


def short(path: Path) -> Path:
    """The path from here where that is shorter, as it can be pasted into the next command."""
    start = start_folder()
    return path.relative_to(start) if path.is_relative_to(start) else path


def start_folder() -> Path:
    """The folder that the command was typed in, which `hydra.job.chdir=true` leaves."""
    if HydraConfig.initialized() and OmegaConf.select(HydraConfig.get(), "job.chdir"):
        return Path(HydraConfig.get().runtime.cwd)
    return Path.cwd()


def exit_with_error(message: str) -> NoReturn:
    """Print the message and exit with code 1, without a traceback."""
    print_plain(message, style="red")
    raise SystemExit(1)
