"""What a finished run ends with: what was trained, how good it is, where everything lies, and what to try next."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from experiments.common.commands import as_typed_here, key_of, override, training_command
from experiments.common.console import print_plain, short
from experiments.runs.run_folder import LAST_CHECKPOINT, comparable_overrides
from experiments.runs.summary import Summary, summary_table

# Their settings belong to the experiment's way of mixing, and would be refused with another one.
FIXED_MIX = ("experiment", "sweep")
# What goes with the way of mixing, and is refused with another one.
MIX_SETTINGS = ("mix", "clean_stop_epoch")


def print_closing(
    console: Console, summary: Summary, files: Mapping[str, Path], run_dir: Path, *, alone: bool = True
) -> None:
    """Print the table and, as the last lines, what it says in words, where everything lies, and commands to try.

    Paths and commands are never wrapped. Of a job among many only the words are printed, and its folder.

    Args:
        console: Where to print.
        summary: Of the run.
        files: What is worth opening, by what it is.
        run_dir: The run folder.
        alone: Whether the run is no job of a sweep, which ends with a table of its own.
    """
    if alone:
        console.print(summary_table(summary))
    lines = [describe(summary), describe_result(summary)]
    places = {**files, "all files": run_dir} if alone else {"all files": run_dir}
    width = max(len(label) for label in places) + 2
    lines += ["", *(f"{label:<{width}}{short(path)}" for label, path in places.items())]
    if alone:
        commands = next_commands(summary, run_dir)
        lines += ["", "Worth trying next:"]
        lines += [f"  {command}\n      {why}" for command, why in commands.items()]
    print_plain("\n".join(lines), console)


def describe(summary: Summary) -> str:
    """What was trained, in one sentence."""
    mix = summary.choices["mix"]
    how = "without mixing" if mix in (None, "none") else f"mixed by {mix}"
    epochs = "1 epoch" if summary.epochs == 1 else f"{summary.epochs} epochs"
    return (
        f"Trained the network {summary.choices['model']} ({summary.parameters:,} parameters) on {summary.train_images:,} "
        f"images of {summary.choices['data']}, {how}: {epochs}, seed {summary.seed}."
    )


def describe_result(summary: Summary) -> str:
    """How good it is, in one sentence."""
    return (
        f"It is right on {summary.test['accuracy']:.2%} of {summary.test_images:,} test images (last epoch, nothing was chosen "
        f"on them)."
    )


def next_commands(summary: Summary, run_dir: Path) -> dict[str, str]:
    """Three commands to paste into a shell, and what each is for."""
    # In the same places: there the data is, and there the other run belongs.
    places = [
        each for each in summary.overrides if key_of(each).startswith("paths.") and key_of(each) != "paths.run_dir"
    ]
    kept = [*comparable_overrides(summary.overrides), *places]
    if {key_of(each) for each in kept} & set(FIXED_MIX):
        kept = [each for each in kept if key_of(each) != "seed"]
        another, why = [*kept, f"seed={summary.seed + 1}"], "the same with another seed, to see how far results vary"
    else:
        kept = [each for each in kept if key_of(each).split(".")[0] not in MIX_SETTINGS]
        mixed = summary.choices["mix"] not in (None, "none")
        another = [*kept, "mix=none" if mixed else "mix=puzzlemix"]
        why = "the same without mixing, to compare" if mixed else "the same with Puzzle Mix, to compare"
    # The weights that the table is about; of the run folder alone the best ones would be taken, by the validation images.
    checkpoint = override("checkpoint", short(run_dir / LAST_CHECKPOINT))
    commands = {
        training_command(another): why,
        _command(
            "evaluate", [checkpoint]
        ): "how robust it is against attacks, and how far its confidence can be trusted",
        _command("show_mixing", ["--examples"]): "how photographs are mixed; or name pictures of your own",
    }
    return {as_typed_here(command): why for command, why in commands.items()}


def _command(module: str, arguments: Sequence[str]) -> str:
    return shlex.join(["python", "-m", f"experiments.{module}", *arguments])
