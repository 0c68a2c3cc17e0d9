"""What is said of a run that ends before its time, and of what is missing beside a result that is saved."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from experiments.common.commands import as_typed_here, command_line, continuing_command
from experiments.common.console import print_plain, short
from experiments.common.masking import mask_text
from experiments.runs.run_folder import LAST_CHECKPOINT
from experiments.runs.stopping import RunInterrupted, RunStopped, name_of

log = logging.getLogger(__name__)


def tell_end(error: BaseException, run_dir: Path, overrides: Sequence[str], *, finished: bool) -> None:
    """Say what ended a run, what is kept, and how to resume; not through the log, which wraps lines to be pasted.

    An error without anything kept is left to speak for itself.

    Args:
        error: What ended it.
        run_dir: The run folder.
        overrides: What the command line set.
        finished: Whether its result had been saved before.
    """
    stopped = isinstance(error, RunStopped | RunInterrupted)
    if isinstance(error, RunInterrupted):
        error.told = True
    how = f"Stopped by {name_of(error.signum)}" if isinstance(error, RunStopped | RunInterrupted) else "The run failed"
    command = as_typed_here(continuing_command(overrides, run_dir))
    if finished:
        print_plain(
            f"{how}, but the run is finished and its result is saved in {short(run_dir)}. Pictures and report may be missing; "
            f"the report is made by:\n{report_command(run_dir)}"
        )
    elif (run_dir / LAST_CHECKPOINT).is_file():
        print_plain(
            f"{how}: the run ended early and has a checkpoint, {short(run_dir / LAST_CHECKPOINT)}. Resume with:\n{command}"
        )
    elif stopped:
        print_plain(
            f"{how} before there was a checkpoint: nothing is kept but {short(run_dir)}. Start it again with:\n{command}"
        )


def tell_stop(stop: RunInterrupted) -> None:
    """Say that a command was stopped, where that has not been said already."""
    if not stop.told:
        print_plain(f"Stopped by {name_of(stop.signum)}.")
        stop.told = True


def report_command(folder: Path) -> str:
    """What writes `report.html` into a run folder or a sweep's."""
    return command_line("report", [str(short(folder))])


def summary_command(folder: Path) -> str:
    """What prints the table of a run, or a sweep's, and writes it into the folder."""
    return command_line("summarize", [str(short(folder))])


@contextmanager
def optional(what: str, remedy: str, file: Path | None = None) -> Iterator[None]:
    """Inside, what comes after a saved result: should it fail, a warning says so, and the result stands.

    Args:
        what: What is then missing.
        remedy: The command that makes it.
        file: What is written; half of it is removed.
    """
    try:
        yield
    # Whatever it is: a full disk, a font, a service that does not answer.
    except Exception as error:
        log.debug("%s", what, exc_info=True)
        if file is not None:
            with suppress(OSError):
                file.unlink(missing_ok=True)
        reason = mask_text(" ".join(f"{type(error).__name__}: {error}".split()))
        log.warning(f"Warning: {what} is missing ({reason}); the result is saved. To make it:")
        # Not through the log, which wraps lines.
        print_plain(remedy)
