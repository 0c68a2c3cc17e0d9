"""`logs/metrics.csv` that survives a process which is killed, and is read where it did not."""

import csv
import logging
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from experiments.common import explained, replacing

Line = dict[str, Any]

log = logging.getLogger(__name__)


def read_lines(path: Path) -> list[Line]:
    """The lines that are whole, without empty cells; none if it is no such file."""
    try:
        text = path.read_bytes().decode("utf-8", errors="replace")
    except OSError:
        return []
    # What has no line end was being written when its writer was killed.
    rows = csv.reader(line for line in text.splitlines(keepends=True) if line.endswith("\n") and "\0" not in line)
    try:
        head, *lines = rows
    except (csv.Error, ValueError):
        return []
    whole = [dict(zip(head, line, strict=True)) for line in lines if len(line) == len(head)]
    kept = [{key: value for key, value in line.items() if value} for line in whole]
    return [line for line in kept if line.get("step", "").isdigit()]


class _Writer(ExperimentWriter):
    """Lightning's, which adds line by line, and writes the file anew for a new column; here in one step.

    Args:
        log_dir: The folder.
        kept: Lines to begin with; those of an old file go.
    """

    def __init__(self, log_dir: str, kept: list[Line]) -> None:
        super().__init__(log_dir)
        self.path = Path(self.metrics_file_path)
        self.metrics_keys = sorted({key for line in kept for key in line})
        if kept:
            self._write(kept)
        else:
            self.path.unlink(missing_ok=True)

    def _check_log_dir_exists(self) -> None:
        """Let the old file be: it is replaced by the lines that are kept."""

    def save(self) -> None:
        """Add the lines that have been logged."""
        with explained(self.path):
            super().save()

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        with self.path.open(newline="") as file:
            self._write(list(csv.DictReader(file)))

    def _write(self, lines: list[Line]) -> None:
        with replacing(self.path) as draft, draft.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.metrics_keys)
            writer.writeheader()
            writer.writerows(lines)


def build_metrics_logger(run_dir: str, kept_steps: int) -> CSVLogger:
    """Writes `logs/metrics.csv` in the run folder; of an old one, the lines of so many optimizer steps are kept."""
    logger = CSVLogger(run_dir, name="logs", version="", flush_logs_every_n_steps=1)
    folder = Path(logger.log_dir)
    if rank_zero_only.rank == 0:
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lines = read_lines(folder / _Writer.NAME_METRICS_FILE) if kept_steps else []
            # In the place of the one that Lightning would make when it logs for the first time.
            logger._experiment = _Writer(str(folder), [line for line in lines if int(line["step"]) < kept_steps])
    return logger


class EpochLine(pl.Callback):
    """Writes the line of an epoch that a run was killed before it could: Lightning logs an epoch after its checkpoint.

    Stands behind the callbacks that log at the end of an epoch.
    """

    def __init__(self) -> None:
        self._line: Line = {}
        self._writers: list[_Writer] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find what writes the file."""
        found = [logger.experiment for logger in trainer.loggers if isinstance(logger, CSVLogger)]
        self._writers = [writer for writer in found if isinstance(writer, _Writer)]

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record what is going to be logged."""
        logged = {key: value for key, value in trainer.callback_metrics.items() if key.startswith("train_")}
        logged |= {key: value for key, value in trainer.callback_metrics.items() if key.endswith("_seconds")}
        self._line = {key: float(value) for key, value in logged.items()}
        self._line |= {"epoch": trainer.current_epoch, "step": trainer.global_step - 1}

    def state_dict(self) -> Line:
        """What a checkpoint keeps."""
        return dict(self._line)

    def load_state_dict(self, state_dict: Line) -> None:
        """Write the line of the checkpoint's epoch, if it is missing; warn if earlier ones are."""
        self._line = dict(state_dict)
        for writer in self._writers if self._line else []:
            trained = [line for line in read_lines(writer.path) if "train_loss" in line]
            metrics = dict(self._line)
            step, epoch = metrics.pop("step"), int(metrics["epoch"])
            if step not in [int(line["step"]) for line in trained]:
                writer.log_metrics(metrics, step)
                writer.save()
            known = {epoch, *(int(line["epoch"]) for line in trained if "epoch" in line)}
            missing = sorted(set(range(epoch)) - known)
            if missing:
                log.warning(
                    f"{writer.path} was cut off: it has lost the metrics of the epochs {', '.join(map(str, missing))}, which "
                    "its curves will lack; the training and its result do not depend on them"
                )
