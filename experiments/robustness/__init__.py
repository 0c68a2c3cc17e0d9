"""How well a trained network holds up: calibration, attacks, corrupted images."""

from experiments.robustness.attacks import FGSM, PGD, Attack
from experiments.robustness.autoattack import AutoAttack
from experiments.robustness.pixel_space import PixelSpace
from experiments.robustness.registry import build_attacks

__all__ = ["FGSM", "PGD", "Attack", "AutoAttack", "PixelSpace", "build_attacks"]
