"""Finished runs compared: reading their folders, the tables, the plots."""

from experiments.sweep_results.comparison import METRICS, compare_pairs, compare_runs
from experiments.sweep_results.plot import STYLE, plot_comparison, plot_differences
from experiments.sweep_results.runs import ERROR, FinishedRun, UnfinishedRun, find_runs
from experiments.sweep_results.summary import (
    DIFFERENCES_CSV,
    DIFFERENCES_PLOT,
    PLOT,
    TABLE_CSV,
    TABLE_MD,
    Cells,
    summarize_runs,
)

__all__ = [
    "DIFFERENCES_CSV", "DIFFERENCES_PLOT", "ERROR", "METRICS", "PLOT", "STYLE", "TABLE_CSV", "TABLE_MD", "Cells",
    "FinishedRun", "UnfinishedRun", "compare_pairs", "compare_runs", "find_runs", "plot_comparison", "plot_differences",
    "summarize_runs",
]  # fmt: skip
