"""What torch.optim has not: norms without weight decay, and learning rates that follow the epoch batch by batch."""

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


class Progress(NamedTuple):
    """The place of an optimizer step in the run, in epochs: from `start` to `end` of a run of `epochs`."""

    start: float = 0.0
    end: float = 0.0
    epochs: float = 1.0


def parameter_groups(module: nn.Module, *, decay_norm: bool) -> list[dict[str, Any]]:
    """All parameters, those of normalization layers apart and without weight decay unless `decay_norm`."""
    norms = [] if decay_norm else [each for each in module.modules() if isinstance(each, NORMS)]
    undecayed = {id(parameter) for norm in norms for parameter in norm.parameters()}
    groups = [{"params": [each for each in module.parameters() if id(each) not in undecayed]}]
    if undecayed:
        parameters = [each for each in module.parameters() if id(each) in undecayed]
        groups.append({"params": parameters, "weight_decay": 0.0})  # type: ignore[dict-item]
    return groups


# Both depend on nothing but the place in the run: nothing is to be restored, and epochs may differ in their batches.
def cosine(optimizer: Optimizer, progress: Callable[[], Progress], *, warmup_epochs: float = 0.0) -> LambdaLR:
    """Half a cosine from 1 to 0 over the run, times a linear rise from 0 over `warmup_epochs`."""

    def factor(_: int) -> float:
        start, end, epochs = progress()
        # The warm-up counts the step about to be made, so that the first one does not run at rate 0.
        warmup = min(1.0, end / warmup_epochs) if warmup_epochs else 1.0
        return warmup * 0.5 * (1 + math.cos(math.pi * min(1.0, start / epochs)))

    return LambdaLR(optimizer, factor)


def piecewise(optimizer: Optimizer, progress: Callable[[], Progress], *, points: Sequence[Sequence[float]]) -> LambdaLR:
    """Linear between pairs (epoch, factor), constant outside them; two pairs at the same epoch make a jump.

    Raises:
        ValueError: If there are fewer than two pairs, or their epochs decrease.
    """
    epochs = [point[0] for point in points]
    if len(epochs) < 2 or any(len(point) != 2 for point in points) or epochs != sorted(epochs):
        raise ValueError(
            "scheduler.points must be at least two pairs [epoch, factor] whose epochs do not decrease, "
            f"got {[list(point) for point in points]}"
        )

    def factor(_: int) -> float:
        end = progress().end
        # At a jump the step that ends there still belongs to what was before.
        right = bisect_left(epochs, end)
        if right in (0, len(epochs)):
            return points[min(right, len(epochs) - 1)][1]
        (before, first), (after, last) = points[right - 1], points[right]
        return first + (end - before) / (after - before) * (last - first)

    return LambdaLR(optimizer, factor)
