"""Finished runs as a table on the terminal, as CSV and Markdown, and as a plot; unfinished ones with their last words."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from experiments.common.commands import as_typed_here
from experiments.common.console import print_plain, short
from experiments.common.errors import UserError
from experiments.runs.run_folder import SUMMARY
from experiments.sweep_results.plot import save_plot
from experiments.sweep_results.runs import FinishedRun, UnfinishedRun, find_runs
from experiments.sweep_results.table import (
    cells,
    differing_keys,
    find_keys,
    group_runs,
    present_metrics,
    rich_table,
    write_csv,
    write_markdown,
)

TABLE_CSV, TABLE_MD, PLOT = "summary_table.csv", "summary_table.md", "summary_plot.png"


def summarize_runs(
    console: Console, folders: Sequence[Path], *, by: Sequence[str] = (), metric: str = "accuracy"
) -> None:
    """Print table, files and unfinished runs; write CSV, Markdown and plot into the first folder.

    Args:
        console: Where to print.
        folders: Runs in and below these are taken, each once.
        by: What to group by; the end of a dotted key is enough. Empty: everything that differs, except the seed.
        metric: What is plotted, a key of METRICS.

    Raises:
        UserError: If there is no run, `by` names no setting, or no run has the metric.
    """
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"DIR must be a folder, got {folder}: there is no such folder")
    finished, unfinished = find_runs(folders)
    if not finished and not unfinished:
        raise UserError(
            f"No runs found in {', '.join(map(str, folders))}: neither {SUMMARY} with config.yaml of a finished run nor "
            ".hydra/ of an unfinished one, in any folder below"
        )
    if finished:
        _report_finished(console, finished, folders[0], by=by, metric=metric)
    _list_unfinished(console, unfinished, total=len(finished) + len(unfinished))


def _report_finished(
    console: Console, runs: Sequence[FinishedRun], folder: Path, *, by: Sequence[str], metric: str
) -> None:
    keys = find_keys(runs, by) if by else differing_keys(runs)
    groups = group_runs(runs, keys)
    if metric not in present_metrics(groups):
        raise UserError(f"--metric {metric} is in none of the runs; they have {', '.join(present_metrics(groups))}")
    name = folder.resolve().name
    heads, rows = cells(groups, keys, metric)
    table = rich_table(heads, rows, keys=len(keys), title=f"{name}, {len(runs)} runs, mean ± standard deviation")
    # In a log the table is not squeezed into the 80 columns that are assumed there.
    wide = Console(width=1000).measure(table).maximum
    target = console if console.is_terminal else Console(file=console.file, width=wide)
    target.print(table)
    write_csv(folder / TABLE_CSV, groups, keys)
    write_markdown(folder / TABLE_MD, heads, rows, keys=len(keys))
    save_plot(folder / PLOT, groups, keys, metric, name)
    for label, file in (("table", TABLE_CSV), ("for a README", TABLE_MD), (f"plot of {metric}", PLOT)):
        print_plain(f"{label:<{len(metric) + 10}}{short((folder / file).resolve())}", console)


def _list_unfinished(console: Console, runs: Sequence[UnfinishedRun], *, total: int) -> None:
    if not runs:
        return
    print_plain(f"\n{len(runs)} of {total} runs are not finished: they are running, were stopped, or died.", console)
    for run in runs:
        print_plain(
            f"\n{short(run.folder)}\n  {run.last_words or '(its log is empty)'}\n  {as_typed_here(run.command)}",
            console,
        )
