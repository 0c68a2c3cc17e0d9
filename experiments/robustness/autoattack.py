"""AutoAttack (Croce and Hein, ICML 2020) through the package pyautoattack."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from experiments.common.errors import UserError
from experiments.robustness.attacks import Attack
from experiments.robustness.pixel_space import PixelModel, PixelSpace

# Of the targeted attacks: AutoAttack's standard version tries the nine most probable wrong classes.
MAX_TARGET_CLASSES = 9
MIN_CLASSES = 4


@dataclass(frozen=True, kw_only=True)
class AutoAttack(Attack):
    """The standard ensemble: APGD-CE, targeted APGD, targeted FAB, Square, each on what the ones before have left.

    Takes a thousand passes and more for each image that withstands it. The implementation is the package's; with fewer
    than ten classes it is told to aim at all wrong ones.

    Args:
        eps: Largest change of a pixel, in (0,1].
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        _import()

    def _attack(self, model: nn.Module, pixels: Tensor, targets: Tensor, space: PixelSpace, seed: int) -> Tensor:
        pixel_model = PixelModel(model, space)
        with torch.no_grad():
            classes = pixel_model(pixels[:1]).shape[1]
        if classes < MIN_CLASSES:
            raise UserError(f"AutoAttack's targeted loss needs at least {MIN_CLASSES} classes, the model has {classes}")
        with _contained(pixels.device):
            attack = _import()(pixel_model, eps=self.eps, seed=seed, device=pixels.device)
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
    """Keep to the package what it does to the process: global seeds, the trace function, a log line for every batch."""
    logger, trace = logging.getLogger("auto-attack"), sys.gettrace()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        sys.settrace(trace)
        logger.setLevel(level)
