"""Loggers that go on where an interrupted run left them."""

import csv
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger, WandbLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

WANDB_ID = "wandb_id.txt"


def build_csv_logger(run_dir: str, *, kept_steps: int = 0) -> CSVLogger:
    """Writes `logs/metrics.csv` in the run folder, line by line: a run that dies leaves what it measured.

    Args:
        run_dir: The run folder.
        kept_steps: Optimizer steps of the checkpoint that is gone on from: lines of earlier steps are kept, later ones
            will be written again.
    """
    logger = CSVLogger(run_dir, name="logs", version="", flush_logs_every_n_steps=1)
    lines = _read_lines(Path(logger.log_dir) / "metrics.csv", kept_steps)
    if lines and rank_zero_only.rank == 0:
        # Lightning removes an old file as soon as it opens a new one.
        logger.experiment.metrics.extend(lines)
        logger.experiment.save()
    return logger


def _read_lines(path: Path, kept_steps: int) -> list[dict[str, Any]]:
    if not kept_steps or not path.is_file():
        return []
    with path.open(newline="") as file:
        lines = [{key: value for key, value in line.items() if value} for line in csv.DictReader(file)]
    return [line for line in lines if int(line["step"]) < kept_steps]


def build_wandb_logger(run_dir: str, **settings: Any) -> WandbLogger:
    """A WandbLogger whose run is gone on with when the run folder is; `settings` are those of WandbLogger."""
    note = Path(run_dir) / WANDB_ID
    if note.is_file():
        settings |= {"id": note.read_text().strip(), "resume": "allow"}
    logger = WandbLogger(save_dir=run_dir, **settings)
    if rank_zero_only.rank == 0:
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(str(logger.experiment.id))
    return logger
