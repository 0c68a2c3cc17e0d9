"""A page about a run, or about many: `python -m experiments.report DIR`."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich import get_console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from experiments.html.embedding import Embedder, figure_style
from experiments.html.errors import ReportError
from experiments.html.parts import Page
from experiments.html.rendering import render
from experiments.html.run_folder import RunFolder, read_run
from experiments.html.run_sections import run_lead, run_sections
from experiments.html.sweep_sections import DETAILED, Sweep, sweep_lead, sweep_sections
from experiments.plain_yaml import leads_out
from experiments.printing import say, short
from experiments.runs import SUMMARY
from experiments.sweep_runs import FinishedRun, UnfinishedRun, find_runs

REPORT = "report.html"
# Bytes of all pictures on a page; base64 makes them a third longer.
PICTURE_BUDGET = 6_000_000
DESCRIPTION = "Writes one HTML page about a run, or about all runs of a sweep, with everything that their folders hold."
EPILOG = f"""\
The page needs no network, no account and no other file: it can be sent by mail, kept beside the run, or printed. Of one run it
shows the outcome, the curves, the pictures of mixes, the test class by class, evaluations, settings and versions; of several
also the table and the plot of `python -m experiments.summarize`, and their curves by group. What a folder does not hold is
left out, and a run that is still training is shown as far as it has come.

It is written to {REPORT} in the first DIR, or to FILE, over an older one.

examples:
  python -m experiments.report runs/digits_puzzlemix/2026-01-31_12-00-00
  python -m experiments.report runs/sweeps/methods_digits_small --title "Four ways of mixing"
  python -m experiments.report runs/digits_puzzlemix runs/digits_cutmix --output puzzlemix_and_cutmix.html
"""


def write_report(folders: Sequence[Path], output: Path | None = None, title: str | None = None) -> Path:
    """Write a page about all runs in and below the folders.

    Args:
        folders: At least one; run folders, or folders above them.
        output: The file to write, its folder included; None: `report.html` in the first folder.
        title: What stands above the page; None: the name of the run, or of the first folder.

    Returns:
        The file.

    Raises:
        ReportError: If there is no run, or a file in a run folder is not what a run writes. The message names the file.
    """
    for folder in folders:
        if not folder.is_dir():
            raise ReportError(f"DIR must be a folder, got {folder}: there is no such folder")
    path = folders[0] / REPORT if output is None else output
    if output is None and leads_out(path):
        raise ReportError(f"{path} is a link to {path.resolve()}, which would be written over; give --output FILE")
    if path.is_dir():
        raise ReportError(f"--output must be a file, got {path}: that is a folder; give {path / REPORT}")
    finished, unfinished = find_runs(folders)
    if not finished and not unfinished:
        raise ReportError(
            f"No runs found in {', '.join(map(str, folders))}: neither {SUMMARY} with config.yaml of a finished run nor "
            ".hydra/ of an unfinished one, in any folder below"
        )
    with figure_style(), _progress(min(len(finished), DETAILED)) as advance:
        page = _make_page(finished, unfinished, folders[0].resolve().name, title, advance)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(page), encoding="utf-8")
    return path


def _make_page(
    finished: Sequence[FinishedRun],
    unfinished: Sequence[UnfinishedRun],
    name: str,
    title: str | None,
    advance: Callable[[], None],
) -> Page:
    runs = [read_run(run.folder) for run in finished] + [read_run(run.folder, run) for run in unfinished]
    embed = Embedder(PICTURE_BUDGET)
    if len(runs) == 1:
        return Page(title or _title(runs[0]), run_lead(runs[0]), run_sections(runs[0], embed))
    sweep = Sweep(name, finished, runs)
    return Page(title or f"{name}: {len(runs)} runs", sweep_lead(sweep), sweep_sections(sweep, embed, advance))


def _title(run: RunFolder) -> str:
    return run.name if run.seed is None else f"{run.name}, seed {run.seed}"


@contextmanager
def _progress(runs: int) -> Iterator[Callable[[], None]]:
    """A bar over the runs, in a terminal and where there are several; yields what moves it on by one."""
    console = get_console()
    if runs <= 1 or not console.is_terminal:
        yield lambda: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("report", total=runs)
        yield lambda: progress.advance(task)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code: 1 with a message if there is nothing to show."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.report",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", metavar="DIR", nargs="+", type=Path, help="run folders, or folders above them")
    parser.add_argument("--output", metavar="FILE", type=Path, help=f"the page; default: {REPORT} in the first DIR")
    parser.add_argument(
        "--title", metavar="T", help="what stands above the page; default: the name of the run or folder"
    )
    given = parser.parse_args(arguments)
    try:
        path = write_report(given.folders, given.output, given.title)
    except (ReportError, OSError) as error:
        say(str(error), style="red")
        return 1
    say(f"report  {short(path.resolve())}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
