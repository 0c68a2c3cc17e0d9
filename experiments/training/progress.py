"""How a run shows that it is alive: one line an epoch everywhere, a bar beside it in a terminal."""

import logging
from typing import Any

import pytorch_lightning as pl
from rich import get_console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from experiments.training.epoch_timer import EpochTimer

log = logging.getLogger(__name__)


class EpochLog(pl.Callback):
    """Logs one line after every training epoch; must stand behind the timer in the Trainer's callbacks.

    Args:
        timer: Where the epoch's seconds come from.
    """

    def __init__(self, timer: EpochTimer) -> None:
        self.timer = timer
        self._batch = ""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log what is about to be trained."""
        if trainer.is_global_zero:
            millions = sum(parameter.numel() for parameter in pl_module.parameters()) / 1e6
            precision, devices = trainer.precision, trainer.num_devices * trainer.num_nodes
            log.info(f"{millions:.2f} million parameters on {devices} x {pl_module.device.type}, precision {precision}")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the batch of an epoch that is gone on with: Lightning does not announce it again."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the batch where it is another one than before: at the start, and in each phase of a run in phases."""
        batch = _describe_batch(trainer, pl_module)
        if trainer.is_global_zero and batch != self._batch:
            log.info(batch)
        self._batch = batch

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log epoch, loss, validation accuracy and seconds, as far as they are known."""
        if not trainer.is_global_zero:
            return
        parts = [f"epoch {trainer.current_epoch + 1:>3}/{trainer.max_epochs}"]
        for label, key in (("loss", "train_loss"), ("val accuracy", "val_accuracy")):
            if key in trainer.callback_metrics:
                parts.append(f"{label} {float(trainer.callback_metrics[key]):.4f}")
        parts.append(f"{self.timer.epochs[-1].total:.1f} s")
        log.info("  ".join(parts))


def _describe_batch(trainer: pl.Trainer, pl_module: pl.LightningModule) -> str:
    """What one optimizer step sees, how the processes share it, and the learning rate that goes with it."""
    size, world, micro = trainer.train_dataloader.batch_size, trainer.world_size, trainer.accumulate_grad_batches
    parts = f"{world} x {size} images" + (f" x {micro} accumulated" if micro > 1 else "")
    return f"effective batch {size * world * micro} = {parts}, learning rate {pl_module.optimizer_config.lr:g}"


class RunBar(pl.Callback):
    """One bar for the whole training, with the time that remains; gone when it is over.

    Lightning's own bars start anew with every epoch and every validation, so that no bar says when the run will end.
    """

    def __init__(self) -> None:
        self._progress: Progress | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the bar on the first rank, if the run has a known end."""
        if not trainer.is_global_zero or not trainer.max_epochs or trainer.max_epochs < 0:
            return
        columns = (TextColumn("batches"), BarColumn(bar_width=None), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=get_console(), transient=True)
        self._progress.add_task("training", total=int(trainer.max_epochs * trainer.num_training_batches))
        self._progress.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar."""
        if self._progress is not None:
            batches = int(trainer.num_training_batches)
            done = trainer.current_epoch * batches + batch_idx + 1
            # The total too: in a run of phases the number of batches changes.
            self._progress.update(self._progress.task_ids[0], completed=done, total=(trainer.max_epochs or 0) * batches)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the bar away."""
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Take the bar away before the error is shown."""
        self._close()

    def _close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def progress_callbacks(timer: EpochTimer) -> list[pl.Callback]:
    """The epoch log and, where the output is a terminal that can redraw a line, a bar."""
    callbacks: list[pl.Callback] = [EpochLog(timer)]
    if get_console().is_terminal:
        callbacks.append(RunBar())
    return callbacks
