"""Training losses by name: logits (B,K) and targets, classes (B,) or probabilities (B,K), to a scalar mean."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

Loss = Callable[[Tensor, Tensor], Tensor]

LOSSES: dict[str, Loss] = {"cross_entropy": F.cross_entropy}


def find_loss(name: str) -> Loss:
    """Look a loss up by its name.

    Raises:
        ValueError: If there is no such loss.
    """
    if name not in LOSSES:
        raise ValueError(f"loss must be one of {sorted(LOSSES)}, got {name!r}")
    return LOSSES[name]
