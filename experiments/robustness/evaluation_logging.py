"""What W&B and TensorBoard get of an evaluation: accuracies under attacks and on corrupted images."""

from collections.abc import Iterable
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger

from experiments.checkpoints import CheckpointLocation
from experiments.common import read_plain_yaml
from experiments.data import SEVERITIES
from experiments.loggers import WANDB_ID, build_wandb_logger, log_figures
from experiments.robustness.plots import plot_evaluation
from experiments.robustness.results import CorruptionScores, EvaluationResults
from experiments.runs import CONFIG
from experiments.training import build_optional

ATTACKS, CORRUPTIONS, PLOT = "robustness/attacks", "robustness/corruptions", "robustness/plot"
WANDB_TARGET = f"{build_wandb_logger.__module__}.{build_wandb_logger.__name__}"


def build_evaluation_loggers(cfg: DictConfig, location: CheckpointLocation, title: str) -> list[Logger]:
    """The logger `cfg.logger`, or none with logger=none.

    With logger=wandb it resumes the W&B run of the checkpoint's run folder, in its project; where there is none, it starts a
    new one named `cfg.name`, or else `title`, in the folder of the evaluation.

    Raises:
        ValueError: If settings are given with logger=none.
    """
    cfg = cfg.copy()
    if cfg.logger.get("_target_") == WANDB_TARGET:
        with open_dict(cfg):
            cfg.logger = _wandb_settings(cfg.logger, location, title)
    logger = build_optional(cfg, "logger")
    return [] if logger is None else [logger]


def _wandb_settings(node: DictConfig, location: CheckpointLocation, title: str) -> dict[str, Any]:
    chosen: dict[str, Any] = dict(OmegaConf.to_container(node, resolve=True))  # type: ignore[arg-type]
    if location.run_dir is None or not (location.run_dir / WANDB_ID).is_file():
        return {"job_type": "evaluate", "group": None, **chosen, "name": chosen.get("name") or title}
    config = read_plain_yaml(location.run_dir / CONFIG)
    logged = config.get("logger") if isinstance(config, dict) else None
    # An id belongs to a project of an account. A run that was resumed with another logger names none.
    project = {key: logged[key] for key in ("project", "entity") if isinstance(logged, dict) and key in logged}
    # Name, group and type stay those of the training.
    return {**chosen, **project, "run_dir": str(location.run_dir), "name": None, "group": None, "job_type": None}


def log_evaluation(loggers: Iterable[Logger], results: EvaluationResults, title: str, *, step: int) -> None:
    """Log accuracies as scalars at the checkpoint's step, to W&B also charts and tables, to W&B and TensorBoard the plot."""
    for logger in loggers:
        figures = {PLOT: plot_evaluation(results, title)}
        if isinstance(logger, WandbLogger):
            settings = {key: results.facts[key] for key in ("checkpoint", "epoch", "device", "settings")}
            logger.log_hyperparams({"evaluation": settings})
            log_figures(logger, figures, step=step, charts={**scalars(results), **wandb_charts(results)})
            continue
        logger.log_metrics(scalars(results), step=step)
        if isinstance(logger, TensorBoardLogger):
            log_figures(logger, figures, step=step)
        logger.finalize("success")


def scalars(results: EvaluationResults) -> dict[str, float]:
    """All accuracies in [0,1] by name: clean, under each attack, on each type of corrupted images and their mean."""
    values = {name: scores.accuracy for name, scores in results.attacks.items()}
    if results.clean is not None:
        values["clean"] = results.clean.accuracy
    if results.corruptions is not None:
        values |= {f"corrupted/{name}": results.corruptions.mean_of(name) for name in results.corruptions.accuracy}
        values |= {} if results.corruptions.mean is None else {"corrupted": results.corruptions.mean}
    return {f"robustness/{name}": value for name, value in values.items()}


def wandb_charts(results: EvaluationResults) -> dict[str, Any]:
    """The results as W&B charts and tables by key; those of corrupted images only where they were measured."""
    import wandb

    rows: list[list[Any]] = [] if results.clean is None else [["clean", results.clean.accuracy, 0.0]]
    rows += [[name, scores.accuracy, results.attack_settings[name]["eps"]] for name, scores in results.attacks.items()]
    table = wandb.Table(columns=["attack", "accuracy", "eps"], data=rows)
    charts: dict[str, Any] = {ATTACKS: wandb.plot.bar(table, "attack", "accuracy", title="accuracy under attack")}
    if results.corruptions is not None and results.corruptions.accuracy:
        charts |= _corruption_charts(results.corruptions)
    return charts


def _corruption_charts(scores: CorruptionScores) -> dict[str, Any]:
    import wandb

    columns: list[str | int] = ["type", *(f"severity {severity}" for severity in SEVERITIES), "mean"]
    rows = [[name, *by_severity.values(), scores.mean_of(name)] for name, by_severity in scores.accuracy.items()]
    chart = wandb.plot.line_series(
        xs=list(SEVERITIES),
        ys=[list(by_severity.values()) for by_severity in scores.accuracy.values()],
        keys=list(scores.accuracy),
        title="accuracy on corrupted images",
        xname="severity",
    )
    return {CORRUPTIONS: chart, f"{CORRUPTIONS}_by_type": wandb.Table(columns=columns, data=rows)}
