"""The summary of a finished run: `summary.json`, and the table that shows it."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from experiments.common import write_json

LAST_EPOCHS = 10


@dataclass(frozen=True)
class AccuracyByEpoch:
    """Test accuracy in [0,1] of a run's epochs.

    Args:
        best: Of the best epoch; chosen on the test images, so higher than what new images would give.
        last: Of the last epoch; nothing has chosen it.
        median_last_10: Median of the last ten epochs (of all, where there are fewer); what the authors report.
    """

    best: float
    last: float
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
    """Result of one run; `summary.json` holds just these fields.

    Args:
        name: Name of the run.
        choices: The option chosen in each Hydra group; None: the group is optional and was left out.
        overrides: What the command line set, as "key=value".
        seed: Seed of the run.
        epochs: Training epochs that were run.
        parameters: Trainable parameters of the model.
        train_images: Images that were trained on.
        test_images: Images that were tested on.
        val_accuracy: Validation accuracy of the last epoch, in [0,1]; None: nothing was validated.
        test: Test metrics of the last epoch by name, without the prefix `test_`; fractions in [0,1], nll in nats.
        test_accuracy_by_epoch: Test accuracy over the epochs; None: not scored in every epoch.
        epoch_seconds: Typical epoch, see `EpochRecord.typical_seconds`.
        total_seconds: From the start of the program to the end of the test.
    """

    name: str
    choices: Mapping[str, str | None]
    overrides: Sequence[str]
    seed: int
    epochs: int
    parameters: int
    train_images: int
    test_images: int
    val_accuracy: float | None
    test: Mapping[str, float]
    test_accuracy_by_epoch: AccuracyByEpoch | None
    epoch_seconds: EpochSeconds
    total_seconds: float

    def save(self, path: Path) -> None:
        """Write the fields as JSON."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> "Summary":
        """Read what `save` wrote."""
        fields: dict[str, Any] = json.loads(path.read_text())
        by_epoch = fields["test_accuracy_by_epoch"]
        fields["test_accuracy_by_epoch"] = None if by_epoch is None else AccuracyByEpoch(**by_epoch)
        fields["epoch_seconds"] = EpochSeconds(**fields["epoch_seconds"])
        return cls(**fields)


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
    if seconds.saliency or seconds.mixing:
        for part, value in (("saliency", seconds.saliency), ("mixing", seconds.mixing)):
            table.add_row(f"  of that {part}", f"{value:.2f} ({value / seconds.total:.0%})")
    table.add_row("total seconds", f"{summary.total_seconds:.0f}")
    return table
