"""Ctrl-C and SIGTERM while a command is still importing, which takes seconds: a sentence instead of nothing or a traceback.

Imported before anything else; so nothing but the standard library is imported here.
"""

import os
import signal
import sys
from types import FrameType

# Commands that handle signals themselves once they have started, see `experiments.runs.stopping`.
COMMANDS = ("experiments.train", "experiments.evaluate")


def handle_early_signals() -> None:
    """Handle both signals in a process that `python -m` has started with one of the commands."""
    # sys.argv[0] is "-m" until the module has been found.
    pairs = zip(sys.orig_argv, sys.orig_argv[1:], strict=False)
    if sys.argv[:1] == ["-m"] and any(pair == ("-m", command) for pair in pairs for command in COMMANDS):
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, _exit)


def _exit(signum: int, frame: FrameType | None) -> None:
    name = "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name
    sys.stderr.write(f"Stopped by {name}; nothing was begun, so the same command can be given again.\n")
    sys.stderr.flush()
    # At once: an import that is interrupted may swallow an exception.
    os._exit(128 + signum)
