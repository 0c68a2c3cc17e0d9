"""The image classifier of the study: any network, one loss, the metrics of every split."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, LambdaLR, LRScheduler, OneCycleLR
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from experiments.test_results import CALIBRATION_BINS, TestResultCounts, TestResults
from experiments.training.losses import find_loss
from experiments.training.optim import Progress, parameter_groups


class Classifier(pl.LightningModule):
    """Trains `net` on (images, targets) and scores it.

    Logged as means over the epoch: `train_loss` (of what the network saw, mixed or not) and `train_accuracy` (against
    the dominant label of a mixed image); `val_*` and `test_*`: `accuracy`, `top5` (with more than 5 classes),
    `calibration_error` (expected, 15 bins, in [0,1]) and `nll` (nats). A second validation loader holds test images and is
    logged as `test_*`. After a test `test_results` holds the same class by class.

    Args:
        net: Maps images (B,C,H,W) to logits (B,num_classes).
        num_classes: Number of classes.
        optimizer: Makes the optimizer of parameter groups.
        scheduler: Makes the scheduler of the optimizer; None: the rate is constant.
        decay_norm: Whether weight decay applies to normalization layers too.
        loss: A name in `experiments.training.losses.LOSSES`.
        class_names: One name a class, for `test_results`; None: their numbers.

    Attributes:
        test_results: Of the last finished test, over all processes; None before.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        num_classes: int,
        optimizer: Callable[..., Optimizer] = torch.optim.SGD,
        scheduler: Callable[..., LRScheduler] | None = None,
        decay_norm: bool = True,
        loss: str = "ce",
        class_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        self.make_optimizer, self.make_scheduler, self.decay_norm = optimizer, scheduler, decay_norm
        self._progress = Progress()
        self.loss = find_loss(loss)
        self.train_metrics = _accuracies(num_classes).clone(prefix="train_")
        self.val_metrics = classification_metrics(num_classes).clone(prefix="val_")
        self.test_metrics = classification_metrics(num_classes).clone(prefix="test_")
        self.test_counts = TestResultCounts(num_classes)
        self.class_names = class_names
        self.test_results: TestResults | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B,C,H,W) to logits (B,num_classes)."""
        return self.net(images)

    def configure_optimizers(self) -> dict[str, Any]:
        """Build optimizer and scheduler."""
        optimizer, scheduler = self.build_optimizer(lambda: self.trainer.estimated_stepping_batches)
        if scheduler is None:
            return {"optimizer": optimizer}
        # What torch means to be stepped after each batch; its other schedulers count epochs.
        interval = "step" if isinstance(scheduler, LambdaLR | OneCycleLR | CyclicLR) else "epoch"
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": interval}}

    def build_optimizer(self, total_steps: Callable[[], float]) -> tuple[Optimizer, LRScheduler | None]:
        """Call the two factories, the scheduler's with what only the run knows, if it takes that: progress, total_steps."""
        optimizer = self.make_optimizer(parameter_groups(self, decay_norm=self.decay_norm))
        if self.make_scheduler is None:
            return optimizer, None
        taken = inspect.signature(self.make_scheduler).parameters
        known: dict[str, Any] = {"progress": lambda: self._progress} if "progress" in taken else {}
        if "total_steps" in taken:
            known["total_steps"] = int(total_steps())
        return optimizer, self.make_scheduler(optimizer, **known)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the new length of a OneCycleLR: the run may be resumed with other epochs."""
        for state in checkpoint["lr_schedulers"]:
            for name in ("total_steps", "_schedule_phases"):
                state.pop(name, None)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Leave a LambdaLR, which is stepped before each batch: then the place of that batch in the run is known."""
        if not isinstance(scheduler, LambdaLR):
            super().lr_scheduler_step(scheduler, metric)

    def on_train_epoch_start(self) -> None:
        """Log `lr`, the learning rate that the epoch starts with."""
        self._follow_progress(0)
        self.log("lr", self.trainer.optimizers[0].param_groups[0]["lr"], sync_dist=True)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Set the learning rate of this step."""
        self._follow_progress(batch_idx)

    def _follow_progress(self, batch_idx: int) -> None:
        scheduler = self.lr_schedulers()
        if isinstance(scheduler, LambdaLR):
            epoch, batches = self.trainer.current_epoch, self.trainer.num_training_batches
            self._progress = Progress(epoch + batch_idx / batches, epoch + (batch_idx + 1) / batches, self._epochs())
            scheduler.step()

    def _epochs(self) -> float:
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
        """Set `test_results`."""
        self.test_results = self.test_counts.results(self.class_names)

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
