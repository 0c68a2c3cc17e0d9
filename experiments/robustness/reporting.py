"""What is shown of an evaluation: its plot, and what W&B and TensorBoard get."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import Logger, WandbLogger

from experiments.checkpoints import CheckpointLocation
from experiments.common import read_plain_yaml
from experiments.data import PUBLISHED, SEVERITIES
from experiments.loggers import WANDB_ID, build_wandb_logger, log_figures
from experiments.robustness.results import EvaluationResults
from experiments.runs import CONFIG
from experiments.test_results import plot_bars
from experiments.training import build_optional
from lightning_puzzlemix.monitoring.palette import BLUE

ATTACKS, CORRUPTIONS, PLOT = "robustness/attacks", "robustness/corruptions", "robustness/plot"
WIDTH, BAR_HEIGHT, ROW_HEIGHT, MARGIN = 7.0, 0.42, 0.3, 0.9  # inches


def plot_evaluation(results: EvaluationResults, title: str) -> Figure:
    """Bars of all accuracies; below them a heat map by type and severity if corrupted images were measured."""
    bars = results.accuracies()
    rows = results.corruptions.rows() if results.corruptions else []
    heights = [MARGIN + BAR_HEIGHT * len(bars), *([MARGIN + ROW_HEIGHT * len(rows)] if rows else [])]
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.3), layout="constrained")
    figure.suptitle(title, fontsize=11)
    upper, *lower = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    plot_bars(upper, list(bars), list(bars.values()), [f"{accuracy:.1%}" for accuracy in bars.values()], BLUE)
    for axes in lower:
        values = 100 * np.array([accuracies for _, accuracies in rows])
        axes.imshow(values, cmap="Blues", vmin=0, vmax=100, aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            color = "white" if value > 60 else "black"
            axes.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=8, color=color)
        axes.set_xticks(range(len(SEVERITIES) + 1), [*map(str, SEVERITIES), "mean"])
        labels = [name.replace("_", " ") + ("" if name in PUBLISHED else " *") for name, _ in rows]
        axes.set_yticks(range(len(labels)), labels, fontsize=9)
        axes.set_xlabel("severity (accuracy in %; *: not one of the 15)")
        axes.axvline(len(SEVERITIES) - 0.5, color="white", linewidth=4)
    return figure


def build_loggers(cfg: DictConfig, location: CheckpointLocation, title: str) -> list[Logger]:
    """The logger `cfg.logger`, or none; of W&B it resumes the run that the run folder logged to, in its project.

    Where there is none, a new one begins in the folder of the evaluation, named `cfg.name` or else `title`.
    """
    node: Any = OmegaConf.to_container(cfg.logger, resolve=True)
    if str(node.get("_target_")).endswith(f".{build_wandb_logger.__name__}"):
        if location.run_dir and (location.run_dir / WANDB_ID).is_file():
            # An id belongs to a project of an account. A run that was resumed with another logger names none.
            logged = read_plain_yaml(location.run_dir / CONFIG).get("logger") or {}
            node |= {key: logged[key] for key in ("project", "entity") if key in logged}
            # Name, group and type stay those of the training.
            node |= {"run_dir": str(location.run_dir), "name": None, "group": None, "job_type": None}
        else:
            node = {"job_type": "evaluate", "group": None, **node, "name": node.get("name") or title}
    logger = build_optional(OmegaConf.create({"logger": node}), "logger")
    return [] if logger is None else [logger]


def log_evaluation(loggers: Iterable[Logger], results: EvaluationResults, title: str, *, step: int) -> None:
    """Log accuracies as scalars at the checkpoint's step, to W&B also charts and tables, to W&B and TensorBoard the plot."""
    for logger in loggers:
        figures = {PLOT: plot_evaluation(results, title)}
        if isinstance(logger, WandbLogger):
            settings = {key: results.facts[key] for key in ("checkpoint", "epoch", "device", "settings")}
            logger.log_hyperparams({"evaluation": settings})
            log_figures(logger, {**figures, **scalars(results), **wandb_charts(results)}, step=step)
        else:
            logger.log_metrics(scalars(results), step=step)
            log_figures(logger, figures, step=step)
            logger.finalize("success")


def scalars(results: EvaluationResults) -> dict[str, float]:
    """All accuracies in [0,1] by name: clean, under each attack, on each type of corrupted images and their means."""
    values = {name: scores.accuracy for name, scores in results.attacks.items()}
    values |= {"clean": results.clean.accuracy} if results.clean else {}
    if scores := results.corruptions:
        values |= {f"corrupted/{name}": mean for name, mean in scores.mean_by_type.items()}
        means = {"corrupted": scores.mean, "corrupted_19_types": scores.mean_of_19_types}
        values |= {name: mean for name, mean in means.items() if mean is not None}
    return {f"robustness/{name}": value for name, value in values.items()}


def wandb_charts(results: EvaluationResults) -> dict[str, Any]:
    """The results as W&B charts and tables by key; those of corrupted images only where they were measured."""
    import wandb

    rows: list[list[Any]] = [["clean", results.clean.accuracy, 0.0]] if results.clean else []
    rows += [[name, scores.accuracy, scores.eps] for name, scores in results.attacks.items()]
    table = wandb.Table(columns=["attack", "accuracy", "eps"], data=rows)
    charts: dict[str, Any] = {ATTACKS: wandb.plot.bar(table, "attack", "accuracy", title="accuracy under attack")}
    if not results.corruptions or not results.corruptions.accuracy:
        return charts
    by_type = results.corruptions.rows()
    charts[CORRUPTIONS] = wandb.plot.line_series(
        xs=list(SEVERITIES),
        ys=[values[:-1] for _, values in by_type],
        keys=[name for name, _ in by_type],
        title="accuracy on corrupted images",
        xname="severity",
    )
    columns: list[Any] = ["type", *(f"severity {severity}" for severity in SEVERITIES), "mean"]
    charts[f"{CORRUPTIONS}_by_type"] = wandb.Table(columns=columns, data=[[name, *values] for name, values in by_type])
    return charts
