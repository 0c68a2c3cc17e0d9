"""The image classifier of the study: any network, one loss, the metrics of every split."""

import math

import pytorch_lightning as pl
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from experiments.losses import find_loss
from experiments.optimizer import SGDConfig

CALIBRATION_BINS = 15


class Classifier(pl.LightningModule):
    """Trains `net` on (images, targets) and scores it.

    Logged as means over the epoch: `train_loss` (of what the network saw, mixed or not) and `train_accuracy` (against
    the dominant label of a mixed image); `val_*` and `test_*`: `accuracy`, `top5` (with more than 5 classes),
    `calibration_error` (expected, 15 bins, in [0,1]) and `nll` (nats).

    Args:
        net: Maps images (B,C,H,W) to logits (B,num_classes).
        num_classes: Number of classes.
        optimizer: Settings of optimizer and schedule.
        loss: A name in `experiments.losses.LOSSES`.
    """

    def __init__(
        self, net: nn.Module, *, num_classes: int, optimizer: SGDConfig | None = None, loss: str = "cross_entropy"
    ) -> None:
        super().__init__()
        self.net = net
        self.optimizer_config = SGDConfig() if optimizer is None else optimizer
        self.loss = find_loss(loss)
        self.train_metrics = _accuracies(num_classes).clone(prefix="train_")
        self.val_metrics = _all_metrics(num_classes).clone(prefix="val_")
        self.test_metrics = _all_metrics(num_classes).clone(prefix="test_")

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B,C,H,W) to logits (B,num_classes)."""
        return self.net(images)

    def on_train_epoch_start(self) -> None:
        """Log `lr`, the learning rate that the epoch starts with."""
        self.log("lr", self.trainer.optimizers[0].param_groups[0]["lr"])

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the mean loss of one batch; targets are classes (B,) or probabilities (B,num_classes)."""
        images, targets = batch
        logits = self(images)
        loss = self.loss(logits, targets)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(images))
        self.train_metrics(logits.detach(), dominant_classes(targets))
        self.log_dict(self.train_metrics, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Score one validation batch with classes (B,)."""
        self._score(batch, self.val_metrics, "val_nll")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Score one test batch with classes (B,)."""
        self._score(batch, self.test_metrics, "test_nll")

    def _score(self, batch: tuple[Tensor, Tensor], metrics: MetricCollection, nll: str) -> None:
        images, targets = batch
        logits = self(images)
        # float(): under half precision a softmax of the logits would be too coarse for calibration.
        logits = logits.float()
        metrics.update(logits, targets)
        self.log_dict(metrics, on_step=False, on_epoch=True)
        self.log(nll, F.cross_entropy(logits, targets), on_step=False, on_epoch=True, batch_size=len(images))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build SGD and its schedule for the Trainer's length of run."""
        # Asking for the total first makes the Trainer load the data, without which the batches are not counted.
        total_steps = self.trainer.estimated_stepping_batches
        steps_per_epoch = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        optimizer, scheduler = self.optimizer_config.build(
            self.parameters(), epochs=total_steps / steps_per_epoch, steps_per_epoch=steps_per_epoch
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


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


def _all_metrics(num_classes: int) -> MetricCollection:
    metrics = _accuracies(num_classes)
    metrics.add_metrics(
        {"calibration_error": MulticlassCalibrationError(num_classes, n_bins=CALIBRATION_BINS, norm="l1")}
    )
    return metrics
