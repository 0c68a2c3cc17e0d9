"""Finished runs compared: reading their folders, the tables, the plots."""

from experiments.sweep_results.comparison import METRICS, compare_pairs, compare_runs
from experiments.sweep_results.plot import STYLE, plot_comparison, plot_differences
from experiments.sweep_results.runs import ERROR, FinishedRun, UnfinishedRun, find_runs
from experiments.sweep_results.summary import Cells, summarize_runs

__all__ = [
    "ERROR", "METRICS", "STYLE", "Cells", "FinishedRun", "UnfinishedRun", "compare_pairs", "compare_runs", "find_runs",
    "plot_comparison", "plot_differences", "summarize_runs",
]  # fmt: skip
