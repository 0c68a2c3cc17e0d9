"""SGD and its learning-rate schedules, as a function of the (fractional) epoch."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR


@dataclass(frozen=True, kw_only=True)
class SGDConfig:
    """SGD with momentum and a schedule that multiplies `lr`.

    Args:
        lr: Highest learning rate, > 0.
        momentum: In [0, 1).
        nesterov: Whether the momentum looks ahead (needs momentum > 0).
        weight_decay: L2 penalty on every parameter, >= 0.
        schedule: "step" (times `drop_factor` at each of `drops`), "cosine" (down to 0 at the last epoch) or "constant".
        drops: Epochs at which "step" drops, counted from 0; only that schedule reads them.
        drop_factor: Factor of each drop.
        warmup_epochs: Epochs in which the rate rises linearly from 0, multiplied with the schedule.

    Raises:
        ValueError: If a value is outside its range or the schedule is unknown.
    """

    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 1e-4
    schedule: str = "step"
    drops: Sequence[float] = ()
    drop_factor: float = 0.1
    warmup_epochs: float = 0.0

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"optimizer.lr must be positive, got {self.lr}")
        if self.warmup_epochs < 0:
            raise ValueError(f"optimizer.warmup_epochs must be at least 0, got {self.warmup_epochs}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"optimizer.schedule must be one of {sorted(SCHEDULES)}, got {self.schedule!r}")

    def build(
        self, parameters: Iterable[nn.Parameter], *, epochs: float, steps_per_epoch: int
    ) -> tuple[torch.optim.SGD, LambdaLR]:
        """Make the optimizer and a scheduler that is to be stepped after every optimizer step."""
        optimizer = torch.optim.SGD(
            parameters, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov, weight_decay=self.weight_decay
        )

        def factor_at_step(step: int) -> float:
            # The warm-up counts the step about to be made, so that the first one does not run at rate 0.
            warmup = min(1.0, (step + 1) / max(1.0, self.warmup_epochs * steps_per_epoch))
            return warmup * SCHEDULES[self.schedule](self, step / steps_per_epoch, epochs)

        return optimizer, LambdaLR(optimizer, factor_at_step)


def step_factor(config: SGDConfig, epoch: float, epochs: float) -> float:
    """Factor `drop_factor` for each of `drops` that has been reached; `epochs` is not used."""
    return config.drop_factor ** sum(epoch >= drop for drop in config.drops)


def cosine_factor(config: SGDConfig, epoch: float, epochs: float) -> float:
    """Half a cosine from 1 at epoch 0 to 0 at epoch `epochs`."""
    return 0.5 * (1 + math.cos(math.pi * min(1.0, epoch / epochs)))


def constant_factor(config: SGDConfig, epoch: float, epochs: float) -> float:
    """Always 1."""
    return 1.0


SCHEDULES: dict[str, Callable[[SGDConfig, float, float], float]] = {
    "step": step_factor,
    "cosine": cosine_factor,
    "constant": constant_factor,
}
