"""The study around the plugin: training, data sets, networks and measurements; run from a checkout."""

import os
import signal
import sys
from types import FrameType

# While torch's threads wait for their next task they spin, which keeps other threads and programs off their cores: on a busy
# machine a training step then takes ten times as long. Spinning for some microseconds only, they are as quick to wake and
# soon out of the way. OpenMP reads this when torch is imported, so it is set before; a value that you have set stays.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")


def _exit(signum: int, frame: FrameType | None) -> None:
    name = "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name
    sys.stderr.write(f"Stopped by {name}; nothing was begun, so the same command can be given again.\n")
    sys.stderr.flush()
    # At once: an import that is interrupted may swallow an exception.
    os._exit(128 + signum)


# Ctrl-C and SIGTERM while one of these commands is still importing, which takes seconds; later see `experiments.runs.stopping`.
# sys.argv[0] is "-m" until `python -m` has found the module.
if sys.argv[:1] == ["-m"] and {"experiments.train", "experiments.evaluate"} & {*sys.orig_argv}:
    for _signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(_signum, _exit)
