"""Runs as one table, with mean and standard deviation over seeds: `python -m experiments.summarize DIR`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich import get_console

from experiments.common.console import print_plain
from experiments.common.errors import UserError
from experiments.runs.run_folder import SUMMARY
from experiments.sweep_results.comparison import METRICS
from experiments.sweep_results.summary import PLOT, TABLE_CSV, TABLE_MD, summarize_runs

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
        summarize_runs(get_console(), given.folders, by=given.by, metric=given.metric)
    except UserError as error:
        print_plain(str(error), style="red")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
