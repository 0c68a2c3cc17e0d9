"""The results of a test, per class: the confusion matrix, and the confidence of the model against its accuracy."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.metrics import confusion_matrix
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from experiments.common import write_json

TEST_RESULTS = "test_results.json"
CALIBRATION_BINS = 15


@dataclass(frozen=True, eq=False)
class CalibrationCurve:
    """Accuracy against confidence (the probability of the predicted class), in bins of equal width (Guo et al. 2017).

    Of each bin `count` is the number of images; the means `confidence` and `accuracy` in [0,1] are NaN where there are none.
    `edges` (bins+1,) ascend from 0 to 1; a bin holds its lower one and not its upper one, the last holds both.
    """

    edges: np.ndarray
    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def expected_error(self) -> float:
        """Expected calibration error in [0,1], that of torchmetrics; NaN without images."""
        gaps, filled = np.abs(self.confidence - self.accuracy), self.count > 0
        return float(np.average(gaps[filled], weights=self.count[filled])) if filled.any() else float("nan")


class Confusion(NamedTuple):
    """Images of the class `true` that were predicted as another one: their number, and their share of the class, in (0,1]."""

    true: str
    predicted: str
    count: int
    share: float


@dataclass(frozen=True, eq=False)
class TestResults:
    """The predictions for K classes, counted; `test_results.json` in the run folder holds it.

    `confusion` (K,K) is the number of images by true class (rows) and predicted class (columns). In a run of several
    processes an image that fills up the last batch of one is counted twice, as in all test metrics.
    """

    class_names: tuple[str, ...]
    confusion: np.ndarray
    calibration: CalibrationCurve

    @property
    def images(self) -> int:
        """Number of images."""
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """Accuracy in [0,1]; NaN without images."""
        return float(np.trace(self.confusion) / self.images) if self.images else float("nan")

    def per_class_count(self) -> np.ndarray:
        """Images (K,) of each class."""
        return self.confusion.sum(axis=1)

    def confusion_shares(self) -> np.ndarray:
        """The confusion matrix (K,K) as shares in [0,1] of each true class; NaN in the rows of classes without images."""
        with np.errstate(invalid="ignore"):
            return self.confusion / self.per_class_count()[:, None]

    def per_class_accuracy(self) -> np.ndarray:
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
        content: dict[str, Any] = {"class_names": self.class_names}
        for name, arrays in {"confusion": cells, "calibration": vars(self.calibration)}.items():
            # JSON has no NaN.
            content[name] = {key: np.where(np.isnan(each), None, each).tolist() for key, each in arrays.items()}
        write_json(path, content, allow_nan=False, indent=None, separators=(",", ":"))

    @classmethod
    def load(cls, path: Path) -> "TestResults":
        """Read what `save` wrote."""
        content = json.loads(path.read_bytes())
        names, cells, curve = content["class_names"], content["confusion"], content["calibration"]
        confusion = np.zeros((len(names), len(names)), dtype=np.int64)
        confusion[cells["true"], cells["predicted"]] = cells["count"]
        edges, confidence, accuracy = (np.array(curve[name], float) for name in ("edges", "confidence", "accuracy"))
        return cls(tuple(names), confusion, CalibrationCurve(edges, np.array(curve["count"]), confidence, accuracy))


class TestResultCounts(Metric):
    """Collects the predictions of a test with K classes, over all processes."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.add_state("predictions", [], dist_reduce_fx="cat")

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Add a batch: logits (B,K), classes (B,)."""
        # float(): under half precision the softmax would be too coarse for the bins.
        confidences = logits.float().softmax(dim=1).amax(dim=1)
        self.predictions.append(torch.stack([targets, logits.argmax(dim=1), confidences], dim=1))

    def compute(self) -> Tensor:
        """True class, predicted class and confidence of each image, (images,3)."""
        return dim_zero_cat(self.predictions)

    def results(self, class_names: Sequence[str] | None = None) -> TestResults:
        """Sum over all processes, each of which must call it; without names classes are numbers, see `distinct_names`."""
        targets, predicted, confidences = self.compute().cpu().double().numpy().T
        confusion = confusion_matrix(targets, predicted, labels=range(self.num_classes))
        edges, hits = np.linspace(0, 1, CALIBRATION_BINS + 1), (predicted == targets).astype(float)
        count, *sums = (np.histogram(confidences, edges, weights=each)[0] for each in (None, confidences, hits))
        with np.errstate(invalid="ignore"):
            curve = CalibrationCurve(edges, count, *(total / count for total in sums))
        return TestResults(distinct_names(class_names or range(self.num_classes)), confusion, curve)


def distinct_names(names: Iterable[object]) -> tuple[str, ...]:
    """The names, with the label behind those that several classes have, as ImageNet's two kinds of "crane"."""
    texts = [str(name) for name in names]
    return tuple(f"{name} ({label})" if texts.count(name) > 1 else name for label, name in enumerate(texts))
