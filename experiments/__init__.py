"""The study around the plugin: training, data sets, networks and measurements; run from a checkout."""

import os

# While torch's threads wait for their next task they spin, which keeps other threads and programs off their cores: on a busy
# machine a training step then takes ten times as long. Spinning for some microseconds only, they are as quick to wake and
# soon out of the way. OpenMP reads this when torch is imported, so it is set before; a value that you have set stays.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

from experiments.common.early_signals import handle_early_signals

handle_early_signals()
