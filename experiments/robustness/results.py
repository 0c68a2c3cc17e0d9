"""The results of an evaluation: `evaluation.json`, written anew after every part, and the tables at the end."""

import json
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import BaseModel, computed_field
from rich.table import Table

from experiments.common import write_json
from experiments.data import PUBLISHED, SEVERITIES

# The authors' script averages these; the published mean is that of the first 15.
ALL_TYPES = (*PUBLISHED, "speckle_noise", "gaussian_blur", "spatter", "saturate")


class Accuracy(BaseModel):
    """Accuracy in [0,1] on so many images, and the seconds of the pass."""

    accuracy: float
    images: int
    seconds: float


class CleanScores(Accuracy):
    """Scores on the images as they are: expected calibration error in [0,1] over 15 bins, mean cross-entropy in nats."""

    top5: float | None = None  # None with five classes or fewer
    calibration_error: float
    nll: float


class AttackScores(Accuracy, extra="allow"):
    """Accuracy under an attack, with the settings of the attack."""

    eps: float


class CorruptionScores(BaseModel):
    """Accuracies in [0,1] on so many `images` of the corrupted test set in `root`, by type, then by severity in 1 to 5."""

    root: str
    images: int = 0
    accuracy: dict[str, dict[int, float]] = {}
    seconds: float = 0.0

    @computed_field
    def mean_by_type(self) -> dict[str, float]:
        """Mean accuracy of each type over its severities."""
        return {name: fmean(by_severity.values()) for name, by_severity in self.accuracy.items()}

    @computed_field
    def types_in_mean(self) -> list[str]:
        """Those of the published 15 that were measured."""
        return [name for name in PUBLISHED if name in self.accuracy]

    @computed_field
    def mean(self) -> float | None:
        """Mean accuracy over `types_in_mean` and severities; None if there are none."""
        return fmean(self.mean_by_type[name] for name in self.types_in_mean) if self.types_in_mean else None

    @computed_field
    def mean_of_19_types(self) -> float | None:
        """Mean accuracy over the 15 types and the authors' 4 others; None unless all were measured."""
        return fmean(self.mean_by_type[name] for name in ALL_TYPES) if {*ALL_TYPES} <= {*self.accuracy} else None

    def rows(self) -> list[tuple[str, list[float]]]:
        """Of each type, first those in the mean: its name, its accuracy at each severity, and their mean."""
        names = sorted(self.accuracy, key=lambda name: name not in PUBLISHED)
        return [(name, [*self.accuracy[name].values(), self.mean_by_type[name]]) for name in names]


class EvaluationResults(BaseModel):
    """The results so far; None: not measured, or not yet. `facts` tell what was evaluated and how."""

    facts: dict[str, Any]
    complete: bool = False
    clean: CleanScores | None = None
    attacks: dict[str, AttackScores] = {}
    corruptions: CorruptionScores | None = None

    def save(self, path: Path) -> None:
        """Write `evaluation.json`; the file is whole at any moment, the old one or the new one."""
        seconds = sum(part.seconds for part in (self.clean, *self.attacks.values(), self.corruptions) if part)
        totals = {"images": self.clean and self.clean.images, "seconds": seconds}
        write_json(path, {**self.facts, **totals, **self.model_dump(mode="json", exclude={"facts"})})

    @classmethod
    def load(cls, path: Path) -> "EvaluationResults":
        """Read what `save` wrote."""
        content = json.loads(path.read_bytes())
        parts = {name: content.pop(name) for name in ("complete", "clean", "attacks", "corruptions")}
        return cls(facts=content, **parts)

    def accuracies(self) -> dict[str, float]:
        """All accuracies in [0,1], of corrupted images the means, by what they are of."""
        found = {f"accuracy, {self.clean.images} images": self.clean.accuracy} if self.clean else {}
        for name, scores in self.attacks.items():
            found[f"accuracy under {name}, eps {255 * scores.eps:.3g}/255"] = scores.accuracy
        if scores := self.corruptions:
            means = {f"{len(scores.types_in_mean)} of 15 types": scores.mean, "all 19 types": scores.mean_of_19_types}
            found |= {f"accuracy on corrupted images, {of}": mean for of, mean in means.items() if mean is not None}
        return found

    def tables(self, title: str) -> list[Table]:
        """The scores in one table and, where corrupted images were measured, their accuracies in another."""
        rows = {name: f"{accuracy:.2%}" for name, accuracy in self.accuracies().items()}
        if self.clean:
            rows |= {} if self.clean.top5 is None else {"top-5 accuracy": f"{self.clean.top5:.2%}"}
            rows["calibration error, 15 bins"] = f"{self.clean.calibration_error:.2%}"
            rows["negative log-likelihood, nats"] = f"{self.clean.nll:.4f}"
        table = Table(title=title, title_justify="left", show_header=False)
        for row in rows.items():
            table.add_row(*row)
        if not self.corruptions:
            return [table]
        columns = ["corruption", *map(str, SEVERITIES), "mean"]
        by_type = Table(*columns, title=f"Accuracy in %, {self.corruptions.images} images each", title_justify="left")
        for name, values in self.corruptions.rows():
            note = "" if name in PUBLISHED else " (not one of the 15)"
            by_type.add_row(f"{name}{note}", *(f"{100 * value:.1f}" for value in values))
        return [table, by_type]
