"""How robust a trained network is: accuracy and calibration, under attacks, on corrupted images."""

from experiments.robustness.attacks import FGSM, PGD, Attack, AutoAttack, build_attacks
from experiments.robustness.evaluator import Evaluator, build_evaluator
from experiments.robustness.reporting import ATTACKS, CORRUPTIONS, PLOT, build_loggers, log_evaluation, plot_evaluation
from experiments.robustness.results import Accuracy, AttackScores, CleanScores, CorruptionScores, EvaluationResults

__all__ = [
    "ATTACKS", "CORRUPTIONS", "FGSM", "PGD", "PLOT", "Accuracy", "Attack", "AttackScores", "AutoAttack", "CleanScores",
    "CorruptionScores", "EvaluationResults", "Evaluator", "build_attacks", "build_evaluator", "build_loggers",
    "log_evaluation", "plot_evaluation",
]  # fmt: skip
