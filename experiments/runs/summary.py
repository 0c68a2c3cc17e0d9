"""The summary of a finished run: `summary.json`, and what is printed of it."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table

from experiments.common import as_typed_here, command_line, override, print_plain, short, training_command, write_json
from experiments.runs.run_folder import LAST_CHECKPOINT

LAST_EPOCHS = 10


@dataclass(frozen=True)
class AccuracyByEpoch:
    """Test accuracy in [0,1] of a run's epochs."""

    best: float  # Of the best epoch; chosen on the test images, so higher than what new images would give.
    last: float  # Of the last epoch; nothing has chosen it.
    median_last_10: float  # Of the last ten epochs (of all, where there are fewer); what the authors report.

    @classmethod
    def of(cls, accuracies: Sequence[float]) -> "AccuracyByEpoch":
        """From the accuracies of all epochs, at least one, in their order."""
        return cls(max(accuracies), accuracies[-1], statistics.median(accuracies[-LAST_EPOCHS:]))


@dataclass(frozen=True)
class EpochSeconds:
    """Seconds of one training epoch: all of it (without validation), and the callback's two parts of that."""

    total: float
    saliency: float = 0.0
    mixing: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Result of one run; `summary.json` holds just these fields."""

    name: str
    choices: Mapping[str, str | None]  # The option of each Hydra group; None: the group is optional and was left out.
    overrides: Sequence[str]  # What the command line set, as "key=value".
    seed: int
    epochs: int
    parameters: int  # Those that are trainable.
    train_images: int
    test_images: int
    val_accuracy: float | None  # Of the last epoch, in [0,1]; None: nothing was validated.
    test: Mapping[str, float]  # Metrics of the last epoch without the prefix `test_`; fractions in [0,1], nll in nats.
    test_accuracy_by_epoch: AccuracyByEpoch | None  # None: not scored in every epoch.
    epoch_seconds: EpochSeconds  # Of a typical epoch, see `EpochRecord.typical_seconds`.
    total_seconds: float  # From the start of the program to the end of the test.

    def save(self, path: Path) -> None:
        """Write the fields as JSON."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> "Summary":
        """Read what `save` wrote."""
        return TypeAdapter(cls).validate_json(path.read_bytes())


def summary_table(summary: Summary) -> Table:
    """The table that a run ends with."""
    epochs = "1 epoch" if summary.epochs == 1 else f"{summary.epochs} epochs"
    table = Table("", title=f"{summary.name}, {epochs}, seed {summary.seed}", title_justify="left", show_header=False)
    table.add_column("", justify="right")
    table.add_row(f"test accuracy, {summary.test_images} images, last epoch", f"{summary.test['accuracy']:.2%}")
    by_epoch, last = summary.test_accuracy_by_epoch, min(LAST_EPOCHS, summary.epochs)
    if by_epoch is not None and last > 1:
        table.add_row(f"  median of the last {last} epochs", f"{by_epoch.median_last_10:.2%}")
    if by_epoch is not None:
        table.add_row("  best epoch, chosen on these images", f"{by_epoch.best:.2%}")
    table.add_row("test calibration error", f"{summary.test['calibration_error']:.2%}")
    seconds = summary.epoch_seconds
    table.add_row("seconds per epoch, without validation", f"{seconds.total:.2f}")
    for part, value in (("saliency", seconds.saliency), ("mixing", seconds.mixing)):
        if seconds.saliency or seconds.mixing:
            table.add_row(f"  of that {part}", f"{value:.2f} ({value / seconds.total:.0%})")
    table.add_row("total seconds", f"{summary.total_seconds:.0f}")
    return table


def print_final_summary(
    console: Console, summary: Summary, files: Mapping[str, Path], run_dir: Path, *, alone: bool = True
) -> None:
    """Print the table, what was trained and how good it is, the output files by what they are, and commands to try.

    Less for a job of a sweep, which is not `alone`: a sweep ends with a table of its own.
    """
    if alone:
        console.print(summary_table(summary))
    places = {**(files if alone else {}), "all files": run_dir}
    width = max(len(label) for label in places) + 2
    lines = [describe(summary), "", *(f"{label:<{width}}{short(path)}" for label, path in places.items())]
    if alone:
        lines += ["", "Next steps:"]
        lines += [f"  {command}\n      {why}" for command, why in next_commands(summary, run_dir).items()]
    # Paths and commands are never wrapped.
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
    kept = [each for each in summary.overrides if not each.startswith(("resume=", "paths.run_dir=", "seed="))]
    again = as_typed_here(training_command([*kept, f"seed={summary.seed + 1}"]))
    # The weights that the table is about; of the run folder alone the best ones would be taken, by the validation images.
    checkpoint = override("checkpoint", short(run_dir / LAST_CHECKPOINT))
    return {
        again: "the same with another seed, to see how far results vary; compare with mix=none or mix=puzzlemix",
        command_line("evaluate", checkpoint): "how robust it is against attacks, and how well it is calibrated",
        command_line("show_mixing", "--examples"): "how photographs are mixed; or name images of your own",
    }
