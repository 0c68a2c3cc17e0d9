"""What a run prints while it trains: one line an epoch, and in a terminal a bar beside it."""

import logging
from typing import Any

import pytorch_lightning as pl
from rich import get_console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from experiments.training.callbacks import EpochTimer

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
            devices = f"{trainer.num_devices * trainer.num_nodes} x {pl_module.device.type}"
            log.info(f"{millions:.2f} million parameters on {devices}, precision {trainer.precision}")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the batch of a resumed epoch: Lightning does not call `on_train_epoch_start` again."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the effective batch and its learning rate, where they are others than before: in each phase of a run."""
        size, world, micro = trainer.train_dataloader.batch_size, trainer.world_size, trainer.accumulate_grad_batches
        parts = f"{world} x {size} images" + (f" x {micro} accumulated" if micro > 1 else "")
        rate = trainer.optimizers[0].defaults["lr"]
        batch = f"effective batch {size * world * micro} = {parts}, learning rate {rate:g}"
        if trainer.is_global_zero and batch != self._batch:
            log.info(batch)
        self._batch = batch

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log epoch, loss, validation accuracy and seconds, as far as they are known."""
        if trainer.is_global_zero:
            parts = [f"epoch {trainer.current_epoch + 1:>3}/{trainer.max_epochs}"]
            for label, key in (("loss", "train_loss"), ("val accuracy", "val_accuracy")):
                if key in trainer.callback_metrics:
                    parts.append(f"{label} {float(trainer.callback_metrics[key]):.4f}")
            log.info("  ".join([*parts, f"{self.timer.epochs[-1].total:.1f} s"]))


class RunProgressBar(pl.Callback):
    """One bar for the whole training, with the time that remains; Lightning's own start anew with every epoch."""

    def __init__(self) -> None:
        self._progress: Progress | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the bar on the first rank, if the run has a known end."""
        if trainer.is_global_zero and (trainer.max_epochs or 0) > 0:
            columns = (TextColumn("batches"), BarColumn(bar_width=None), MofNCompleteColumn(), TimeRemainingColumn())
            self._progress = Progress(*columns, console=get_console(), transient=True)
            self._progress.add_task("training", total=None)
            self._progress.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar."""
        if self._progress is not None:
            # The total too: in a run of phases the number of batches changes.
            batches, epochs = int(trainer.num_training_batches), trainer.max_epochs or 0
            done = trainer.current_epoch * batches + batch_idx + 1
            self._progress.update(self._progress.task_ids[0], completed=done, total=epochs * batches)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remove the bar."""
        if self._progress is not None:
            self._progress.stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Remove the bar before the error is shown."""
        self.on_train_end(trainer, pl_module)


def progress_callbacks(timer: EpochTimer) -> list[pl.Callback]:
    """The epoch log and, where the output is a terminal that can redraw a line, a bar."""
    return [EpochLog(timer), *([RunProgressBar()] if get_console().is_terminal else [])]
