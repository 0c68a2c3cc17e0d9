"""What W&B and TensorBoard learn of an evaluation: accuracies under attacks and on corrupted images."""

from collections.abc import Iterable
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger

from experiments.common.plain_yaml import read_plain_yaml
from experiments.data.corruptions import SEVERITIES
from experiments.loggers.builders import WANDB_ID, build_wandb_logger
from experiments.loggers.results import log_figures
from experiments.robustness.checkpoint_source import CheckpointSource
from experiments.robustness.plots import draw
from experiments.robustness.results import CorruptionScores, Report
from experiments.runs.run_folder import CONFIG, find_start
from experiments.training.builders import build_optional

ATTACKS, CORRUPTIONS, PICTURE = "robustness/attacks", "robustness/corruptions", "robustness/picture"
WANDB_TARGET = f"{build_wandb_logger.__module__}.{build_wandb_logger.__name__}"


def build_evaluation_loggers(cfg: DictConfig, source: CheckpointSource, title: str) -> list[Logger]:
    """The chosen logger, or none with logger=none.

    With logger=wandb it goes on with the W&B run of the checkpoint's run folder, in its project; where that has none it
    begins a new one, in the folder of the evaluation.

    Args:
        cfg: Settings of the evaluation.
        source: The checkpoint.
        title: What is evaluated: the name of a new W&B run, unless `cfg.name` gives one.

    Raises:
        ValueError: If settings are given with logger=none.
    """
    cfg = cfg.copy()
    if cfg.logger.get("_target_") == WANDB_TARGET:
        with open_dict(cfg):
            cfg.logger = _wandb_settings(cfg, source, title)
    logger = build_optional(cfg, "logger")
    return [] if logger is None else [logger]


def _wandb_settings(cfg: DictConfig, source: CheckpointSource, title: str) -> dict[str, Any]:
    chosen = _as_dict(cfg.logger)
    if source.run_dir is None or not (source.run_dir / WANDB_ID).is_file():
        return {"job_type": "evaluate", "group": None, **chosen, "name": chosen.get("name") or title}
    stored = read_plain_yaml(source.run_dir / CONFIG)
    logged = stored.get("logger") if isinstance(stored, dict) else None
    # An id belongs to a project of an account. A run that was resumed with another logger names none.
    place = {key: logged[key] for key in ("project", "entity") if isinstance(logged, dict) and key in logged}
    # Name, group and kind stay those of the training.
    return {**chosen, **place, "run_dir": str(source.run_dir), "name": None, "group": None, "job_type": None}


def _as_dict(node: DictConfig) -> dict[str, Any]:
    content = OmegaConf.to_container(node, resolve=True)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def steps_of(source: CheckpointSource) -> int:
    """Optimizer steps that the checkpoint was written after; 0: it is not from a run of this study."""
    return 0 if source.run_dir is None else find_start(str(source.path), source.run_dir).steps


def log_evaluation(loggers: Iterable[Logger], report: Report, title: str, *, step: int) -> None:
    """Log the accuracies as scalars, to W&B also as charts and tables, to W&B and TensorBoard also as a picture.

    Args:
        loggers: Those of the evaluation.
        report: All results.
        title: What was evaluated.
        step: Optimizer steps of the checkpoint.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            settings = {key: report.facts[key] for key in ("checkpoint", "epoch", "device", "settings")}
            logger.log_hyperparams({"evaluation": settings})
            charts = {**scalars(report), **wandb_charts(report)}
            log_figures(logger, {PICTURE: draw(report, title)}, step=step, charts=charts)
            continue
        logger.log_metrics(scalars(report), step=step)
        if isinstance(logger, TensorBoardLogger):
            log_figures(logger, {PICTURE: draw(report, title)}, step=step)
        logger.finalize("success")


def scalars(report: Report) -> dict[str, float]:
    """All accuracies in [0,1] by name: clean, under each attack, on each type of corrupted images and their mean."""
    values = {} if report.clean is None else {"robustness/clean": report.clean.accuracy}
    values |= {f"robustness/{name}": scores.accuracy for name, scores in report.attacks.items()}
    corruptions = report.corruptions
    if corruptions is None:
        return values
    values |= {f"robustness/corrupted/{name}": corruptions.mean_of(name) for name in corruptions.accuracy}
    return values if corruptions.mean is None else {**values, "robustness/corrupted": corruptions.mean}


def wandb_charts(report: Report) -> dict[str, Any]:
    """The results as W&B charts and tables by key; those of corrupted images only where they were measured."""
    import wandb

    rows: list[list[Any]] = [] if report.clean is None else [["clean", report.clean.accuracy, 0.0]]
    rows += [[name, scores.accuracy, report.attack_settings[name]["eps"]] for name, scores in report.attacks.items()]
    table = wandb.Table(columns=["attack", "accuracy", "eps"], data=rows)
    charts: dict[str, Any] = {ATTACKS: wandb.plot.bar(table, "attack", "accuracy", title="accuracy under attack")}
    if report.corruptions is not None and report.corruptions.accuracy:
        charts |= _corruption_charts(report.corruptions)
    return charts


def _corruption_charts(scores: CorruptionScores) -> dict[str, Any]:
    import wandb

    columns: list[str | int] = ["type", *(f"severity {severity}" for severity in SEVERITIES), "mean"]
    rows = [[name, *shares.values(), scores.mean_of(name)] for name, shares in scores.accuracy.items()]
    chart = wandb.plot.line_series(
        xs=list(SEVERITIES),
        ys=[list(shares.values()) for shares in scores.accuracy.values()],
        keys=list(scores.accuracy),
        title="accuracy on corrupted images",
        xname="severity",
    )
    return {CORRUPTIONS: chart, f"{CORRUPTIONS}_by_type": wandb.Table(columns=columns, data=rows)}
