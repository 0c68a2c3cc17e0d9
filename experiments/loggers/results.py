"""What W&B and TensorBoard get beside the metrics: the settings at the start of a run, the test results at its end."""

import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from experiments.common import mask_settings
from experiments.runs import Summary
from experiments.test_results import NAMED, TestResults, plot_calibration, plot_confusion, plot_per_class

PAIRS_IN_TABLE = 100
CONFUSION, CALIBRATION, PER_CLASS = "test/confusion_matrix", "test/calibration", "test/per_class_accuracy"
Loggers = Iterable[Logger]
PLOTS = {CONFUSION: plot_confusion, CALIBRATION: plot_calibration, PER_CLASS: plot_per_class}


def log_settings(loggers: Loggers, cfg: DictConfig, choices: Mapping[str, str | None]) -> None:
    """Log the composed config and the option chosen in each group: as config of a W&B run, as text in TensorBoard."""
    settings = _settings(cfg, choices)
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            # Not as hyperparameters yet: TensorBoard shows those with the scores, which are to come.
            logger.experiment.add_text("config", textwrap.indent(OmegaConf.to_yaml(settings), "    "))
        # `config.yaml` lies beside the file of a CSV logger.
        elif not isinstance(logger, CSVLogger):
            logger.log_hyperparams(settings)


def _settings(cfg: DictConfig, choices: Mapping[str, str | None]) -> dict[str, Any]:
    settings: Any = mask_settings(OmegaConf.to_container(cfg, resolve=True))
    settings.pop("logger", None)
    return {**settings, "choices": dict(choices)}


def log_test_results(loggers: Loggers, results: TestResults, summary: Summary, cfg: DictConfig, *, step: int) -> None:
    """Log scores and test results to W&B as summary, charts, tables, to TensorBoard as hyperparameters and images."""
    scores = summary_scores(summary)
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            log_figures(logger, wandb_charts(results), step=step)
            # After the charts, so that no metric of an earlier step replaces them.
            logger.experiment.summary.update(scores)
        elif isinstance(logger, TensorBoardLogger):
            log_figures(logger, {tag: plot(results) for tag, plot in PLOTS.items()}, step=step)
            # Under names of their own, apart from the curves over the epochs.
            hp_scores = {f"hp/{name}": value for name, value in scores.items()}
            logger.log_hyperparams(_settings(cfg, summary.choices), metrics=hp_scores, step=step)
            # Lightning has closed the file at the end of the test; this has opened another one.
            logger.finalize("success")


def log_figures(logger: Logger, shown: Mapping[str, Any], *, step: int) -> None:
    """Log figures as images at an optimizer step to W&B or TensorBoard; to W&B also anything else that it can log."""
    if isinstance(logger, WandbLogger):
        import wandb

        images = {key: wandb.Image(each) for key, each in shown.items() if isinstance(each, Figure)}
        logger.experiment.log({**shown, **images, "trainer/global_step": step})
    elif isinstance(logger, TensorBoardLogger):
        for tag, figure in shown.items():
            logger.experiment.add_figure(tag, figure, global_step=step)


def summary_scores(summary: Summary) -> dict[str, float]:
    """Test metrics of the run as `test_*` and, of its epochs, the best accuracy and the median of the last ones."""
    scores, by_epoch = {f"test_{name}": value for name, value in summary.test.items()}, summary.test_accuracy_by_epoch
    if by_epoch is not None:
        scores |= {"test_accuracy_best": by_epoch.best, "test_accuracy_median_last_10": by_epoch.median_last_10}
    return scores


def wandb_charts(results: TestResults) -> dict[str, Any]:
    """Test results as W&B charts and tables by key; of more than 50 classes, which no chart can name, partly as images."""
    import wandb

    def table(**columns: Iterable[Any]) -> Any:
        rows = zip(*(np.asarray(column).tolist() for column in columns.values()), strict=True)
        data = [[None if each != each else each for each in row] for row in rows]  # None for NaN
        return wandb.Table(columns=list(columns), data=data)

    curve, filled = results.calibration, results.calibration.count > 0
    bins = {"from": curve.edges[:-1], "to": curve.edges[1:], "confidence": curve.confidence, "accuracy": curve.accuracy}
    classes = {"class": results.class_names, "accuracy": results.per_class_accuracy()}
    pairs = [list(pair) for pair in results.most_confused(PAIRS_IN_TABLE)]
    charts: dict[str, Any] = {
        CALIBRATION: wandb.plot.line_series(
            xs=[curve.confidence[filled].tolist(), [0.0, 1.0]],
            ys=[curve.accuracy[filled].tolist(), [0.0, 1.0]],
            keys=["model", "calibrated"],
            title="reliability diagram",
            xname="confidence",
        ),
        "test/calibration_bins": table(**bins, images=curve.count),
        "test/most_confused": wandb.Table(columns=["true", "predicted", "images", "share"], data=pairs),
        "test/classes": table(**classes, images=results.per_class_count()),
    }
    if len(results.class_names) > NAMED:
        return charts | {key: wandb.Image(PLOTS[key](results)) for key in (CONFUSION, PER_CLASS)}
    # One entry an image, as W&B counts them itself.
    cells = np.repeat(np.argwhere(results.confusion >= 0), results.confusion.ravel(), axis=0)
    true, predicted, names = cells[:, 0].tolist(), cells[:, 1].tolist(), list(results.class_names)
    return charts | {
        CONFUSION: wandb.plot.confusion_matrix(y_true=true, preds=predicted, class_names=names, title="test images"),
        PER_CLASS: wandb.plot.bar(table(**classes), "class", "accuracy", title="test accuracy of each class"),
    }
