"""What an evaluation leaves behind: evaluation.json, written anew after every part, and the tables at the end."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console, Group
from rich.table import Table

from experiments.common.atomic_files import write_json
from experiments.common.console import print_plain, short
from experiments.data.corruptions import PUBLISHED, SEVERITIES
from experiments.robustness.scoring import Accuracy, CleanScores


@dataclass(kw_only=True)
class CorruptionScores:
    """Accuracies on corrupted images.

    Args:
        root: Folder of the corrupted test set.
        images: Number of images of one type at one severity.
        accuracy: Share in [0,1] by type, then by severity in 1 to 5.
        seconds: Time for all of them.
    """

    root: str
    images: int = 0
    accuracy: dict[str, dict[int, float]] = field(default_factory=dict)
    seconds: float = 0.0

    def add(self, corruption: str, severity: int, scores: Accuracy) -> None:
        """Take in the scores of one type at one severity."""
        self.accuracy.setdefault(corruption, {})[severity] = scores.accuracy
        self.images = scores.images
        self.seconds += scores.seconds

    def mean_of(self, corruption: str) -> float:
        """Mean accuracy of one type over its severities."""
        return fmean(self.accuracy[corruption].values())

    @property
    def averaged(self) -> list[str]:
        """The types in the mean: those of the published 15 that were measured."""
        return [name for name in PUBLISHED if name in self.accuracy]

    @property
    def extra(self) -> list[str]:
        """The other types that were measured."""
        return [name for name in self.accuracy if name not in PUBLISHED]

    @property
    def mean(self) -> float | None:
        """Mean accuracy over types and severities; None if none of the published types was measured."""
        return fmean(self.mean_of(name) for name in self.averaged) if self.averaged else None

    def as_json(self) -> dict[str, Any]:
        """Everything, with the means and which types are in them."""
        return {
            **asdict(self),
            "mean_by_type": {name: self.mean_of(name) for name in self.accuracy},
            "mean": self.mean,
            "types_in_mean": self.averaged,
            "published_types_not_measured": [name for name in PUBLISHED if name not in self.accuracy],
            "extra_types": self.extra,
        }


@dataclass(kw_only=True)
class Report:
    """The results so far.

    Args:
        facts: What was evaluated and how, as it goes into the file.
        clean: Scores on the images as they are; None: not yet.
        attack_settings: What each attack is, by name, see `describe_attack`.
        attacks: Accuracy under each attack, by name.
        corruptions: Accuracy on corrupted images; None: not measured, or not yet.
        complete: Whether all parts were measured.
    """

    facts: dict[str, Any]
    attack_settings: Mapping[str, Mapping[str, Any]]
    clean: CleanScores | None = None
    attacks: dict[str, Accuracy] = field(default_factory=dict)
    corruptions: CorruptionScores | None = None
    complete: bool = False

    def as_json(self) -> dict[str, Any]:
        """The content of evaluation.json."""
        parts = [part for part in (self.clean, *self.attacks.values(), self.corruptions) if part is not None]
        return {
            **self.facts,
            "complete": self.complete,
            "images": None if self.clean is None else self.clean.images,
            "seconds": sum(part.seconds for part in parts),
            "clean": None if self.clean is None else asdict(self.clean),
            "attacks": {
                name: {**self.attack_settings[name], **asdict(scores)} for name, scores in self.attacks.items()
            },
            "corruptions": None if self.corruptions is None else self.corruptions.as_json(),
        }

    def save(self, path: Path) -> None:
        """Write the results so far; the file is whole at any moment, the old one or the new one."""
        write_json(path, self.as_json())


def print_report(console: Console, report: Report, title: str, files: Iterable[Path]) -> None:
    """Print the tables and, as the last lines, the files; paths are never wrapped."""
    console.print(Group(*report_tables(report, title)))
    for path in files:
        print_plain(str(short(path)), console)


def report_tables(report: Report, title: str) -> list[Table]:
    """The scores in one table and, where corrupted images were measured, their accuracies in another."""
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column("")
    table.add_column("", justify="right")
    if report.clean is not None:
        clean = report.clean
        table.add_row(f"accuracy, {clean.images} images", f"{clean.accuracy:.2%}")
        if clean.top5 is not None:
            table.add_row("top-5 accuracy", f"{clean.top5:.2%}")
        table.add_row("calibration error, 15 bins", f"{clean.calibration_error:.2%}")
        table.add_row("negative log-likelihood, nats", f"{clean.nll:.4f}")
    for name, scores in report.attacks.items():
        table.add_row(f"accuracy under {name}{_size(report.attack_settings[name])}", f"{scores.accuracy:.2%}")
    if report.corruptions is None:
        return [table]
    corruptions = report.corruptions
    if corruptions.mean is not None:
        label = f"accuracy on corrupted images, {len(corruptions.averaged)} of {len(PUBLISHED)} types"
        table.add_row(label, f"{corruptions.mean:.2%}")
    return [table, _corruption_table(corruptions)]


def _size(settings: Mapping[str, Any]) -> str:
    return f", eps {255 * settings['eps']:.3g}/255"


def _corruption_table(scores: CorruptionScores) -> Table:
    table = Table(title=f"Accuracy in %, {scores.images} images each", title_justify="left")
    table.add_column("corruption")
    for severity in SEVERITIES:
        table.add_column(f"{severity}", justify="right")
    table.add_column("mean", justify="right")
    for names, is_extra in ((scores.averaged, False), (scores.extra, True)):
        for name in names:
            cells = [f"{100 * value:.1f}" for value in scores.accuracy[name].values()]
            table.add_row(
                f"{name}{' (not in the mean)' if is_extra else ''}", *cells, f"{100 * scores.mean_of(name):.1f}"
            )
        table.add_section()
    return table
