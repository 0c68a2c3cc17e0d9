"""Show finished runs with mean ± standard deviation over seeds, and methods compared: `python -m experiments.summarize DIR`.

A group is all runs that differ in nothing but their seed; sd is that of the sample (n-1). Accuracies are on the test images,
on which "best epoch" was chosen; FGSM is that of evaluations on all of them. Where groups differ in `mix`, each is compared
with a reference method by pairs of runs with the same seed and otherwise the same settings: mean difference, sd, and 95 %
confidence interval by Student's t. Unfinished runs are listed with the command that resumes them. Written into the first DIR:
summary_table.csv, summary_differences.csv (numbers in full, shares of 1), summary_table.md, and their plots (.png).

Examples:
  python -m experiments.summarize runs/sweeps/methods_digits_small --reference puzzlemix
  python -m experiments.summarize runs --by data model mix
  python -m experiments.summarize runs/sweeps/beta_cifar100_preactresnet18 --metric median_last_10
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich import get_console

from experiments.common import UserError, exit_with_error
from experiments.sweep_results import METRICS, summarize_runs

BY = """\
group by these alone, pooling the rest: Hydra groups (data, model, mix, ...) or settings, of which the end is enough (beta for
mix.config.beta); default: all that differ, except the seed"""
METRIC = f"of the plot: {', '.join(METRICS)}, fgsm_4, ...; default: accuracy"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exit with code 1 and a message if there is nothing to show."""
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m experiments.summarize", description=__doc__, formatter_class=style)
    parser.add_argument("folders", metavar="DIR", nargs="+", type=Path, help="run folders, or folders above them")
    parser.add_argument("--by", metavar="KEY", nargs="+", default=[], help=BY)
    parser.add_argument("--metric", default="accuracy", help=METRIC)
    parser.add_argument("--reference", metavar="NAME", help="the method to compare with; default: none, else the first")
    try:
        summarize_runs(get_console(), **vars(parser.parse_args(arguments)))
    except UserError as error:
        exit_with_error(str(error))


if __name__ == "__main__":
    main()
