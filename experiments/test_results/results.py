"""What a test says class by class: which were taken for which, and how far the model's confidence can be trusted."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from experiments.common.atomic_files import write_json

TEST_RESULTS = "test_results.json"

Counts = npt.NDArray[np.int64]
Shares = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CalibrationCurve:
    """Accuracy over confidence (the probability of the predicted class), in bins of equal width (Guo et al. 2017).

    Args:
        edges: (bins+1,) ascending bounds in [0,1]. A bin holds its lower bound and not its upper one; the last holds both.
        count: (bins,) images in each bin.
        confidence: (bins,) mean confidence in [0,1]; NaN where a bin is empty.
        accuracy: (bins,) share of the images that were classified rightly; NaN where a bin is empty.
    """

    edges: Shares
    count: Counts
    confidence: Shares
    accuracy: Shares

    @property
    def expected_error(self) -> float:
        """Expected calibration error in [0,1]: mean distance of the two over all images; NaN without images.

        That of torchmetrics, which logs `test_calibration_error`, except that it gives a confidence of exactly 1 a bin
        of its own.
        """
        if not self.count.any():
            return float("nan")
        filled = self.count > 0
        gaps = np.abs(self.accuracy - self.confidence)[filled]
        return float(np.average(gaps, weights=self.count[filled]))


@dataclass(frozen=True)
class Confusion:
    """A class that was taken for another one.

    Args:
        true: Name of the class that the images are of.
        predicted: Name of the class that they were taken for.
        count: Images of which that is true.
        share: The same as a share, in (0,1], of all images of the class `true`.
    """

    true: str
    predicted: str
    count: int
    share: float


@dataclass(frozen=True, eq=False)
class TestResults:
    """The predictions for K classes, counted; `test_results.json` in the run folder holds it.

    In a run of several processes an image that fills up the last batch of one is counted twice, as in all test metrics.

    Args:
        class_names: K names, in the order of the labels.
        confusion: (K,K) images by true class (rows) and predicted class (columns).
        calibration: Accuracy over confidence.

    Raises:
        ValueError: If the confusion matrix does not fit the class names.
    """

    class_names: tuple[str, ...]
    confusion: Counts
    calibration: CalibrationCurve

    def __post_init__(self) -> None:
        classes = len(self.class_names)
        if self.confusion.shape != (classes, classes):
            raise ValueError(
                f"confusion must be ({classes}, {classes}), a row and a column for each of class_names, "
                f"got {self.confusion.shape}"
            )

    @property
    def images(self) -> int:
        """Number of images."""
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """Share in [0,1] of the images that were classified rightly; NaN without images."""
        return float(np.trace(self.confusion) / self.images) if self.images else float("nan")

    def per_class_count(self) -> Counts:
        """Images (K,) of each class."""
        return self.confusion.sum(axis=1)

    def confusion_shares(self) -> Shares:
        """The confusion matrix (K,K) as shares in [0,1] of each true class; NaN in the rows of classes without images."""
        counts = self.per_class_count()[:, None].astype(np.float64)
        return np.divide(self.confusion, counts, out=np.full(self.confusion.shape, np.nan), where=counts > 0)

    def per_class_accuracy(self) -> Shares:
        """Share (K,) in [0,1] of each class's images that were classified rightly; NaN for classes without images."""
        return self.confusion_shares().diagonal().copy()

    def most_confused(self, limit: int) -> list[Confusion]:
        """At most `limit` pairs of different classes, those of most images first; of as many, those of smaller classes.

        Raises:
            ValueError: If limit is below 1.
        """
        if limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        rows, columns = np.nonzero(self.confusion * ~np.eye(len(self.class_names), dtype=bool))
        counts, shares = self.confusion[rows, columns], self.confusion_shares()[rows, columns]
        # The last key counts most; what ties stays in the order of the labels.
        order = np.lexsort((-shares, -counts))[:limit]
        return [
            Confusion(
                self.class_names[rows[index]],
                self.class_names[columns[index]],
                int(counts[index]),
                float(shares[index]),
            )
            for index in order
        ]

    def save(self, path: Path) -> None:
        """Write as JSON; of the confusion matrix only what is not 0, so a thousand classes stay a small file."""
        rows, columns = np.nonzero(self.confusion)
        cells = {"true": rows, "predicted": columns, "count": self.confusion[rows, columns]}
        curve = self.calibration
        content = {
            "class_names": list(self.class_names),
            "confusion": {name: values.tolist() for name, values in cells.items()},
            "calibration": {
                "edges": curve.edges.tolist(),
                "count": curve.count.tolist(),
                "confidence": _without_nan(curve.confidence),
                "accuracy": _without_nan(curve.accuracy),
            },
        }
        write_json(path, content, allow_nan=False, indent=None, separators=(",", ":"))

    @classmethod
    def load(cls, path: Path) -> "TestResults":
        """Read what `save` wrote."""
        content: dict[str, Any] = json.loads(path.read_text())
        classes, cells, curve = len(content["class_names"]), content["confusion"], content["calibration"]
        confusion = np.zeros((classes, classes), dtype=np.int64)
        confusion[cells["true"], cells["predicted"]] = cells["count"]
        calibration = CalibrationCurve(
            edges=np.array(curve["edges"], dtype=np.float64),
            count=np.array(curve["count"], dtype=np.int64),
            # None becomes NaN.
            confidence=np.array(curve["confidence"], dtype=np.float64),
            accuracy=np.array(curve["accuracy"], dtype=np.float64),
        )
        return cls(tuple(content["class_names"]), confusion, calibration)


def distinct_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names, with the label behind those that several classes have, as ImageNet's two kinds of "crane"."""
    names = [str(name) for name in names]
    return tuple(f"{name} ({label})" if names.count(name) > 1 else name for label, name in enumerate(names))


def _without_nan(values: Shares) -> Sequence[float | None]:
    """JSON has no NaN."""
    return [None if np.isnan(value) else float(value) for value in values]
