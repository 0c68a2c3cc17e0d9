"""Checkpoints of this study and of the Puzzle Mix authors: finding them and reading their weights, none of them trusted."""

from experiments.checkpoints.foreign_config import checked_group
from experiments.checkpoints.location import CheckpointLocation, choose_output_dir, complete_config, find_checkpoint
from experiments.checkpoints.safe_loading import safe_load
from experiments.checkpoints.weights import Checkpoint, load_weights, read_checkpoint

__all__ = [
    "Checkpoint", "CheckpointLocation", "checked_group", "choose_output_dir", "complete_config", "find_checkpoint",
    "load_weights", "read_checkpoint", "safe_load",
]  # fmt: skip
