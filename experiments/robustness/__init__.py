"""How robust a trained network is: accuracy and calibration, under attacks, on corrupted images."""

from experiments.robustness.attacks import FGSM, PGD, Attack, PixelModel
from experiments.robustness.autoattack import AutoAttack
from experiments.robustness.evaluation_logging import (
    ATTACKS,
    CORRUPTIONS,
    PLOT,
    build_evaluation_loggers,
    log_evaluation,
)
from experiments.robustness.evaluator import Evaluator, build_evaluator, gather_facts
from experiments.robustness.plots import plot_evaluation
from experiments.robustness.registry import build_attacks, describe_attack
from experiments.robustness.results import Accuracy, CleanScores, CorruptionScores, EvaluationResults

__all__ = [
    "ATTACKS", "CORRUPTIONS", "FGSM", "PGD", "PLOT", "Accuracy", "Attack", "AutoAttack", "CleanScores", "CorruptionScores",
    "EvaluationResults", "Evaluator", "PixelModel", "build_attacks", "build_evaluation_loggers", "build_evaluator",
    "describe_attack", "gather_facts", "log_evaluation", "plot_evaluation",
]  # fmt: skip
