"""The results of a test, per class: the confusion matrix, and the confidence of the model against its accuracy."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from experiments.common import write_json

TEST_RESULTS = "test_results.json"

Counts = npt.NDArray[np.int64]
Shares = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CalibrationCurve:
    """Accuracy against confidence (the probability of the predicted class), in bins of equal width (Guo et al. 2017).

    Args:
        edges: (bins+1,) ascending bounds in [0,1]. A bin holds its lower bound and not its upper one; the last holds both.
        count: (bins,) images in each bin.
        confidence: (bins,) mean confidence in [0,1]; NaN where a bin is empty.
        accuracy: (bins,) accuracy in [0,1]; NaN where a bin is empty.
    """

    edges: Shares
    count: Counts
    confidence: Shares
    accuracy: Shares

    @classmethod
    def of(
        cls, confidences: npt.NDArray[np.floating], correct: npt.NDArray[np.floating], *, bins: int
    ) -> "CalibrationCurve":
        """Bin the confidences (images,) in [0,1] of predictions that are correct, 1, or not, 0."""
        edges, weights = np.linspace(0, 1, bins + 1), (None, confidences.astype(float), correct.astype(float))
        count, *sums = (np.histogram(confidences, edges, weights=each)[0] for each in weights)
        # 0/0 is the NaN of an empty bin.
        with np.errstate(invalid="ignore"):
            confidence, accuracy = (total / count for total in sums)
        return cls(edges, count.astype(np.int64), confidence, accuracy)

    @property
    def gap(self) -> float:
        """Confidence minus accuracy, mean over all images: above 0 the model is overconfident; NaN without images."""
        return self._mean(self.confidence - self.accuracy)

    @property
    def expected_error(self) -> float:
        """Expected calibration error in [0,1]; NaN without images.

        That of torchmetrics, except that it gives a confidence of exactly 1 a bin of its own.
        """
        return self._mean(np.abs(self.confidence - self.accuracy))

    def _mean(self, values: Shares) -> float:
        filled = self.count > 0
        return float(np.average(values[filled], weights=self.count[filled])) if filled.any() else float("nan")


@dataclass(frozen=True)
class Confusion:
    """Images of the class `true` that were predicted as another one: their number, and their share of the class, in (0,1]."""

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
        calibration: Accuracy against confidence.

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
        """Accuracy in [0,1]; NaN without images."""
        return float(np.trace(self.confusion) / self.images) if self.images else float("nan")

    def per_class_count(self) -> Counts:
        """Images (K,) of each class."""
        return self.confusion.sum(axis=1)

    def confusion_shares(self) -> Shares:
        """The confusion matrix (K,K) as shares in [0,1] of each true class; NaN in the rows of classes without images."""
        with np.errstate(invalid="ignore"):
            return self.confusion / self.per_class_count()[:, None]

    def per_class_accuracy(self) -> Shares:
        """Accuracy (K,) in [0,1] of each class; NaN for classes without images."""
        return self.confusion_shares().diagonal().copy()

    def most_confused(self, limit: int) -> list[Confusion]:
        """At most `limit` pairs of different classes, those of most images first; of as many, those of smaller classes."""
        shares, names = self.confusion_shares(), self.class_names
        pairs = [
            Confusion(names[row], names[column], int(self.confusion[row, column]), float(shares[row, column]))
            for row, column in np.argwhere(self.confusion)
            if row != column
        ]
        return sorted(pairs, key=lambda pair: (-pair.count, -pair.share))[:limit]

    def save(self, path: Path) -> None:
        """Write as JSON; of the confusion matrix only what is not 0, so a thousand classes stay a small file."""
        rows, columns = np.nonzero(self.confusion)
        cells = {"true": rows, "predicted": columns, "count": self.confusion[rows, columns]}
        content = {
            "class_names": list(self.class_names),
            "confusion": {name: values.tolist() for name, values in cells.items()},
            # JSON has no NaN.
            "calibration": {
                name: [None if np.isnan(value) else value for value in values.tolist()]
                for name, values in vars(self.calibration).items()
            },
        }
        write_json(path, content, allow_nan=False, indent=None, separators=(",", ":"))

    @classmethod
    def load(cls, path: Path) -> "TestResults":
        """Read what `save` wrote."""
        content = json.loads(path.read_text())
        names, cells, curve = content["class_names"], content["confusion"], content["calibration"]
        confusion = np.zeros((len(names), len(names)), dtype=np.int64)
        confusion[cells["true"], cells["predicted"]] = cells["count"]
        # None becomes NaN.
        edges, confidence, accuracy = (np.array(curve[name], float) for name in ("edges", "confidence", "accuracy"))
        return cls(tuple(names), confusion, CalibrationCurve(edges, np.array(curve["count"]), confidence, accuracy))


def distinct_names(names: Iterable[object]) -> tuple[str, ...]:
    """The names, with the label behind those that several classes have, as ImageNet's two kinds of "crane"."""
    texts = [str(name) for name in names]
    return tuple(f"{name} ({label})" if texts.count(name) > 1 else name for label, name in enumerate(texts))
