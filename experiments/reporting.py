"""What a run leaves behind: summary.json and the table at the end."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from experiments.timing import EpochSeconds


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Outcome of one run; `summary.json` holds just these fields.

    Args:
        name: Name of the run.
        choices: The option chosen in each Hydra group.
        seed: Seed of the run.
        epochs: Training epochs that were run.
        parameters: Trainable numbers in the model.
        train_images: Images that were trained on.
        test_images: Images that were tested on.
        test: Test metrics by name, without the prefix `test_`; shares in [0,1], nll in nats.
        epoch_seconds: Typical epoch, see `EpochTimer.typical`.
        total_seconds: From the start of the program to the end of the test.
    """

    name: str
    choices: Mapping[str, str]
    seed: int
    epochs: int
    parameters: int
    train_images: int
    test_images: int
    test: Mapping[str, float]
    epoch_seconds: EpochSeconds
    total_seconds: float

    def save(self, path: Path) -> None:
        """Write the fields as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")


def summary_table(summary: Summary) -> Table:
    """The table that a run ends with."""
    table = Table(title=f"{summary.name}, {summary.epochs} epochs, seed {summary.seed}", title_justify="left")
    table.add_column("")
    table.add_column("", justify="right")
    table.add_row(f"test accuracy, {summary.test_images} images, last epoch", f"{summary.test['accuracy']:.2%}")
    table.add_row("test calibration error", f"{summary.test['calibration_error']:.2%}")
    seconds = summary.epoch_seconds
    table.add_row("seconds an epoch, without validation", f"{seconds.total:.2f}")
    if seconds.saliency or seconds.mixing:
        for part, value in (("saliency", seconds.saliency), ("mixing", seconds.mixing)):
            table.add_row(f"  of that {part}", f"{value:.2f} ({value / seconds.total:.0%})")
    table.add_row("seconds in all", f"{summary.total_seconds:.0f}")
    table.show_header = False
    return table


def print_report(console: Console, summary: Summary, files: Mapping[str, Path]) -> None:
    """Print the table and, as the last lines, what lies where; paths are never wrapped."""
    console.print(summary_table(summary))
    width = max(len(label) for label in files) + 2
    for label, path in files.items():
        console.print(f"{label:<{width}}{_short(path)}", soft_wrap=True, highlight=False, markup=False)


def _short(path: Path) -> Path:
    """The path from here where that is shorter, as it can be pasted into the next command."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
