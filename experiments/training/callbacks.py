"""Callbacks of a run: the seconds of its epochs, their test accuracy, and the end of clean regularization."""

import statistics
import time
from dataclasses import asdict
from typing import Any

import pytorch_lightning as pl
import torch

from experiments.runs import AccuracyByEpoch, EpochSeconds


class EpochTimer(pl.Callback):
    """Measures every training epoch and logs `epoch_seconds`, `saliency_seconds` and `mixing_seconds`; kept in checkpoints.

    Args:
        mix: The mixing callback, whose `seconds` has those of the running epoch by part; None: training without mixing.
    """

    def __init__(self, mix: Any = None) -> None:
        self.mix = mix
        self.epochs: list[EpochSeconds] = []
        # An earlier process has begun the running epoch.
        self._is_partial = False
        self._start = self._validation_start = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock of a resumed epoch: Lightning does not call `on_train_epoch_start` again."""
        self.on_train_epoch_start(trainer, pl_module)
        self._is_partial = trainer.fit_loop.epoch_loop.batch_progress.current.completed > 0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._start, self._is_partial = _now(pl_module), False

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the time: validation runs inside the training epoch but is no part of it here."""
        self._validation_start = _now(pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the validation off the epoch."""
        self._start += _now(pl_module) - self._validation_start

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record and log the epoch."""
        parts = {} if self.mix is None else {part: self.mix.seconds.get(part, 0.0) for part in ("saliency", "mixing")}
        epoch = EpochSeconds(_now(pl_module) - self._start, **parts)
        # The rest of an epoch is better than nothing alone.
        if not self._is_partial or not self.epochs:
            self.epochs.append(epoch)
        values = {"epoch_seconds": epoch.total} | {f"{part}_seconds": value for part, value in parts.items()}
        pl_module.log_dict(values, on_step=False, on_epoch=True, sync_dist=True)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"epochs": [asdict(epoch) for epoch in self.epochs]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the epochs of the resumed run."""
        self.epochs = [EpochSeconds(**epoch) for epoch in state_dict["epochs"]]

    def typical(self) -> EpochSeconds:
        """Median of each part over the epochs after the first, which pays for warm-up; that one if it is alone.

        Raises:
            RuntimeError: If no epoch has been finished.
        """
        if not self.epochs:
            raise RuntimeError("no training epoch has been finished, so there is no time to report; raise epochs")
        epochs = [asdict(epoch) for epoch in self.epochs[1:] or self.epochs]
        return EpochSeconds(**{part: statistics.median(epoch[part] for epoch in epochs) for part in epochs[0]})


def _now(pl_module: pl.LightningModule) -> float:
    """The clock in seconds, once the device has done what it was given (GPUs run behind the host)."""
    if pl_module.device.type == "cuda":
        torch.cuda.synchronize(pl_module.device)
    return time.perf_counter()


class TestAccuracyTracker(pl.Callback):
    """Gathers the test accuracy of every epoch, and the validation accuracy of the last; kept in checkpoints.

    Reads what the validation has logged: `test_accuracy` from the loader of test images, or `val_accuracy` where the test
    part itself validates.
    """

    # For pytest.
    __test__ = False

    def __init__(self) -> None:
        self.accuracies: list[float] = []
        self.val_accuracy: float | None = None

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the epoch that was just scored."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        if trainer.sanity_checking or data is None:
            return
        logged = {name: float(value) for name, value in trainer.callback_metrics.items() if name.endswith("_accuracy")}
        self.val_accuracy = logged.get("val_accuracy")
        accuracy = logged.get("val_accuracy" if data.validates_on_test else "test_accuracy")
        if accuracy is not None:
            self.accuracies.append(accuracy)

    def summary(self) -> AccuracyByEpoch | None:
        """Best, last and median of the last ten; None: no epoch was scored on test images."""
        return AccuracyByEpoch.of(self.accuracies) if self.accuracies else None

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"accuracies": list(self.accuracies), "val_accuracy": self.val_accuracy}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the epochs of the resumed run."""
        self.accuracies, self.val_accuracy = list(state_dict["accuracies"]), state_dict["val_accuracy"]


class CleanLossStop(pl.Callback):
    """Switches clean regularization off from an epoch on, as the 3-phase ImageNet recipe does for its last phase.

    Args:
        mix: The callback whose `clean_weight` is meant.
        epoch: First epoch without, >= 0.

    Raises:
        ValueError: If there is nothing to switch off.
    """

    def __init__(self, mix: Any, epoch: int) -> None:
        self.weight = getattr(getattr(mix, "mixer", None), "clean_weight", 0.0)
        if not self.weight:
            raise ValueError(
                f"clean_stop_epoch={epoch} needs mix=puzzlemix with mix.clean_weight > 0; drop it otherwise"
            )
        self.mixer, self.epoch = mix.mixer, epoch

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set the weight of a resumed epoch: Lightning does not call `on_train_epoch_start` again."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set the weight of this epoch."""
        self.mixer.clean_weight = self.weight if trainer.current_epoch < self.epoch else 0.0
