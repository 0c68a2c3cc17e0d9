"""Training losses by name: logits (B,K) and targets, classes (B,) or probabilities (B,K), to a scalar mean."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Loss = Callable[[Tensor, Tensor], Tensor]


def bce_softmax(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy of the softmax, averaged over samples and classes: the loss of the authors' CIFAR code.

    It is about 2/K of the cross-entropy: clean regularization beside it has `clean_weight = 2 * clean_lam / K`.
    """
    if targets.ndim == 1:
        targets = F.one_hot(targets, logits.shape[1])
    # In full precision even under autocast, which refuses it: in 16 bits log(1 - p) loses all of a small p.
    with torch.autocast(logits.device.type, enabled=False):
        return F.binary_cross_entropy(logits.float().softmax(dim=1), targets.float())


LOSSES: dict[str, Loss] = {"ce": F.cross_entropy, "bce_softmax": bce_softmax}


def find_loss(name: str) -> Loss:
    """Look a loss up by its name.

    Raises:
        ValueError: If there is no such loss.
    """
    if name not in LOSSES:
        raise ValueError(f"loss must be one of {sorted(LOSSES)}, got {name!r}")
    return LOSSES[name]
