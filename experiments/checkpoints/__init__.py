"""Checkpoints of this study and of the Puzzle Mix authors: finding them and reading their weights, none of them trusted."""

from experiments.checkpoints.location import CheckpointLocation, choose_output_dir, complete_config, find_checkpoint
from experiments.checkpoints.weights import Checkpoint, load_weights

__all__ = [
    "Checkpoint", "CheckpointLocation", "choose_output_dir", "complete_config", "find_checkpoint", "load_weights",
]  # fmt: skip
