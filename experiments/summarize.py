"""Runs as one table, with mean and standard deviation over seeds: `python -m experiments.summarize DIR`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich import get_console

from experiments.common import UserError, print_plain
from experiments.runs import SUMMARY
from experiments.sweep_results import METRICS, PLOT, TABLE_CSV, TABLE_MD, summarize_runs

DESCRIPTION = "Groups finished runs by everything but the seed, and shows mean ± standard deviation."
EPILOG = f"""\
A group is all runs that differ in nothing but their seed. The standard deviation is that of the sample (n-1), and "-" for one
run. Accuracies are in % and on the test images; "best epoch" was chosen on them, the other two were not.

Written into the first DIR:
  {TABLE_CSV}   numbers in full, as shares of 1
  {TABLE_MD}    the table as it is shown, for a README
  {PLOT}    the metric: over the swept number if there is one, else setting by setting

Runs without {SUMMARY} are running, were stopped, or failed. They are listed with their error, or the last line of their log,
and the command that resumes that run.

examples:
  python -m experiments.summarize runs/sweeps/methods_digits_small
  python -m experiments.summarize runs --by data model mix
  python -m experiments.summarize runs/sweeps/beta_cifar100_preactresnet18 --metric median_last_10
"""
BY = """\
group by these alone, pooling the rest: Hydra groups (data, model, mix, ...) or settings, of which the end is enough (beta for
mix.config.beta); default: all that differ, except the seed"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code: 1 with a message if there is nothing to show."""
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m experiments.summarize", None, DESCRIPTION, EPILOG, formatter_class=style
    )
    parser.add_argument("folders", metavar="DIR", nargs="+", type=Path, help="run folders, or folders above them")
    parser.add_argument("--by", metavar="KEY", nargs="+", default=[], help=BY)
    parser.add_argument("--metric", default="accuracy", choices=METRICS, help="metric of the plot; default: accuracy")
    options = parser.parse_args(arguments)
    try:
        summarize_runs(get_console(), options.folders, by=options.by, metric=options.metric)
    except UserError as error:
        print_plain(str(error), style="red")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
