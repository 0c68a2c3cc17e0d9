"""How a command ends when the user has to put something right: a message and exit code 1, without a traceback."""

from typing import NoReturn

from experiments.printing import say


def give_up(message: str) -> NoReturn:
    """Print the message and exit with code 1."""
    say(message, style="red")
    raise SystemExit(1)
