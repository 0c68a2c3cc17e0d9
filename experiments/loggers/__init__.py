"""What CSV, W&B and TensorBoard are given."""

from experiments.loggers.builders import WANDB_ID, build_wandb_logger, ended_wandb_run
from experiments.loggers.results import CALIBRATION, CONFUSION, PER_CLASS, log_figures, log_settings, log_test_results

__all__ = [
    "CALIBRATION", "CONFUSION", "PER_CLASS", "WANDB_ID", "build_wandb_logger", "ended_wandb_run",
    "log_figures", "log_settings", "log_test_results",
]  # fmt: skip
