"""What torch.optim has not: norms without weight decay, and learning rates that follow the epoch batch by batch."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import nn

NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


def parameter_groups(module: nn.Module, *, decay_norm: bool) -> list[dict[str, Any]]:
    """All parameters, those of normalization layers apart and without weight decay unless `decay_norm`."""
    norms = [] if decay_norm else [each for each in module.modules() if isinstance(each, NORMS)]
    undecayed = {parameter for norm in norms for parameter in norm.parameters()}
    groups: list[dict[str, Any]] = [
        {"params": [each for each in module.parameters() if each not in undecayed]},
        {"params": [each for each in module.parameters() if each in undecayed], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


class Progress(NamedTuple):
    """The place of an optimizer step in the run, in epochs: from `start` to `end` of a run of `epochs`."""

    start: float = 0.0
    end: float = 0.0
    epochs: float = 1.0


# Factors of the learning rate, by nothing but the place in the run: none needs a state, and epochs may differ in batches.
def cosine(progress: Progress, *, warmup_epochs: float = 0.0) -> float:
    """Half a cosine from 1 to 0 over the run, times a linear rise from 0 over `warmup_epochs`."""
    # The warm-up counts the step about to be made, so that the first one does not run at rate 0.
    warmup = min(1.0, progress.end / warmup_epochs) if warmup_epochs else 1.0
    return warmup * 0.5 * (1 + math.cos(math.pi * min(1.0, progress.start / progress.epochs)))


def piecewise(progress: Progress, *, points: Sequence[Sequence[float]]) -> float:
    """Linear between pairs (epoch, factor), constant outside them; two pairs at the same epoch make a jump."""
    epochs = [point[0] for point in points]
    if len(epochs) < 2 or any(len(point) != 2 for point in points) or epochs != sorted(epochs):
        raise ValueError(
            f"scheduler.points must be at least two pairs [epoch, factor] whose epochs do not decrease, got {points}"
        )
    # Mirrored, as at a jump the step that ends there still belongs to what was before.
    return float(np.interp(-progress.end, -np.array(epochs[::-1]), [factor for _, factor in points[::-1]]))
