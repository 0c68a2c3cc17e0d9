"""Ctrl-C and SIGTERM while a command is still importing, which takes seconds: a sentence instead of nothing or a traceback.

Imported before anything else; so nothing but the standard library is imported here.
"""

import os
import signal
import sys
from types import FrameType

# Commands that listen themselves as soon as they can, see `experiments.runs.stopping`.
COMMANDS = ("experiments.train", "experiments.evaluate")


def listen() -> None:
    """Listen, in a process that `python -m` has started with one of the commands."""
    # Python's own words: sys.argv[0] is "-m" until the module has been found.
    pairs = zip(sys.orig_argv, sys.orig_argv[1:], strict=False)
    if sys.argv[:1] == ["-m"] and any(pair == ("-m", command) for pair in pairs for command in COMMANDS):
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, _leave)


def _leave(signum: int, frame: FrameType | None) -> None:
    name = "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name
    sys.stderr.write(f"Stopped by {name}; nothing was begun, so the same command can be given again.\n")
    sys.stderr.flush()
    # At once: an import that is cut in two may swallow an exception.
    os._exit(128 + signum)
