"""How a command ends when the user has to put something right: a message and exit code 1, without a traceback."""

from typing import NoReturn

from rich import get_console


def give_up(message: str) -> NoReturn:
    """Print the message and exit with code 1."""
    get_console().print(message, soft_wrap=True, highlight=False, markup=False, style="red")
    raise SystemExit(1)
