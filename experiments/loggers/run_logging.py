"""What W&B and TensorBoard learn of a run beside its metrics: the settings at its start, the outcome of the test at its end."""

import io
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from experiments.common.masking import mask_settings
from experiments.runs.summary import Summary
from experiments.test_results.plots import NAMED, plot_calibration, plot_confusion, plot_per_class
from experiments.test_results.results import Shares, TestResults

DPI = 120
# Of the table of confused pairs.
PAIRS = 100
CONFUSION, CALIBRATION, PER_CLASS = "test/confusion_matrix", "test/calibration", "test/per_class_accuracy"


def log_settings(loggers: Iterable[Logger], cfg: DictConfig, choices: Mapping[str, str | None]) -> None:
    """Log the settings of a run, as the config of a W&B run and as a text in TensorBoard.

    Args:
        loggers: Those of the run. CSV loggers are left out: `config.yaml` lies beside their file.
        cfg: The composed config. The group `logger` is left out, as it may hold keys.
        choices: The option chosen in each group.
    """
    settings = _settings(cfg, choices)
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            # Not as hyperparameters yet: TensorBoard shows those with the scores, which are to come.
            lines = OmegaConf.to_yaml(OmegaConf.create(settings)).splitlines()
            logger.experiment.add_text("config", "\n".join(f"    {line}" for line in lines))
        elif not isinstance(logger, CSVLogger):
            logger.log_hyperparams(settings)


def _settings(cfg: DictConfig, choices: Mapping[str, str | None]) -> dict[str, Any]:
    content = mask_settings(OmegaConf.to_container(cfg, resolve=True))
    assert isinstance(content, dict)
    return {**{str(key): value for key, value in content.items() if key != "logger"}, "choices": dict(choices)}


def log_outcome(
    loggers: Iterable[Logger], outcome: TestResults, summary: Summary, cfg: DictConfig, *, step: int
) -> None:
    """Log the scores of a finished run, its confusion matrix, calibration curve and the accuracy of each class.

    To W&B as summary, charts and tables, to TensorBoard as hyperparameters with their scores and as pictures.

    Args:
        loggers: Those of the run.
        outcome: Of the test.
        summary: Of the run.
        cfg: The composed config.
        step: Optimizer steps of the run.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.log({**wandb_charts(outcome), "trainer/global_step": step})
            # After the charts, so that no metric of an earlier step is the last word.
            logger.experiment.summary.update(summary_scores(summary))
        elif isinstance(logger, TensorBoardLogger):
            for tag, figure in _figures(outcome).items():
                logger.experiment.add_image(tag, pixels_of(figure), global_step=step, dataformats="HWC")
            # Under names of their own, apart from the curves over the epochs.
            scores = {f"hp/{name}": value for name, value in summary_scores(summary).items()}
            logger.log_hyperparams(_settings(cfg, summary.choices), metrics=scores, step=step)
            # Lightning has closed the file at the end of the test; this has opened another one.
            logger.finalize("success")


def summary_scores(summary: Summary) -> dict[str, float]:
    """Scores by name: `test_accuracy` and the other test metrics and, of the epochs, the best and the median of the last."""
    scores = {f"test_{name}": value for name, value in summary.test.items()}
    by_epoch = summary.test_accuracy_by_epoch
    if by_epoch is not None:
        scores |= {"test_accuracy_best": by_epoch.best, "test_accuracy_median_last_10": by_epoch.median_last_10}
    return scores


def _figures(outcome: TestResults) -> dict[str, Figure]:
    return {
        CONFUSION: plot_confusion(outcome),
        CALIBRATION: plot_calibration(outcome),
        PER_CLASS: plot_per_class(outcome),
    }


def wandb_charts(outcome: TestResults) -> dict[str, Any]:
    """The outcome as W&B charts and tables by key; of more than 50 classes matrix and accuracies are pictures.

    W&B draws at most 10000 rows of a table, which are the cells of 100 classes, and no names that can be read.
    """
    import wandb

    pairs = [[each.true, each.predicted, each.count, each.share] for each in outcome.most_confused(PAIRS)]
    classes = [
        [name, _or_none(accuracy), int(count)]
        for name, accuracy, count in zip(
            outcome.class_names, outcome.per_class_accuracy(), outcome.per_class_count(), strict=True
        )
    ]
    charts: dict[str, Any] = {
        CALIBRATION: _calibration_chart(outcome),
        "test/calibration_bins": _calibration_table(outcome),
        "test/most_confused": wandb.Table(columns=["true", "predicted", "images", "share"], data=pairs),
        "test/classes": wandb.Table(columns=["class", "accuracy", "images"], data=classes),
    }
    if len(outcome.class_names) > NAMED:
        charts[CONFUSION] = wandb.Image(pixels_of(plot_confusion(outcome)))
        charts[PER_CLASS] = wandb.Image(pixels_of(plot_per_class(outcome)))
        return charts
    # One entry an image, as W&B counts them itself.
    rows, columns = np.indices(outcome.confusion.shape).reshape(2, -1)
    true, predicted = (np.repeat(labels, outcome.confusion.ravel()) for labels in (rows, columns))
    charts[CONFUSION] = wandb.plot.confusion_matrix(
        y_true=true.tolist(), preds=predicted.tolist(), class_names=list(outcome.class_names), title="test images"
    )
    table = wandb.Table(columns=["class", "accuracy"], data=[row[:2] for row in classes])
    charts[PER_CLASS] = wandb.plot.bar(table, "class", "accuracy", title="test accuracy of each class")
    return charts


def _calibration_chart(outcome: TestResults) -> Any:
    import wandb

    curve = outcome.calibration
    filled = curve.count > 0
    return wandb.plot.line_series(
        xs=[curve.confidence[filled].tolist(), [0.0, 1.0]],
        ys=[curve.accuracy[filled].tolist(), [0.0, 1.0]],
        keys=["model", "calibrated"],
        title="accuracy over confidence",
        xname="confidence",
    )


def _calibration_table(outcome: TestResults) -> Any:
    import wandb

    curve = outcome.calibration
    columns: list[Shares] = [curve.edges[:-1], curve.edges[1:], curve.confidence, curve.accuracy]
    rows = [
        [*(_or_none(value) for value in row), int(count)] for *row, count in zip(*columns, curve.count, strict=True)
    ]
    return wandb.Table(columns=["from", "to", "confidence", "accuracy", "images"], data=rows)


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def pixels_of(figure: Figure) -> npt.NDArray[np.uint8]:
    """The figure as pixels (H,W,3) at 120 dots an inch, drawn without a window."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return np.asarray(Image.open(buffer).convert("RGB"))
