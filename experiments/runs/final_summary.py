"""What is printed at the end of a run: the result and the next steps, or how to resume it."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console

from experiments.common import (
    as_typed_here,
    command_line,
    key_of,
    mask_text,
    override,
    print_plain,
    report_command,
    resume_command,
    short,
    training_command,
)
from experiments.runs.run_folder import LAST_CHECKPOINT
from experiments.runs.stopping import RunStopped
from experiments.runs.summary import Summary, summary_table

log = logging.getLogger(__name__)


def print_final_summary(
    console: Console, summary: Summary, files: Mapping[str, Path], run_dir: Path, *, alone: bool = True
) -> None:
    """Print the table, what was trained and how good it is, the output files, and commands to try; paths are never wrapped.

    Args:
        console: Where to print.
        summary: Of the run.
        files: Output files by what they are.
        run_dir: The run folder.
        alone: Whether the run is no job of a sweep, of which less is printed: a sweep ends with a table of its own.
    """
    if alone:
        console.print(summary_table(summary))
    places = {**(files if alone else {}), "all files": run_dir}
    width = max(len(label) for label in places) + 2
    lines = [describe(summary), "", *(f"{label:<{width}}{short(path)}" for label, path in places.items())]
    if alone:
        lines += ["", "Next steps:"]
        lines += [f"  {command}\n      {why}" for command, why in next_commands(summary, run_dir).items()]
    print_plain("\n".join(lines), console)


def describe(summary: Summary) -> str:
    """What was trained and how good it is, a sentence each."""
    mix, epochs = summary.choices["mix"], "1 epoch" if summary.epochs == 1 else f"{summary.epochs} epochs"
    return (
        f"Trained the network {summary.choices['model']} ({summary.parameters:,} parameters) on {summary.train_images:,} "
        f"images of {summary.choices['data']}, {'without mixing' if mix in (None, 'none') else f'mixed by {mix}'}: {epochs}, "
        f"seed {summary.seed}.\nTest accuracy: {summary.test['accuracy']:.2%} of {summary.test_images:,} images (last epoch, "
        "nothing was chosen on them)."
    )


def next_commands(summary: Summary, run_dir: Path) -> dict[str, str]:
    """Three commands to paste into a shell, and what each is for."""
    kept = [each for each in summary.overrides if key_of(each) not in ("resume", "paths.run_dir")]
    if {"experiment", "sweep"} & {key_of(each) for each in kept}:
        # Their settings belong to the experiment's way of mixing, and would be refused with another one.
        replaced, other = ("seed",), f"seed={summary.seed + 1}"
        why = "the same with another seed, to see how far results vary"
    else:
        is_mixed = summary.choices["mix"] not in (None, "none")
        replaced, other = ("mix", "clean_stop_epoch"), f"mix={'none' if is_mixed else 'puzzlemix'}"
        why = f"the same {'without mixing' if is_mixed else 'with Puzzle Mix'}, to compare"
    another = [*(each for each in kept if key_of(each).split(".")[0] not in replaced), other]
    # The weights that the table is about; of the run folder alone the best ones would be taken, by the validation images.
    checkpoint = override("checkpoint", short(run_dir / LAST_CHECKPOINT))
    return {
        as_typed_here(training_command(another)): why,
        command_line("evaluate", [checkpoint]): "how robust it is against attacks, and how well it is calibrated",
        command_line("show_mixing", ["--examples"]): "how photographs are mixed; or name images of your own",
    }


def print_early_end(error: BaseException, run_dir: Path, overrides: Sequence[str], *, finished: bool) -> None:
    """Print what ended a run, what is kept, and how to resume; nothing for an error of which nothing is kept.

    `finished`: the result had been saved before. Not through the log, which wraps lines that are to be pasted.
    """
    how, stopped = "The run failed", isinstance(error, RunStopped)
    if isinstance(error, RunStopped):
        how, error.is_reported = str(error), True
    checkpoint, command = run_dir / LAST_CHECKPOINT, as_typed_here(resume_command(overrides, run_dir))
    if finished:
        print_plain(
            f"{how}, but the run is finished and its result is saved in {short(run_dir)}. Images and report may be missing; "
            f"the report is made by:\n{report_command(run_dir)}"
        )
    elif checkpoint.is_file():
        print_plain(f"{how}: the run ended early and has a checkpoint, {short(checkpoint)}. Resume with:\n{command}")
    elif stopped:
        print_plain(
            f"{how} before there was a checkpoint: nothing is kept but {short(run_dir)}. Start it again with:\n{command}"
        )


@contextmanager
def optional(what: str, remedy: str, file: Path | None = None) -> Iterator[None]:
    """Inside, what comes after a saved result: should it fail, the result stands, and a warning names what is missing.

    `remedy` is the command that makes it; `file` is what was being written, which is removed.
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
