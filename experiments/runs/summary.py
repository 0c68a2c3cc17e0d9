"""The summary of a finished run: `summary.json`, and the table that shows it."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter
from rich.table import Table

from experiments.common import write_json

LAST_EPOCHS = 10


@dataclass(frozen=True)
class AccuracyByEpoch:
    """Test accuracy in [0,1] of a run's epochs."""

    # Of the best epoch; chosen on the test images, so higher than what new images would give.
    best: float
    # Of the last epoch; nothing has chosen it.
    last: float
    # Median of the last ten epochs (of all, where there are fewer); what the authors report.
    median_last_10: float

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
    epoch_seconds: EpochSeconds  # Of a typical epoch, see `EpochTimer.typical`.
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
