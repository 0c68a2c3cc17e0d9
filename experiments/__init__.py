"""The study around the plugin: training, data sets, networks and measurements; run from a checkout."""

import os
import signal
import sys

# While torch's threads wait for their next task they spin, which keeps other threads and programs off their cores: on a busy
# machine a training step then takes ten times as long. OpenMP reads this when torch is imported; a value of yours stays.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

# While these commands import, for seconds, Ctrl-C ends them without a traceback; later see `experiments.runs.stopping`.
if {"experiments.train", "experiments.evaluate"} & {*sys.orig_argv}:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
