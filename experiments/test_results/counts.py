"""Counts of the predictions of a test, on the device and over all processes."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn
from torchmetrics.classification import MulticlassCalibrationError, MulticlassConfusionMatrix
from torchmetrics.utilities import dim_zero_cat

from experiments.test_results.results import CalibrationCurve, TestResults, distinct_names

CALIBRATION_BINS = 15


class Confidences(MulticlassCalibrationError):
    """Computes what torchmetrics' calibration error is computed from: (images,) confidences, and 1 where correct, else 0."""

    def compute(self) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Gather them from all processes."""
        return dim_zero_cat(self.confidences), dim_zero_cat(self.accuracies)


class TestResultCounts(nn.Module):
    """The metrics that `TestResults` are made of, for so many classes."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.confusion = MulticlassConfusionMatrix(num_classes, validate_args=False)
        self.confidences = Confidences(num_classes, CALIBRATION_BINS, validate_args=False)

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Add a batch: logits (B,K), classes (B,)."""
        self.confusion.update(logits, targets)
        # float(): under half precision the softmax would be too coarse for the bins.
        self.confidences.update(logits.float().softmax(dim=1), targets)

    def reset(self) -> None:
        """Forget all batches."""
        self.confusion.reset()
        self.confidences.reset()

    def results(self, class_names: Sequence[str] | None = None) -> TestResults:
        """Sum over all processes, each of which must call it.

        Args:
            class_names: One name a class; None: their numbers. Names of several classes get the number behind them.
        """
        confusion = self.confusion.compute().cpu().numpy().astype(np.int64)
        confidences, correct = (values.cpu().numpy() for values in self.confidences.compute())
        names = range(len(confusion)) if class_names is None else class_names
        curve = CalibrationCurve.of(confidences, correct, bins=CALIBRATION_BINS)
        return TestResults(distinct_names(names), confusion, curve)
