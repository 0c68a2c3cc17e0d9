"""Runs as one table, with mean and standard deviation over seeds: `python -m experiments.summarize DIR`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich import get_console
from rich.console import Console

from experiments.atomic_files import UnwritableError
from experiments.commands import as_typed_here
from experiments.printing import say, short
from experiments.runs import SUMMARY
from experiments.sweep_plot import save_plot
from experiments.sweep_runs import FinishedRun, UnfinishedRun, find_runs
from experiments.sweep_table import (
    METRICS,
    SummarizeError,
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
DESCRIPTION = "Gathers finished runs, groups them by everything but the seed, and shows mean ± standard deviation."
EPILOG = f"""\
A group is all runs that differ in nothing but their seed. The standard deviation is that of the sample (n-1), and "-" for one
run. Accuracies are in % and on the test images; "best epoch" was chosen on them, the other two were not.

Written into the first DIR:
  {TABLE_CSV}   numbers in full, as shares of 1
  {TABLE_MD}    the table as it is shown, for a README
  {PLOT}    the metric: over the swept number if there is one, else setting by setting

Runs that have no {SUMMARY} are running, were stopped, or died. They are listed with their error, or the last line of
their log, and the command that goes on with just that run.

examples:
  python -m experiments.summarize runs/sweeps/methods_digits_small
  python -m experiments.summarize runs --by data model mix
  python -m experiments.summarize runs/sweeps/beta_cifar100_preactresnet18 --metric median_last_10
"""


def report(console: Console, folders: Sequence[Path], *, by: Sequence[str] = (), metric: str = "accuracy") -> None:
    """Print table, files and unfinished runs; write CSV, Markdown and plot into the first folder.

    Args:
        console: Where to print.
        folders: Runs in and below these are taken, each once.
        by: What to group by; the end of a dotted key is enough. Empty: everything that differs, except the seed.
        metric: What is plotted, a key of METRICS.

    Raises:
        SummarizeError: If there is no run, `by` names no setting, or no run has the metric.
    """
    for folder in folders:
        if not folder.is_dir():
            raise SummarizeError(f"DIR must be a folder, got {folder}: there is no such folder")
    finished, unfinished = find_runs(folders)
    if not finished and not unfinished:
        raise SummarizeError(
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
        raise SummarizeError(
            f"--metric {metric} is in none of the runs; they have {', '.join(present_metrics(groups))}"
        )
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
        say(f"{label:<{len(metric) + 10}}{short((folder / file).resolve())}", console)


def _list_unfinished(console: Console, runs: Sequence[UnfinishedRun], *, total: int) -> None:
    if not runs:
        return
    say(f"\n{len(runs)} of {total} runs are not finished: they are running, were stopped, or died.", console)
    for run in runs:
        say(
            f"\n{short(run.folder)}\n  {run.last_words or '(its log is empty)'}\n  {as_typed_here(run.command)}",
            console,
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code: 1 with a message if there is nothing to show."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.summarize",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", metavar="DIR", nargs="+", type=Path, help="run folders, or folders above them")
    parser.add_argument(
        "--by",
        metavar="KEY",
        nargs="+",
        default=[],
        help="group by these alone, pooling the rest: groups (data, model, mix, ...) or settings, of which the end is enough "
        "(beta for mix.config.beta); default: all that differ, except the seed",
    )
    parser.add_argument(
        "--metric", default="accuracy", choices=list(METRICS), help="what is plotted; default: accuracy"
    )
    given = parser.parse_args(arguments)
    try:
        report(get_console(), given.folders, by=given.by, metric=given.metric)
    except (SummarizeError, UnwritableError) as error:
        say(str(error), style="red")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
