"""Every private name of Lightning and torch that the callbacks use, each with the reason why no public one does."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from torch import Tensor


def is_logging_step(trainer: pl.Trainer) -> bool:
    """Tell whether Lightning sends the running step's metrics to the loggers.

    Lightning's own monitors ask the same. ``trainer.global_step`` counts the steps of all optimizers, so it misses the logging
    steps of a module with several.
    """
    return bool(trainer._logger_connector.should_update_logs)


def write_count(tensor: Tensor) -> int | None:
    """Return how often a tensor was written to; ``None`` for inference tensors, which do not count it.

    The autograd notes of torch describe this counter, but only the attribute gives it.
    """
    return None if tensor.is_inference() else tensor._version


def in_backward_pass() -> bool:
    """Tell whether the code runs inside a backward pass, as where a checkpoint recomputes its forward.

    ``torch.utils.checkpoint`` decides by the same call. Lightning's backward hooks miss ``loss.backward()`` in a manual step.
    """
    return torch._C._current_graph_task_id() != -1
