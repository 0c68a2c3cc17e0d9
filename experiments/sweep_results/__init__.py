"""Finished runs compared: reading their folders, the table, the plot."""

from experiments.sweep_results.comparison import METRICS, compare_runs
from experiments.sweep_results.plot import DASHES, plot_comparison, style_axes
from experiments.sweep_results.runs import ERROR, FinishedRun, UnfinishedRun, find_runs, load_runs
from experiments.sweep_results.summary import PLOT, TABLE_CSV, TABLE_MD, summarize_runs
from experiments.sweep_results.table import run_cells, table_cells

__all__ = [
    "DASHES", "ERROR", "METRICS", "PLOT", "TABLE_CSV", "TABLE_MD", "FinishedRun", "UnfinishedRun", "compare_runs",
    "find_runs", "load_runs", "plot_comparison", "run_cells", "style_axes", "summarize_runs", "table_cells",
]  # fmt: skip
