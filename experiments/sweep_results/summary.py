"""Finished runs as a table on the terminal, as CSV and Markdown, and as a plot; unfinished ones with their last message."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from experiments.common import UserError, as_typed_here, print_plain, save_figure, short
from experiments.sweep_results.comparison import Comparison, compare_runs
from experiments.sweep_results.plot import plot_comparison
from experiments.sweep_results.runs import UnfinishedRun, load_runs
from experiments.sweep_results.table import rich_table, table_cells, write_csv, write_markdown

TABLE_CSV, TABLE_MD, PLOT = "summary_table.csv", "summary_table.md", "summary_plot.png"
DPI = 150


def summarize_runs(
    console: Console, folders: Sequence[Path], *, by: Sequence[str] = (), metric: str = "accuracy"
) -> None:
    """Print table, files and unfinished runs; write CSV, Markdown and plot into the first folder.

    Args:
        console: Where to print.
        folders: Run folders, or folders above them; each run counts once.
        by: What to group by; the end of a dotted key is enough. Empty: everything that differs, except the seed.
        metric: What is plotted, a key of METRICS.

    Raises:
        UserError: If there is no run, `by` names no setting, or no run has the metric.
    """
    finished, unfinished = load_runs(folders)
    if finished:
        _write_summary(console, compare_runs(finished, by), folders[0], metric)
    if unfinished:
        total = len(finished) + len(unfinished)
        print_plain(f"\n{len(unfinished)} of {total} runs are not finished: running, stopped, or failed.", console)
    for run in unfinished:
        _print_unfinished(console, run)


def _write_summary(console: Console, comparison: Comparison, folder: Path, metric: str) -> None:
    if metric not in comparison.metrics:
        raise UserError(f"--metric {metric} is in none of the runs; they have {', '.join(comparison.metrics)}")
    name, names = folder.resolve().name, len(comparison.names)
    heads, rows = table_cells(comparison, metric)
    title = f"{name}, {len(comparison.runs)} runs, mean ± standard deviation"
    table = rich_table(heads, rows, names=names, title=title)
    # A log file has no width: the table takes what it needs instead of 80 columns.
    wide = Console(width=1000).measure(table).maximum
    (console if console.is_terminal else Console(file=console.file, width=wide)).print(table)
    write_csv(folder / TABLE_CSV, comparison)
    write_markdown(folder / TABLE_MD, heads, rows, names=names)
    save_figure(plot_comparison(comparison, metric, name), folder / PLOT, dpi=DPI)
    for label, file in (("table", TABLE_CSV), ("for a README", TABLE_MD), (f"plot of {metric}", PLOT)):
        print_plain(f"{label:<{len(metric) + 10}}{short((folder / file).resolve())}", console)


def _print_unfinished(console: Console, run: UnfinishedRun) -> None:
    message = run.last_message or "(its log is empty)"
    print_plain(f"\n{short(run.folder)}\n  {message}\n  {as_typed_here(run.command)}", console)
