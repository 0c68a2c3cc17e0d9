"""Run folders: their owner, their files, resuming, stopping, the summary at the end."""

from experiments.runs.checkpoints import AtomicCheckpointIO, build_checkpoints
from experiments.runs.hydra_setup import make_command_repeatable, store_permissive_groups
from experiments.runs.lock import RunningError, owned
from experiments.runs.metrics_file import EpochLine, build_metrics_logger
from experiments.runs.resume import RunRecord, check_folder, check_start, comparable_settings, find_start, is_done
from experiments.runs.run_folder import CHECKPOINTS, CONFIG, LAST_CHECKPOINT, SUMMARY, UNREADABLE, comparable_overrides
from experiments.runs.stopping import GracefulStop, RunStopped, interruptible, optional, print_early_end
from experiments.runs.summary import AccuracyByEpoch, EpochSeconds, Summary, print_final_summary, summary_table

__all__ = [
    "CHECKPOINTS", "CONFIG", "LAST_CHECKPOINT", "SUMMARY", "UNREADABLE", "AccuracyByEpoch", "AtomicCheckpointIO",
    "EpochLine", "EpochSeconds", "GracefulStop", "RunRecord", "RunStopped", "RunningError", "Summary", "build_checkpoints",
    "build_metrics_logger", "check_folder", "check_start", "comparable_overrides", "comparable_settings", "find_start",
    "interruptible", "is_done", "make_command_repeatable", "optional", "owned", "print_early_end", "print_final_summary",
    "store_permissive_groups", "summary_table",
]  # fmt: skip
