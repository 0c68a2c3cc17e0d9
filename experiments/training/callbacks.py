"""Callbacks of a run: what is kept and said of its epochs, and the end of clean regularization."""

import logging
import time
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LambdaCallback

from experiments.runs import EpochSeconds

log = logging.getLogger(__name__)


class EpochRecord(pl.Callback):
    """Keeps the seconds and the test accuracy of every epoch and the last validation accuracy, in checkpoints too.

    Logs a line an epoch, and as metrics `epoch_seconds` (without validation) and, of the mixing callback `mix`,
    `saliency_seconds` and `mixing_seconds`. Where the test part itself validates, `val_accuracy` is the test accuracy.
    """

    def __init__(self, mix: Any = None) -> None:
        self.mix = mix
        self.seconds: list[list[float]] = []
        self.test_accuracies: list[float] = []
        self.val_accuracy: float | None = None
        # Whether an earlier process has begun the running epoch.
        self._is_partial = False
        self._start = self._validation_start = self._logged = 0.0
        self._batch = ""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin a resumed epoch: Lightning does not call `on_train_epoch_start` again."""
        self.on_train_epoch_start(trainer, pl_module)
        self._is_partial = True

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock, and log the effective batch where it is another than before, as in each phase of a run."""
        self._start, self._is_partial = _now(pl_module), False
        millions = sum(parameter.numel() for parameter in pl_module.parameters()) / 1e6
        size, world, micro = trainer.train_dataloader.batch_size, trainer.world_size, trainer.accumulate_grad_batches
        parts = f"{world} x {size} images" + (f" x {micro} accumulated" if micro > 1 else "")
        batch = (
            f"{millions:.2f} million parameters on {world} x {pl_module.device.type}, precision {trainer.precision}\n"
            f"effective batch {size * world * micro} = {parts}, learning rate {trainer.optimizers[0].defaults['lr']:g}"
        )
        if trainer.is_global_zero and batch != self._batch:
            log.info(batch)
        self._batch = batch

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the time: validation runs inside the training epoch but is no part of it here."""
        self._validation_start = _now(pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the validation off the epoch, and keep its accuracies."""
        self._start += _now(pl_module) - self._validation_start
        if not trainer.sanity_checking:
            logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
            self.val_accuracy = logged.get("val_accuracy")
            name = "val_accuracy" if trainer.datamodule.validates_on_test else "test_accuracy"
            self.test_accuracies += [logged[name]] if name in logged else []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep and log the seconds, with loss and validation accuracy as far as they are known."""
        values = {"epoch_seconds": _now(pl_module) - self._start}
        if self.mix is not None:
            values |= {f"{part}_seconds": self.mix.seconds[part] for part in ("saliency", "mixing")}
        # The rest of an epoch is better than nothing alone.
        if not self._is_partial or not self.seconds:
            self.seconds.append(list(values.values()))
        pl_module.log_dict(values, on_step=False, on_epoch=True, sync_dist=True)
        # On all ranks, which compute them together.
        metrics = trainer.callback_metrics
        labels = {"train_loss": "loss", "val_accuracy": "val accuracy"}
        known = [f"{label} {float(metrics[name]):.4f}" for name, label in labels.items() if name in metrics]
        # Of many short epochs a line every other second is enough.
        is_due = trainer.max_epochs <= 100 or time.perf_counter() - self._logged > 2
        if trainer.is_global_zero and (is_due or trainer.current_epoch + 1 == trainer.max_epochs):
            self._logged, epoch = time.perf_counter(), f"epoch {trainer.current_epoch + 1:>3}/{trainer.max_epochs}"
            log.info("  ".join([epoch, *known, f"{values['epoch_seconds']:.1f} s"]))

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {name: vars(self)[name] for name in ("seconds", "test_accuracies", "val_accuracy")}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the epochs of the resumed run."""
        vars(self).update(state_dict)

    def typical_seconds(self) -> EpochSeconds:
        """Median of each part over the epochs after the first, which pays for warm-up; that one if it is alone."""
        return EpochSeconds(*np.median(self.seconds[1:] or self.seconds, axis=0).tolist())


def _now(pl_module: pl.LightningModule) -> float:
    """The clock in seconds, once the device has done what it was given (GPUs run behind the host)."""
    if pl_module.device.type == "cuda":
        torch.cuda.synchronize(pl_module.device)
    return time.perf_counter()


def stop_clean_loss(mix: Any, epoch: int) -> pl.Callback:
    """Switch clean regularization off from an epoch (>= 0) on, as the 3-phase ImageNet recipe does for its last phase."""
    mixer = getattr(mix, "mixer", None)
    weight = getattr(mixer, "clean_weight", 0.0)
    if not weight:
        raise ValueError(f"clean_stop_epoch={epoch} needs mix=puzzlemix with mix.clean_weight > 0; drop it otherwise")

    def set_weight(trainer: pl.Trainer, *_: Any) -> None:
        mixer.clean_weight = weight if trainer.current_epoch < epoch else 0.0

    # At each batch, as a resumed epoch does not start again.
    return LambdaCallback(on_train_batch_start=set_weight)
