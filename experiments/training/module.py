"""The image classifier of the study: any network, one loss, the metrics of every split."""

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from experiments.test_results.counts import CALIBRATION_BINS, TestResultCounts
from experiments.test_results.results import TestResults
from experiments.training.losses import find_loss
from experiments.training.optim import Moment, SGDConfig


class Classifier(pl.LightningModule):
    """Trains `net` on (images, targets) and scores it.

    Logged as means over the epoch: `train_loss` (of what the network saw, mixed or not) and `train_accuracy` (against
    the dominant label of a mixed image); `val_*` and `test_*`: `accuracy`, `top5` (with more than 5 classes),
    `calibration_error` (expected, 15 bins, in [0,1]) and `nll` (nats). A second validation loader holds test images and is
    logged as `test_*`. After a test `outcome` tells the same class by class.

    Args:
        net: Maps images (B,C,H,W) to logits (B,num_classes).
        num_classes: Number of classes.
        optimizer: Settings of optimizer and schedule.
        loss: A name in `experiments.training.losses.LOSSES`.
        class_names: One name a class, for `outcome`; None: their numbers.

    Attributes:
        outcome: Of the last finished test, over all processes; None before.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        num_classes: int,
        optimizer: SGDConfig | None = None,
        loss: str = "ce",
        class_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        self.optimizer_config = SGDConfig() if optimizer is None else optimizer
        self.loss = find_loss(loss)
        self.train_metrics = _accuracies(num_classes).clone(prefix="train_")
        self.val_metrics = classification_metrics(num_classes).clone(prefix="val_")
        self.test_metrics = classification_metrics(num_classes).clone(prefix="test_")
        self.test_counts = TestResultCounts(num_classes)
        self.class_names = class_names
        self.outcome: TestResults | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B,C,H,W) to logits (B,num_classes)."""
        return self.net(images)

    def on_train_epoch_start(self) -> None:
        """Log `lr`, the learning rate that the epoch starts with."""
        self.log("lr", self._set_rate(0), sync_dist=True)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Set the learning rate of this step."""
        self._set_rate(batch_idx)

    def _set_rate(self, batch_idx: int) -> float:
        batches = self.trainer.num_training_batches
        epoch = self.trainer.current_epoch
        moment = Moment(epoch + batch_idx / batches, epoch + (batch_idx + 1) / batches, self._total_epochs())
        rate = self.optimizer_config.rate(moment)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = rate
        return rate

    def _total_epochs(self) -> float:
        """Length of the run in epochs; one that is limited by its steps alone need not end with an epoch."""
        if self.trainer.max_epochs is not None and self.trainer.max_epochs > 0:
            return self.trainer.max_epochs
        micro_batches = self.trainer.max_steps * self.trainer.accumulate_grad_batches
        return max(1, micro_batches) / self.trainer.num_training_batches

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the mean loss of one batch; targets are classes (B,) or probabilities (B,num_classes)."""
        images, targets = batch
        logits = self(images)
        loss = self.loss(logits, targets)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(images), sync_dist=True)
        self.train_metrics(logits.detach(), dominant_classes(targets))
        self.log_dict(self.train_metrics, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Score one batch with classes (B,): of the validation images, or from the second loader of the test images."""
        self._score(batch, "val" if dataloader_idx == 0 else "test")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Score one test batch with classes (B,)."""
        self.test_counts.update(self._score(batch, "test"), batch[1])

    def on_test_epoch_start(self) -> None:
        """Forget the test before."""
        self.test_counts.reset()

    def on_test_epoch_end(self) -> None:
        """Set `outcome`."""
        self.outcome = self.test_counts.results(self.class_names)

    def _score(self, batch: tuple[Tensor, Tensor], split: str) -> Tensor:
        metrics: MetricCollection = self.val_metrics if split == "val" else self.test_metrics
        images, targets = batch
        logits = self(images)
        # float(): under half precision a softmax of the logits would be too coarse for calibration.
        logits = logits.float()
        metrics.update(logits, targets)
        nll = F.cross_entropy(logits, targets)
        # The names say already which loader the images came from.
        options = {"on_step": False, "on_epoch": True, "add_dataloader_idx": False}
        self.log_dict(metrics, **options)
        self.log(f"{split}_nll", nll, batch_size=len(images), sync_dist=True, **options)
        return logits

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Build SGD; its rate is set anew for every step."""
        return self.optimizer_config.build(self)


def dominant_classes(targets: Tensor) -> Tensor:
    """Classes (B,) of targets that are classes (B,) already or probabilities (B,K): then the most probable one."""
    return targets.argmax(dim=1) if targets.ndim == 2 else targets


def _accuracies(num_classes: int) -> MetricCollection:
    """Top-1 and, with more than 5 classes, top-5; micro-averaged: every image counts the same."""
    metrics: dict[str, Metric | MetricCollection] = {
        "accuracy": MulticlassAccuracy(num_classes, average="micro", validate_args=False)
    }
    if num_classes > 5:
        metrics["top5"] = MulticlassAccuracy(num_classes, top_k=5, average="micro", validate_args=False)
    # One state per metric: sharing would tie top-1 to top-5, which count different hits.
    return MetricCollection(metrics, compute_groups=False)


def classification_metrics(num_classes: int) -> MetricCollection:
    """`accuracy`, with more than 5 classes `top5`, and `calibration_error`, of logits (B,num_classes) and classes (B,)."""
    metrics = _accuracies(num_classes)
    metrics.add_metrics(
        {"calibration_error": MulticlassCalibrationError(num_classes, n_bins=CALIBRATION_BINS, norm="l1")}
    )
    return metrics
