"""Write one HTML page about a run, or about all runs of a sweep: `python -m experiments.report DIR`.

The page needs no network, no account and no other file. Of one run it shows the results, learning curves, mixed images,
per-class test results, evaluations, settings and versions; of several also the tables and plots of `experiments.summarize`,
and their curves by group. What a folder does not hold is left out; an unfinished run is shown as far as it has come.

Examples:
  python -m experiments.report runs/digits_puzzlemix/2026-01-31_12-00-00
  python -m experiments.report runs/sweeps/methods_digits_small --title "Five mixing methods"
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from experiments.common import UserError, exit_with_error, print_plain, short
from experiments.html_report import REPORT, write_report


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exit with code 1 and a message if there is nothing to show."""
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m experiments.report", description=__doc__, formatter_class=style)
    parser.add_argument("folders", metavar="DIR", nargs="+", type=Path, help="run folders, or folders above them")
    parser.add_argument("--output", metavar="FILE", type=Path, help=f"the page; default: {REPORT} in the first DIR")
    parser.add_argument("--title", metavar="T", help="title of the page; default: the name of the run or folder")
    try:
        path = write_report(**vars(parser.parse_args(arguments)))
    except (UserError, OSError) as error:
        exit_with_error(str(error))
    print_plain(f"report  {short(path.resolve())}")


if __name__ == "__main__":
    main()
