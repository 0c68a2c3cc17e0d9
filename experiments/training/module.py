"""The image classifier of the study: any network, one loss, the metrics of every split."""

import inspect
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from experiments.common import UserError
from experiments.test_results import CALIBRATION_BINS, TestResultCounts, TestResults
from experiments.training.optim import Progress, parameter_groups


def bce_softmax(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy of the softmax, averaged over samples and classes: the loss of the authors' CIFAR code.

    It is about 2/K of the cross-entropy: clean regularization beside it has `clean_weight = 2 * clean_lam / K`.
    """
    if targets.ndim == 1:
        targets = F.one_hot(targets, logits.shape[1])
    # In full precision even under autocast, which refuses it: in 16 bits log(1 - p) loses all of a small p.
    with torch.autocast(logits.device.type, enabled=False):
        return F.binary_cross_entropy(logits.float().softmax(dim=1), targets.float())


def jensen_shannon(logits: Tensor) -> Tensor:
    """Jensen-Shannon divergence, in nats, of the predictions for V views of each image, logits (V,B,K); mean over images.

    The consistency loss of AugMix (Hendrycks et al., ICLR 2020, section 3), where V = 3.
    """
    log_probs = logits.float().log_softmax(dim=2)
    mixture = log_probs.logsumexp(dim=0) - math.log(len(logits))
    return F.kl_div(mixture.expand_as(log_probs), log_probs, reduction="sum", log_target=True) / logits[..., 0].numel()


# Of logits (B,K) and targets, classes (B,) or probabilities (B,K), to a scalar mean.
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"ce": F.cross_entropy, "bce_softmax": bce_softmax}


class Classifier(pl.LightningModule):
    """Trains `net`, which maps images (B,C,H,W) to logits (B,num_classes), and scores it.

    Logged as means over the epoch: `train_loss` (of what the network saw, mixed or not) and `train_accuracy` (against
    the dominant label of a mixed image); `val_*` and `test_*`: `accuracy`, `top5` (with more than 5 classes),
    `calibration_error` (expected, 15 bins, in [0,1]) and `nll` (nats). A second validation loader holds test images and is
    logged as `test_*`. After a test `test_results` holds the same class by class.

    `optimizer` makes the optimizer of parameter groups, `scheduler` a scheduler of torch's of that, or a factor of the rate for
    the `progress` of the run (see `optim`); None: the learning rate is constant. `consistency_weight`: see `training_step`.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        num_classes: int,
        optimizer: Callable[..., Optimizer] = torch.optim.SGD,
        scheduler: Callable[..., Any] | None = None,
        decay_norm: bool = True,
        loss: str = "ce",
        consistency_weight: float = 0.0,
        class_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        self.make_optimizer, self.decay_norm = optimizer, decay_norm
        is_schedule = scheduler is not None and "progress" in inspect.signature(scheduler).parameters
        self.schedule, self.make_scheduler = (scheduler, None) if is_schedule else (None, scheduler)
        self.loss, self.consistency_weight = LOSSES[loss], consistency_weight
        self.train_metrics = classification_metrics(num_classes, "train_", calibration=False)
        metrics = {split: classification_metrics(num_classes, f"{split}_") for split in ("val", "test")}
        self.metrics = nn.ModuleDict(metrics)
        self.test_counts, self.class_names = TestResultCounts(num_classes), class_names
        self.test_results: TestResults | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B,C,H,W) to logits (B,num_classes); UserError if the network gives another number."""
        return check_logits(self.net(images), self.test_counts.num_classes)

    def configure_optimizers(self) -> dict[str, Any]:
        """Build the optimizer, and the scheduler if it is one of torch's; UserError if settings are refused."""
        try:
            optimizer = self.make_optimizer(parameter_groups(self, decay_norm=self.decay_norm))
            if self.schedule is not None:
                self.schedule(progress=Progress())
            if self.make_scheduler is None:
                return {"optimizer": optimizer}
            takes_steps = "total_steps" in inspect.signature(self.make_scheduler).parameters
            known = {"total_steps": int(self.trainer.estimated_stepping_batches)} if takes_steps else {}
            scheduler = self.make_scheduler(optimizer, **known)
        except (TypeError, ValueError) as error:
            raise UserError(f"optimizer or scheduler: {error}") from error
        # What torch means to be stepped after each batch; its other schedulers count epochs.
        interval = "step" if isinstance(scheduler, OneCycleLR | CyclicLR) else "epoch"
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": interval}}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the new length of a OneCycleLR: the run may be resumed with other epochs."""
        for state in checkpoint["lr_schedulers"]:
            for name in ("total_steps", "_schedule_phases"):
                state.pop(name, None)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Set the learning rate of this step, where it follows the progress; log `lr`, that of the first step of the epoch."""
        trainer, (optimizer,) = self.trainer, self.trainer.optimizers
        if self.schedule is not None:
            epoch, batches = trainer.current_epoch, trainer.num_training_batches
            # A run that is limited by its steps alone need not end with an epoch.
            steps = max(1, trainer.max_steps * trainer.accumulate_grad_batches)
            epochs = trainer.max_epochs if (trainer.max_epochs or 0) > 0 else steps / batches
            place = Progress(epoch + batch_idx / batches, epoch + (batch_idx + 1) / batches, epochs)
            for group in optimizer.param_groups:
                group["lr"] = optimizer.defaults["lr"] * self.schedule(progress=place)
        if batch_idx == 0:
            rate = optimizer.param_groups[0]["lr"]
            self.log("lr", rate, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)

    def training_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        """Return the mean loss of one batch; targets are classes (B,) or probabilities (B,num_classes).

        All views (B,V,C,H,W), if the batch has them, add `consistency_weight` times the divergence of their predictions.
        """
        images, targets, *views = batch
        logits = self(images)
        loss = self.loss(logits, targets)
        for each in views:
            # One pass of all views, for the same statistics of BatchNorm.
            predictions = self(each.transpose(0, 1).flatten(0, 1)).unflatten(0, (-1, len(images)))
            loss = loss + self.consistency_weight * jensen_shannon(predictions)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(images), sync_dist=True)
        self.train_metrics(logits.detach(), targets.argmax(dim=1) if targets.ndim == 2 else targets)
        self.log_dict(self.train_metrics, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Score one batch with classes (B,): of the validation images, or from the second loader of the test images."""
        self._score(batch, "val" if dataloader_idx == 0 else "test")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Score one test batch with classes (B,)."""
        self.test_counts.update(self._score(batch, "test"), batch[1])

    def on_test_epoch_end(self) -> None:
        """Set `test_results`."""
        self.test_results = self.test_counts.results(self.class_names)
        self.test_counts.reset()

    def _score(self, batch: tuple[Tensor, Tensor], split: str) -> Tensor:
        images, targets = batch
        # float(): under half precision a softmax of the logits would be too coarse for calibration.
        logits = self(images).float()
        self.metrics[split].update(logits, targets)
        nll = F.cross_entropy(logits, targets)
        options = {"on_step": False, "on_epoch": True, "add_dataloader_idx": False}
        self.log_dict(self.metrics[split], **options)
        self.log(f"{split}_nll", nll, batch_size=len(images), sync_dist=True, **options)
        return logits


def check_logits(logits: Tensor, num_classes: int) -> Tensor:
    """Pass logits (B,num_classes) on; UserError otherwise. The metrics do not compare: that would wait for a GPU."""
    if logits.shape[1:] != (num_classes,):
        got = tuple(logits.shape)
        raise UserError(
            f"the model's logits have shape {got}, not (batch size, {num_classes}) as the classes of the data"
        )
    return logits


def classification_metrics(num_classes: int, prefix: str = "", *, calibration: bool = True) -> MetricCollection:
    """`accuracy`, with more than 5 classes `top5`, and `calibration_error`, of logits (B,num_classes) and classes (B,)."""
    # Micro-averaged: every image counts the same.
    make_accuracy = partial(MulticlassAccuracy, num_classes, average="micro", validate_args=False)
    metrics: dict[str, Metric | MetricCollection] = {"accuracy": make_accuracy(top_k=1)}
    if num_classes > 5:
        metrics["top5"] = make_accuracy(top_k=5)
    if calibration:
        metrics["calibration_error"] = MulticlassCalibrationError(num_classes, CALIBRATION_BINS, validate_args=False)
    # One state per metric: sharing would tie top-1 to top-5, which count different hits.
    return MetricCollection(metrics, prefix=prefix, compute_groups=False)
