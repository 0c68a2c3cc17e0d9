"""How long training takes, and which part of it the mixing callback is responsible for."""

import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Protocol

import pytorch_lightning as pl
import torch

from experiments.runs.summary import EpochSeconds


class TimedMix(Protocol):
    """A mixing callback that counts its own seconds, per part, from the start of every training epoch."""

    @property
    def seconds(self) -> Mapping[str, float]:
        """Seconds of the running epoch: at least "saliency" and "mixing"."""


class EpochTimer(pl.Callback):
    """Measures every training epoch and logs `epoch_seconds`, `saliency_seconds` and `mixing_seconds`; kept in checkpoints.

    Args:
        mix: The mixing callback whose `seconds` are gathered; None: training without mixing.
    """

    def __init__(self, mix: TimedMix | None = None) -> None:
        self.mix = mix
        self.epochs: list[EpochSeconds] = []
        # Whether the running epoch was begun by an earlier process.
        self._is_rest = False
        self._epoch_start = 0.0
        self._validation_start = 0.0
        self._validation_seconds = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock of an epoch that is gone on with: Lightning does not announce it again."""
        self.on_train_epoch_start(trainer, pl_module)
        self._is_rest = trainer.fit_loop.epoch_loop.batch_progress.current.completed > 0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._epoch_start, self._validation_seconds, self._is_rest = _now(pl_module), 0.0, False

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock: validation runs inside the training epoch but is no part of it here."""
        self._validation_start = _now(pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let the clock run again."""
        self._validation_seconds += _now(pl_module) - self._validation_start

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record and log the epoch."""
        parts = {} if self.mix is None else self.mix.seconds
        epoch = EpochSeconds(
            total=_now(pl_module) - self._epoch_start - self._validation_seconds,
            saliency=parts.get("saliency", 0.0),
            mixing=parts.get("mixing", 0.0),
        )
        # A rest says little of an epoch; alone it is better than nothing.
        if not self._is_rest or not self.epochs:
            self.epochs.append(epoch)
        values: dict[str, Any] = {"epoch_seconds": epoch.total}
        if self.mix is not None:
            values |= {"saliency_seconds": epoch.saliency, "mixing_seconds": epoch.mixing}
        pl_module.log_dict(values, on_step=False, on_epoch=True, sync_dist=True)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"epochs": [asdict(epoch) for epoch in self.epochs]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the epochs of the run that is resumed, which may have been its last."""
        self.epochs = [EpochSeconds(**epoch) for epoch in state_dict["epochs"]]

    def typical(self) -> EpochSeconds:
        """Median of each figure over the epochs after the first, which pays for warm-up; of that one if it is alone.

        Raises:
            RuntimeError: If no epoch has been finished.
        """
        if not self.epochs:
            raise RuntimeError("no training epoch has been finished, so there is no time to report; raise epochs")
        epochs = self.epochs[1:] or self.epochs
        return EpochSeconds(
            total=statistics.median(epoch.total for epoch in epochs),
            saliency=statistics.median(epoch.saliency for epoch in epochs),
            mixing=statistics.median(epoch.mixing for epoch in epochs),
        )


def _now(pl_module: pl.LightningModule) -> float:
    """The clock in seconds, once the device has done what it was given (GPUs run behind the host)."""
    if pl_module.device.type == "cuda":
        torch.cuda.synchronize(pl_module.device)
    return time.perf_counter()
