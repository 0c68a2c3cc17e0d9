"""How well a trained network holds up: calibration, attacks, corrupted images."""

from experiments.robustness.attacks import FGSM, PGD, Attack
from experiments.robustness.autoattack import AutoAttack
from experiments.robustness.choosing import build_attacks
from experiments.robustness.errors import EvaluationError
from experiments.robustness.pixels import PixelSpace

__all__ = ["FGSM", "PGD", "Attack", "AutoAttack", "EvaluationError", "PixelSpace", "build_attacks"]
