"""The checkpoints that a run keeps while it trains, and how they are written."""

import io
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from experiments.common import write_bytes
from experiments.runs.run_folder import BEST_CHECKPOINT, CHECKPOINTS, LAST_CHECKPOINT


class AtomicCheckpointIO(TorchCheckpointIO):
    """Keeps the previous checkpoint until the new one is whole and on the disk.

    Lightning writes to the folder for temporary files and moves the file from there, which between two file systems is a copy
    over the old checkpoint.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            TypeError: If there are storage options, which are for remote folders.
            UnwritableError: If it cannot be written; the previous one is then left as it was.
        """
        if storage_options is not None:
            raise TypeError(f"storage_options are for remote folders, got {storage_options}")
        # Through memory, as torch hides what the operating system reports of a full disk.
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_bytes(Path(path), buffer.getbuffer())


class _MovableCheckpoint(ModelCheckpoint):
    """Resumes in a run folder that was moved; Lightning's then forgets the best score, and keeps the old folder's path."""

    @property
    def state_key(self) -> str:
        """As Lightning's own, so that checkpoints of either are read."""
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what was kept, with the paths of the folder as it is now."""
        folder, best = Path(str(self.dirpath)), Path(state_dict.get("best_model_path") or "")

        def moved(path: str | None) -> str:
            return str(folder / Path(path).name) if path else ""

        # Without its best checkpoint the folder is not the one of the run, but one that begins with its weights.
        if (folder / best.name).is_file():
            paths = ("best_model_path", "last_model_path", "kth_best_model_path")
            scores = {moved(path): score for path, score in (state_dict.get("best_k_models") or {}).items()}
            moved_paths = {key: moved(state_dict.get(key)) for key in paths}
            state_dict = {**state_dict, **moved_paths, "best_k_models": scores, "dirpath": self.dirpath}
        super().load_state_dict(state_dict)


def build_best_checkpoint(run_dir: Path) -> ModelCheckpoint:
    """Keeps `best.ckpt`, the epoch of the highest validation accuracy."""
    return _MovableCheckpoint(
        dirpath=run_dir / CHECKPOINTS, filename=BEST_CHECKPOINT.stem, monitor="val_accuracy", mode="max",
        enable_version_counter=False,
    )  # fmt: skip


def build_last_checkpoint(run_dir: Path) -> ModelCheckpoint:
    """Keeps `last.ckpt`, written at the end of every epoch, whatever was measured, and if nothing was.

    On its own, as a ModelCheckpoint with a monitor leaves out its last one (`save_last`) in epochs that were no better.
    """
    return _MovableCheckpoint(
        dirpath=run_dir / CHECKPOINTS, filename=LAST_CHECKPOINT.stem, monitor=None, every_n_epochs=1,
        save_on_train_epoch_end=True, enable_version_counter=False,
    )  # fmt: skip
