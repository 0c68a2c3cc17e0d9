"""`logs/metrics.csv` that survives a process which is killed."""

import csv
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from experiments.common import explained, replacing
from experiments.runs.run_folder import METRICS


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of optimizer steps, without empty cells; none if there is no such file."""
    text = path.read_text("utf-8", "replace") if path.is_file() else ""
    # What has no line end was being written when its writer was killed.
    rows = csv.DictReader(text[: text.rfind("\n") + 1].splitlines())
    lines = [{key: value for key, value in row.items() if key and value} for row in rows]
    return [line for line in lines if line.get("step", "").isdigit()]


class _Writer(ExperimentWriter):
    """Lightning's, which adds line by line; here it begins with lines of an old file, and a new column comes in one step."""

    def __init__(self, path: Path, kept: list[dict[str, Any]]) -> None:
        super().__init__(str(path.parent))
        self.path = path
        self.metrics_keys = sorted({"step", *(key for line in kept for key in line)})
        self._write(kept)

    def _check_log_dir_exists(self) -> None:
        """Let the old file be: it is replaced by the lines that are kept."""

    def save(self) -> None:
        with explained(self.path):
            super().save()

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        self._write(read_lines(self.path))

    def _write(self, lines: list[dict[str, Any]]) -> None:
        with replacing(self.path) as draft, draft.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, self.metrics_keys)
            writer.writeheader()
            writer.writerows(lines)


def build_metrics_logger(run_dir: str, kept_steps: int) -> CSVLogger:
    """Writes `logs/metrics.csv` in the run folder; of an old one, the lines of so many optimizer steps are kept."""
    logger, path = CSVLogger(run_dir, name="logs", version="", flush_logs_every_n_steps=1), Path(run_dir) / METRICS
    if rank_zero_only.rank == 0:
        with explained(path):
            kept = [line for line in read_lines(path) if int(line["step"]) < kept_steps]
            # In the place of the one that Lightning would make when it logs for the first time.
            logger._experiment = _Writer(path, kept)
    return logger


class EpochLine(pl.Callback):
    """Writes the line of an epoch that a run was killed before it could: Lightning logs an epoch after its checkpoint.

    Stands behind the callbacks that log at the end of an epoch.
    """

    def __init__(self) -> None:
        self._line: dict[str, Any] = {}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record what is going to be logged."""
        metrics = trainer.callback_metrics.items()
        self._line = {
            **{key: float(value) for key, value in metrics if key.startswith("train_") or key.endswith("_seconds")},
            **{"epoch": trainer.current_epoch, "step": trainer.global_step - 1},
        }

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return self._line

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Write the line of the checkpoint's epoch, if it is missing."""
        self._line = checkpoint["callbacks"].get(self.state_key, {})
        loggers = [logger for logger in trainer.loggers if isinstance(logger, CSVLogger)]
        for logger in loggers if self._line else []:
            lines = read_lines(Path(logger.save_dir) / METRICS)
            if str(self._line["step"]) not in [line["step"] for line in lines if "train_loss" in line]:
                logger.log_metrics(self._line, self._line["step"])
