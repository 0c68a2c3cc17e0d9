"""Command lines of one job or of a sweep: the folders of a sweep, the errors of its jobs, the report at the end."""

from experiments.sweeps.hydra_errors import checked_job, in_sweep, run_command
from experiments.sweeps.jobs import SweepReport, report_sweep

__all__ = ["SweepReport", "checked_job", "in_sweep", "report_sweep", "run_command"]
