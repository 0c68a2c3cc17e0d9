"""The results of an evaluation: `evaluation.json`, written anew after every part, and the tables at the end."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.table import Table

from experiments.common import UserError, write_json
from experiments.data import PUBLISHED, SEVERITIES


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Accuracy in [0,1] on so many images, and the seconds of the pass."""

    accuracy: float
    images: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class CleanScores(Accuracy):
    """Scores on the images as they are.

    Args:
        top5: Top-5 accuracy in [0,1]; None with five classes or fewer.
        calibration_error: Expected calibration error over 15 bins, in [0,1].
        nll: Mean cross-entropy, in nats.
    """

    top5: float | None
    calibration_error: float
    nll: float


@dataclass(kw_only=True)
class CorruptionScores:
    """Accuracies on the corrupted test set in the folder `root`.

    Args:
        images: Number of images of one type at one severity.
        accuracy: Accuracy in [0,1] by type, then by severity in 1 to 5.
        seconds: Time for all of them.
    """

    root: str
    images: int = 0
    accuracy: dict[str, dict[int, float]] = field(default_factory=dict)
    seconds: float = 0.0

    def add(self, corruption: str, severity: int, scores: Accuracy) -> None:
        """Add one type at one severity."""
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
        return fmean(map(self.mean_of, self.averaged)) if self.averaged else None

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
class EvaluationResults:
    """The results so far; None: not measured, or not yet.

    Args:
        facts: What was evaluated and how, as it goes into the file.
        attack_settings: Settings of each attack, by name, see `describe_attack`.
        clean: Scores on the images as they are.
        attacks: Accuracy under each attack, by name.
        corruptions: Accuracy on corrupted images.
        complete: Whether all parts were measured.
    """

    facts: dict[str, Any]
    attack_settings: Mapping[str, Mapping[str, Any]]
    clean: CleanScores | None = None
    attacks: dict[str, Accuracy] = field(default_factory=dict)
    corruptions: CorruptionScores | None = None
    complete: bool = False

    def save(self, path: Path) -> None:
        """Write `evaluation.json`; the file is whole at any moment, the old one or the new one."""
        parts = [part for part in (self.clean, *self.attacks.values(), self.corruptions) if part is not None]
        content = {
            **self.facts,
            "complete": self.complete,
            "images": None if self.clean is None else self.clean.images,
            "seconds": sum(part.seconds for part in parts),
            "clean": None if self.clean is None else asdict(self.clean),
            "attacks": {name: {**self.attack_settings[name], **asdict(each)} for name, each in self.attacks.items()},
            "corruptions": None if self.corruptions is None else self.corruptions.as_json(),
        }
        write_json(path, content)

    def start_file(self, path: Path) -> None:
        """Write the file without results.

        Raises:
            UserError: If another job of the same sweep has written there.
        """
        job = self.facts["sweep_job"]
        other = json.loads(path.read_text()).get("sweep_job") if job is not None and path.is_file() else None
        if other is not None and other[0] == job[0] and other[1] != job[1]:
            raise UserError(
                f"Two jobs of this sweep write to {path}; give each its own folder, e.g. "
                "'output_dir=runs/evaluations/${hydra:job.num}'"
            )
        self.save(path)

    @classmethod
    def load(cls, path: Path) -> "EvaluationResults":
        """Read what `save` wrote."""
        content = json.loads(path.read_text())
        clean, attacks, corruptions = (content.pop(key) for key in ("clean", "attacks", "corruptions"))
        scores = {
            name: Accuracy(**{key: entry.pop(key) for key in ("accuracy", "images", "seconds")})
            for name, entry in attacks.items()
        }
        if corruptions is not None:
            accuracy = {
                name: {int(severity): value for severity, value in by_severity.items()}
                for name, by_severity in corruptions["accuracy"].items()
            }
            fields = {key: corruptions[key] for key in ("root", "images", "seconds")}
            corruptions = CorruptionScores(**fields, accuracy=accuracy)
        return cls(
            complete=content.pop("complete"),
            facts=content,
            attack_settings=attacks,
            clean=None if clean is None else CleanScores(**clean),
            attacks=scores,
            corruptions=corruptions,
        )

    def tables(self, title: str) -> list[Table]:
        """The scores in one table and, where corrupted images were measured, their accuracies in another."""
        table = Table(title=title, title_justify="left", show_header=False)
        table.add_column("")
        table.add_column("", justify="right")
        if self.clean is not None:
            table.add_row(f"accuracy, {self.clean.images} images", f"{self.clean.accuracy:.2%}")
            if self.clean.top5 is not None:
                table.add_row("top-5 accuracy", f"{self.clean.top5:.2%}")
            table.add_row("calibration error, 15 bins", f"{self.clean.calibration_error:.2%}")
            table.add_row("negative log-likelihood, nats", f"{self.clean.nll:.4f}")
        for name, scores in self.attacks.items():
            size = 255 * self.attack_settings[name]["eps"]
            table.add_row(f"accuracy under {name}, eps {size:.3g}/255", f"{scores.accuracy:.2%}")
        if self.corruptions is None:
            return [table]
        if self.corruptions.mean is not None:
            types = f"{len(self.corruptions.averaged)} of {len(PUBLISHED)} types"
            table.add_row(f"accuracy on corrupted images, {types}", f"{self.corruptions.mean:.2%}")
        return [table, _corruption_table(self.corruptions)]


def _corruption_table(scores: CorruptionScores) -> Table:
    table = Table(title=f"Accuracy in %, {scores.images} images each", title_justify="left")
    table.add_column("corruption")
    for heading in (*map(str, SEVERITIES), "mean"):
        table.add_column(heading, justify="right")
    for names, note in ((scores.averaged, ""), (scores.extra, " (not in the mean)")):
        for name in names:
            values = [*scores.accuracy[name].values(), scores.mean_of(name)]
            table.add_row(f"{name}{note}", *(f"{100 * value:.1f}" for value in values))
        table.add_section()
    return table
