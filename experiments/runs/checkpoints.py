"""The checkpoints that a run keeps while it trains, and how they are written."""

import io
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import callbacks
from pytorch_lightning.plugins.io import TorchCheckpointIO

from experiments.common import write_bytes
from experiments.runs.run_folder import BEST_CHECKPOINT, CHECKPOINTS, LAST_CHECKPOINT


class AtomicCheckpointIO(TorchCheckpointIO):
    """Keeps the previous checkpoint until the new one is whole and on the disk; Lightning's may copy over it."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint; one that cannot be written leaves the previous one as it was."""
        # Through memory, as torch hides what the operating system reports of a full disk.
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_bytes(Path(path), buffer.getbuffer())


class ModelCheckpoint(callbacks.ModelCheckpoint):
    """Of Lightning's name, by which checkpoints key its state; in a run folder that was moved it keeps the best score."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the score of the best checkpoint, if that is in this folder."""
        best = Path(str(self.dirpath), Path(state_dict["best_model_path"]).name)
        # Else the run is another one, which begins with the weights of the checkpoint.
        if best.is_file():
            state_dict = {**state_dict, "dirpath": self.dirpath, "best_model_path": str(best)}
        super().load_state_dict(state_dict)


def build_best_checkpoint(run_dir: Path) -> ModelCheckpoint:
    """Keeps `best.ckpt`, the epoch of the highest validation accuracy."""
    return ModelCheckpoint(
        dirpath=run_dir / CHECKPOINTS, filename=BEST_CHECKPOINT.stem, monitor="val_accuracy", mode="max",
        enable_version_counter=False,
    )  # fmt: skip


def build_last_checkpoint(run_dir: Path) -> ModelCheckpoint:
    """Keeps `last.ckpt`, written at the end of every epoch; `save_last` of the other leaves out those that were no better."""
    return ModelCheckpoint(
        dirpath=run_dir / CHECKPOINTS, filename=LAST_CHECKPOINT.stem, monitor=None, every_n_epochs=1,
        save_on_train_epoch_end=True, enable_version_counter=False,
    )  # fmt: skip
