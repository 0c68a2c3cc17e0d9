"""The checkpoints that a run keeps while it trains, and how they are written."""

import io
from functools import partial
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


def build_checkpoints(run_dir: Path) -> tuple[ModelCheckpoint, ModelCheckpoint]:
    """Keep `best.ckpt`, the epoch of the highest validation accuracy, and `last.ckpt`, written at the end of every epoch."""
    build = partial(ModelCheckpoint, dirpath=run_dir / CHECKPOINTS, enable_version_counter=False)
    best = build(filename=BEST_CHECKPOINT.stem, monitor="val_accuracy", mode="max")
    # Not `save_last` of the other, which leaves out epochs that were no better.
    last = build(filename=LAST_CHECKPOINT.stem, every_n_epochs=1, save_on_train_epoch_end=True)
    return best, last
