"""The study around the plugin: training, data sets, networks and measurements; run from a checkout."""

import os

# Torch's threads wait for their next task by spinning. As soon as another program wants a core they then keep each other
# from working, and a step takes up to ten times as long. Sleeping while waiting costs next to nothing. OpenMP reads this
# when torch is imported, so it is set before.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
