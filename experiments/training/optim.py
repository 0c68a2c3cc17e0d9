"""SGD and its learning-rate schedules, as a function of the (fractional) epoch."""

import dataclasses
import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


@dataclass(frozen=True)
class Moment:
    """Where in the run an optimizer step lies, in epochs: from `start` to `end` of a run of `epochs`."""

    start: float
    end: float
    epochs: float


@dataclass(frozen=True, kw_only=True)
class SGDConfig:
    """SGD with momentum and a schedule that multiplies `lr`.

    The rate depends on nothing but the place in the run, so a resumed run, or one whose number of batches changes from
    phase to phase, has nothing to restore.

    Args:
        lr: Learning rate that the schedule multiplies, > 0.
        base_batch_size: The effective batch that `lr` is meant for: with another `data.batch_size` the rate is scaled in
            proportion (Goyal et al. 2017); null: `lr` holds as it is.
        momentum: In [0, 1).
        nesterov: Whether the momentum looks ahead (needs momentum > 0).
        weight_decay: L2 penalty, >= 0.
        decay_norm: Whether the scales and shifts of normalization layers are penalized too.
        schedule: "step" (times `drop_factor` at each of `drops`), "piecewise" (linear between `points`), "cosine" (down to
            0 at the last epoch) or "constant".
        drops: Epochs at which "step" drops, counted from 0; only that schedule reads them.
        drop_factor: Factor of each drop.
        points: Pairs (epoch, factor) that "piecewise" connects; epochs must not decrease, and two at the same epoch make
            a jump. Only that schedule reads them.
        warmup_epochs: Epochs in which the rate rises linearly from 0, multiplied with the schedule.

    Raises:
        ValueError: If a value is outside its range or the schedule is unknown.
    """

    lr: float = 0.1
    base_batch_size: int | None = None
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 1e-4
    decay_norm: bool = True
    schedule: str = "step"
    drops: Sequence[float] = ()
    drop_factor: float = 0.1
    points: Sequence[Sequence[float]] = ()
    warmup_epochs: float = 0.0

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"optimizer.lr must be positive, got {self.lr}")
        if self.base_batch_size is not None and self.base_batch_size < 1:
            raise ValueError(f"optimizer.base_batch_size must be null or at least 1, got {self.base_batch_size}")
        if self.warmup_epochs < 0:
            raise ValueError(f"optimizer.warmup_epochs must be at least 0, got {self.warmup_epochs}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"optimizer.schedule must be one of {sorted(SCHEDULES)}, got {self.schedule!r}")
        if self.schedule == "piecewise":
            self._check_points()

    def _check_points(self) -> None:
        epochs = [point[0] for point in self.points]
        if len(epochs) < 2 or any(len(point) != 2 for point in self.points) or epochs != sorted(epochs):
            raise ValueError(
                "optimizer.points must be at least two pairs [epoch, factor] whose epochs do not decrease, "
                f"got {[list(point) for point in self.points]}"
            )

    def scaled_to(self, batch_size: int) -> "SGDConfig":
        """The same settings with `lr` scaled to an effective batch of `batch_size`, if there is a `base_batch_size`."""
        if self.base_batch_size is None:
            return self
        return dataclasses.replace(self, lr=self.lr * batch_size / self.base_batch_size, base_batch_size=None)

    def build(self, module: nn.Module) -> torch.optim.SGD:
        """Make the optimizer for all parameters of `module`."""
        norms = [] if self.decay_norm else [each for each in module.modules() if isinstance(each, NORMS)]
        undecayed = {id(parameter) for norm in norms for parameter in norm.parameters()}
        parameters = list(module.parameters())
        groups = [{"params": [each for each in parameters if id(each) not in undecayed]}]
        if undecayed:
            groups.append({"params": [each for each in parameters if id(each) in undecayed], "weight_decay": 0.0})
        return torch.optim.SGD(
            groups, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov, weight_decay=self.weight_decay
        )

    def rate(self, moment: Moment) -> float:
        """Learning rate of the optimizer step at `moment`."""
        # The warm-up counts the step about to be made, so that the first one does not run at rate 0.
        warmup = min(1.0, moment.end / self.warmup_epochs) if self.warmup_epochs else 1.0
        return self.lr * warmup * SCHEDULES[self.schedule](self, moment)


def step_factor(config: SGDConfig, moment: Moment) -> float:
    """Factor `drop_factor` for each of `drops` that has been reached."""
    return config.drop_factor ** sum(moment.start >= drop for drop in config.drops)


def piecewise_factor(config: SGDConfig, moment: Moment) -> float:
    """Linear between the two points around the end of the step, constant outside them."""
    epochs = [point[0] for point in config.points]
    factors = [point[1] for point in config.points]
    # At a jump the step that ends there still belongs to what was before.
    right = bisect_left(epochs, moment.end)
    if right == 0 or right == len(epochs):
        return factors[min(right, len(epochs) - 1)]
    share = (moment.end - epochs[right - 1]) / (epochs[right] - epochs[right - 1])
    return factors[right - 1] + share * (factors[right] - factors[right - 1])


def cosine_factor(config: SGDConfig, moment: Moment) -> float:
    """Half a cosine from 1 at epoch 0 to 0 at epoch `epochs`."""
    return 0.5 * (1 + math.cos(math.pi * min(1.0, moment.start / moment.epochs)))


def constant_factor(config: SGDConfig, moment: Moment) -> float:
    """Always 1."""
    return 1.0


SCHEDULES: dict[str, Callable[[SGDConfig, Moment], float]] = {
    "step": step_factor,
    "piecewise": piecewise_factor,
    "cosine": cosine_factor,
    "constant": constant_factor,
}
