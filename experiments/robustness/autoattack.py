"""AutoAttack (Croce and Hein, ICML 2020) through the package pyautoattack."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from experiments.common import UserError
from experiments.robustness.attacks import Attack, PixelModel

# AutoAttack's standard version targets the nine most probable wrong classes.
MAX_TARGET_CLASSES, MIN_CLASSES = 9, 4


@dataclass(frozen=True, kw_only=True)
class AutoAttack(Attack):
    """The standard ensemble: APGD-CE, targeted APGD, targeted FAB, Square, each on the images that withstood those before.

    Takes a thousand passes and more for each image that withstands it. With fewer than ten classes all wrong ones are
    targeted.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        _import()

    def _attack(self, model: PixelModel, pixels: Tensor, targets: Tensor, seed: int) -> Tensor:
        with torch.no_grad():
            classes = model(pixels[:1]).shape[1]
        if classes < MIN_CLASSES:
            raise UserError(f"AutoAttack's targeted loss needs at least {MIN_CLASSES} classes, the model has {classes}")
        with _contained(pixels.device):
            attack = _import()(model, eps=self.eps, seed=seed, device=pixels.device)
            for part in (attack.apgd_targeted, attack.fab):
                part.n_target_classes = min(MAX_TARGET_CLASSES, classes - 1)
            attacked, _ = attack.run_standard_evaluation(pixels, targets, batch_size=len(pixels))
        return attacked.clamp(0, 1)


def _import() -> Any:
    try:
        from pyautoattack import AutoAttack as Implementation
    except ImportError as error:
        raise UserError(
            "attacks: AutoAttack needs the package pyautoattack; install it with `pip install pyautoattack`"
        ) from error
    return Implementation


@contextmanager
def _contained(device: torch.device) -> Iterator[None]:
    """Undo what the package does to the process: it sets global seeds and a trace function, and logs every batch."""
    logger, trace = logging.getLogger("auto-attack"), sys.gettrace()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        sys.settrace(trace)
        logger.setLevel(level)
