"""What W&B and TensorBoard get beside the metrics: the settings at the start of a run, the test results at its end."""

from collections.abc import Iterable, Mapping
from dataclasses import astuple
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from experiments.common import mask_settings
from experiments.runs import Summary
from experiments.test_results import NAMED, TestResults, plot_calibration, plot_confusion, plot_per_class

# Of the table of confused pairs.
PAIRS = 100
CONFUSION, CALIBRATION, PER_CLASS = "test/confusion_matrix", "test/calibration", "test/per_class_accuracy"


def log_settings(loggers: Iterable[Logger], cfg: DictConfig, choices: Mapping[str, str | None]) -> None:
    """Log the composed config and the option chosen in each group: as config of a W&B run, as text in TensorBoard."""
    settings = _settings(cfg, choices)
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            # Not as hyperparameters yet: TensorBoard shows those with the scores, which are to come.
            lines = OmegaConf.to_yaml(OmegaConf.create(settings)).splitlines()
            logger.experiment.add_text("config", "\n".join(f"    {line}" for line in lines))
        # `config.yaml` lies beside the file of a CSV logger.
        elif not isinstance(logger, CSVLogger):
            logger.log_hyperparams(settings)


def _settings(cfg: DictConfig, choices: Mapping[str, str | None]) -> dict[str, Any]:
    content: Any = mask_settings(OmegaConf.to_container(cfg, resolve=True))
    # `logger` may hold keys.
    return {**{str(key): value for key, value in content.items() if key != "logger"}, "choices": dict(choices)}


def log_test_results(
    loggers: Iterable[Logger], results: TestResults, summary: Summary, cfg: DictConfig, *, step: int
) -> None:
    """Log the scores of a finished run of `step` steps, its confusion matrix, calibration and the accuracy of each class.

    To W&B as summary, charts and tables, to TensorBoard as hyperparameters with their scores and as images.
    """
    scores = summary_scores(summary)
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            log_figures(logger, {}, step=step, charts=wandb_charts(results))
            # After the charts, so that no metric of an earlier step replaces them.
            logger.experiment.summary.update(scores)
        elif isinstance(logger, TensorBoardLogger):
            plots = {CONFUSION: plot_confusion, CALIBRATION: plot_calibration, PER_CLASS: plot_per_class}
            log_figures(logger, {tag: plot(results) for tag, plot in plots.items()}, step=step)
            # Under names of their own, apart from the curves over the epochs.
            hp_scores = {f"hp/{name}": value for name, value in scores.items()}
            logger.log_hyperparams(_settings(cfg, summary.choices), metrics=hp_scores, step=step)
            # Lightning has closed the file at the end of the test; this has opened another one.
            logger.finalize("success")


def log_figures(
    logger: Logger, figures: Mapping[str, Figure], *, step: int, charts: Mapping[str, Any] | None = None
) -> None:
    """Log figures as images at an optimizer step to W&B or TensorBoard; to W&B also `charts`, whatever it can log."""
    if isinstance(logger, WandbLogger):
        import wandb

        images = {key: wandb.Image(figure) for key, figure in figures.items()}
        logger.experiment.log({**images, **(charts or {}), "trainer/global_step": step})
    elif isinstance(logger, TensorBoardLogger):
        for tag, figure in figures.items():
            logger.experiment.add_figure(tag, figure, global_step=step)


def summary_scores(summary: Summary) -> dict[str, float]:
    """Test metrics of the run as `test_*` and, of its epochs, the best accuracy and the median of the last ones."""
    scores, by_epoch = {f"test_{name}": value for name, value in summary.test.items()}, summary.test_accuracy_by_epoch
    if by_epoch is not None:
        scores |= {"test_accuracy_best": by_epoch.best, "test_accuracy_median_last_10": by_epoch.median_last_10}
    return scores


def wandb_charts(results: TestResults) -> dict[str, Any]:
    """Test results as W&B charts and tables by key; of more than 50 classes matrix and accuracies are images.

    W&B draws at most 10000 rows of a table, which are the cells of 100 classes, and no names that can be read.
    """
    import wandb

    def table(**columns: Iterable[Any]) -> Any:
        rows = [[None if each != each else each for each in row] for row in zip(*columns.values(), strict=True)]
        return wandb.Table(columns=list(columns), data=rows)

    curve, names, accuracy = results.calibration, results.class_names, results.per_class_accuracy().tolist()
    filled, titles = curve.count > 0, ("from", "to", "confidence", "accuracy", "images")
    bins = (curve.edges[:-1], curve.edges[1:], curve.confidence, curve.accuracy, curve.count)
    pairs = [list(astuple(pair)) for pair in results.most_confused(PAIRS)]
    counts = results.per_class_count().tolist()
    charts: dict[str, Any] = {
        CALIBRATION: wandb.plot.line_series(
            xs=[curve.confidence[filled].tolist(), [0.0, 1.0]],
            ys=[curve.accuracy[filled].tolist(), [0.0, 1.0]],
            keys=["model", "calibrated"],
            title="reliability diagram",
            xname="confidence",
        ),
        "test/calibration_bins": table(**{title: each.tolist() for title, each in zip(titles, bins, strict=True)}),
        "test/most_confused": wandb.Table(columns=["true", "predicted", "images", "share"], data=pairs),
        "test/classes": table(**{"class": names, "accuracy": accuracy, "images": counts}),
    }
    if len(names) > NAMED:
        plots = {CONFUSION: plot_confusion, PER_CLASS: plot_per_class}
        return charts | {key: wandb.Image(plot(results)) for key, plot in plots.items()}
    # One entry an image, as W&B counts them itself.
    cells = np.repeat(np.argwhere(results.confusion >= 0), results.confusion.ravel(), axis=0)
    bars = table(**{"class": names, "accuracy": accuracy})
    return charts | {
        CONFUSION: wandb.plot.confusion_matrix(
            y_true=cells[:, 0].tolist(), preds=cells[:, 1].tolist(), class_names=list(names), title="test images"
        ),
        PER_CLASS: wandb.plot.bar(bars, "class", "accuracy", title="test accuracy of each class"),
    }
