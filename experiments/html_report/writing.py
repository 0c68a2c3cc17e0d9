"""Write one page about all runs in and below some folders."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich import get_console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from experiments.common.atomic_files import write_text
from experiments.common.errors import UserError
from experiments.common.plain_yaml import leads_out
from experiments.html_report.embedding import Embedder, figure_style
from experiments.html_report.parts import Page
from experiments.html_report.rendering import render
from experiments.html_report.run_contents import RunFolder, read_run
from experiments.html_report.run_sections import run_lead, run_sections
from experiments.html_report.sweep_sections import DETAILED, Sweep, sweep_lead, sweep_sections
from experiments.runs.run_folder import SUMMARY
from experiments.sweep_results.runs import FinishedRun, UnfinishedRun, find_runs

REPORT = "report.html"
# Bytes of all pictures on a page; base64 makes them a third longer.
PICTURE_BUDGET = 6_000_000


def write_report(folders: Sequence[Path], output: Path | None = None, title: str | None = None) -> Path:
    """Write a page about all runs in and below the folders.

    Args:
        folders: At least one; run folders, or folders above them.
        output: The file to write, its folder included; None: `report.html` in the first folder.
        title: What stands above the page; None: the name of the run, or of the first folder.

    Returns:
        The file.

    Raises:
        UserError: If there is no run, or a file in a run folder is not what a run writes. The message names the file.
    """
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"DIR must be a folder, got {folder}: there is no such folder")
    path = folders[0] / REPORT if output is None else output
    if output is None and leads_out(path):
        raise UserError(f"{path} is a link to {path.resolve()}, which would be written over; give --output FILE")
    if path.is_dir():
        raise UserError(f"--output must be a file, got {path}: that is a folder; give {path / REPORT}")
    finished, unfinished = find_runs(folders)
    if not finished and not unfinished:
        raise UserError(
            f"No runs found in {', '.join(map(str, folders))}: neither {SUMMARY} with config.yaml of a finished run nor "
            ".hydra/ of an unfinished one, in any folder below"
        )
    with figure_style(), _progress(min(len(finished), DETAILED)) as advance:
        page = _make_page(finished, unfinished, folders[0].resolve().name, title, advance)
    write_text(path, render(page))
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
