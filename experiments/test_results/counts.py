"""Counting the predictions of a test, on the device and over all processes."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassConfusionMatrix

from experiments.test_results.results import CalibrationCurve, TestResults, distinct_names

CALIBRATION_BINS = 15


class CalibrationBins(Metric):
    """Counts, by confidence, how many images there are and how many of them were classified rightly.

    Unlike torchmetrics' calibration error, which gives one number, it gives the whole curve, and keeps three small sums
    instead of every confidence.

    Args:
        bins: Number of bins of equal width.
    """

    # Tell torchmetrics that a batch's own value needs no second update, and that it cannot be differentiated.
    full_state_update = False
    is_differentiable = False

    count: Tensor
    hits: Tensor
    confidence: Tensor

    def __init__(self, bins: int = CALIBRATION_BINS) -> None:
        super().__init__()
        self.bins = bins
        self.add_state("count", torch.zeros(bins, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("hits", torch.zeros(bins, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("confidence", torch.zeros(bins), dist_reduce_fx="sum")

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Add a batch: logits (B,K), classes (B,)."""
        # float(): under half precision the softmax would be too coarse for the bins.
        confidence, predicted = logits.float().softmax(dim=1).max(dim=1)
        edges = torch.linspace(0, 1, self.bins + 1, device=logits.device)
        index = (torch.bucketize(confidence, edges, right=True) - 1).clamp(max=self.bins - 1)
        # Sums over a matrix (B,bins), as adding by index is not deterministic on a GPU.
        members = index[:, None] == torch.arange(self.bins, device=logits.device)
        self.count += members.sum(dim=0)
        self.hits += (members & (predicted == targets)[:, None]).sum(dim=0)
        self.confidence += (members * confidence[:, None]).sum(dim=0)

    def compute(self) -> tuple[Tensor, Tensor, Tensor]:
        """Images, those classified rightly, and the sum of the confidences, (bins,) each."""
        return self.count, self.hits, self.confidence


class TestResultCounts(nn.Module):
    """The metrics that an `Outcome` is made of.

    Args:
        num_classes: Number of classes.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.confusion = MulticlassConfusionMatrix(num_classes, validate_args=False)
        self.calibration = CalibrationBins()

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Add a batch: logits (B,K), classes (B,)."""
        self.confusion.update(logits, targets)
        self.calibration.update(logits, targets)

    def reset(self) -> None:
        """Start again from nothing."""
        self.confusion.reset()
        self.calibration.reset()

    def outcome(self, class_names: Sequence[str] | None = None) -> TestResults:
        """Sum over all processes, each of which must call it.

        Args:
            class_names: One name a class; None: their numbers. Names of several classes get the number behind them.
        """
        confusion = self.confusion.compute().cpu().numpy().astype(np.int64)
        names = [str(label) for label in range(len(confusion))] if class_names is None else class_names
        return TestResults(distinct_names(names), confusion, self._curve())

    def _curve(self) -> CalibrationCurve:
        count, hits, confidence = (values.cpu().numpy() for values in self.calibration.compute())
        # 0/0 is the NaN of an empty bin.
        with np.errstate(invalid="ignore"):
            return CalibrationCurve(
                edges=np.linspace(0, 1, len(count) + 1),
                count=count.astype(np.int64),
                confidence=confidence.astype(np.float64) / count,
                accuracy=hits.astype(np.float64) / count,
            )
