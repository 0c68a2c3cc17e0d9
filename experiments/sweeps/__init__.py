"""Sweeps: their folders, the errors of their jobs, the report at the end."""

from experiments.sweeps.hydra_errors import explain, in_sweep, leave_errors_to_hydra, readable
from experiments.sweeps.jobs import SweepReport, report_sweep

__all__ = ["SweepReport", "explain", "in_sweep", "leave_errors_to_hydra", "readable", "report_sweep"]
