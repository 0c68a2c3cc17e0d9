"""Panels of the dashboard by subject; workspace and report arrange them. Tests compare the names with what runs log."""

from copy import copy
from typing import Any

import wandb_workspaces.reports.v2 as wr

from experiments.loggers import CALIBRATION, CONFUSION, PER_CLASS
from experiments.robustness import ATTACKS, CORRUPTIONS, PLOT

# Axes: what the study logs once an epoch, and what callbacks log at every logging step.
EPOCH, STEP = "epoch", "trainer/global_step"
METHODS = ("puzzlemix", "mixup", "cutmix", "manifoldmix")
# Settings in the config of a run, where defaults are missing. A group of runs differs in the seed alone.
GROUP = ("choices.data", "choices.model", "choices.mix", "choices.ablation")
# Settings that `sweep=optuna` searches, and those that other sweeps of the study change.
SEARCHED = tuple(f"mix.config.{name}" for name in ("beta", "gamma", "eta", "transport_cost"))
OTHERS = ("config.alpha", "config.grid_sizes", "config.num_labels", "config.transport", "prob", "adversarial_prob")
SWEPT = (*SEARCHED, *(f"mix.{name}" for name in OTHERS), "data.fraction", "optimizer.lr")
# Width of a report in the units of its grid, and the number of lines or bars in a plot.
GRID_WIDTH, MAX_RUNS = 24, 50
MATRIX, LINES, BARS = "wandb/confusion_matrix/v1", "wandb/lineseries/v0", "wandb/bar/v0"
LINES_COLUMNS = {"step": "step", "lineKey": "lineKey", "lineVal": "lineVal"}
OVER_SEEDS = {"groupby_aggfunc": "mean", "groupby_rangefunc": "stddev", "max_runs_to_show": MAX_RUNS}
SMOOTHED = {"smoothing_type": "exponentialTimeWeighted", "smoothing_factor": 0.8, "smoothing_show_original": True}


def curve(title: str, *metrics: str, unit: str = "fraction", **settings: Any) -> wr.LinePlot:
    """Plot the mean of each group of runs, with one standard deviation."""
    # What callbacks log at every logging step is smoothed: every batch has a mixing ratio of its own.
    axis, smoothing = (STEP, SMOOTHED) if "/" in metrics[0] else (EPOCH, {})
    return wr.LinePlot(title=title, x=axis, y=list(metrics), title_y=unit, **OVER_SEEDS, **smoothing, **settings)


def bar(title: str, metric: str, unit: str = "fraction") -> wr.BarPlot:
    """Plot a bar for each group of runs: mean over the seeds, with one standard deviation."""
    return wr.BarPlot(title=title, metrics=[metric], title_x=unit, max_bars_to_show=MAX_RUNS, **OVER_SEEDS)


def chart(title: str, kind: str, key: str, columns: dict[str, str], **strings: str) -> wr.CustomChart:
    """Show a chart that a run has logged by `wandb.plot` under `key`; `columns` are those of its table, by their role."""
    query = {"summaryTable": {"tableKey": f"{key}_table"}}
    return wr.CustomChart(query=query, chart_name=kind, chart_fields=columns, chart_strings={"title": title, **strings})


RATIOS, SECONDS, IMAGES = ([f"{name}/{key}" for name in METHODS] for key in ("ratio", "mixing_seconds", "mix"))
ACCURACY = wr.SummaryMetric("val_accuracy")
COORDINATES = [wr.ParallelCoordinatesPlotColumn(metric=each) for each in (*map(wr.Config, SEARCHED), ACCURACY)]
RETAINED = ("puzzlemix/retained_saliency", "puzzlemix/retained_saliency_cutmix")
PANELS: dict[str, list[Any]] = {
    "accuracy": [
        bar("Test accuracy, last epoch", "test_accuracy"),
        bar("Test accuracy, median of the last 10 epochs", "test_accuracy_median_last_10"),
        bar("Test top-5 accuracy", "test_top5"),
    ],
    "learning": [
        curve("Validation accuracy", "val_accuracy"),
        curve("Test accuracy", "test_accuracy"),
        curve("Training accuracy, against the dominant label of a mix", "train_accuracy"),
        curve("Training loss, of the mixed images", "train_loss", unit="nats"),
        curve("Top-5 accuracy", "val_top5", "test_top5"),
        curve("Learning rate", "lr", unit=""),
    ],
    "calibration": [
        bar("Test calibration error", "test_calibration_error"),
        bar("Test negative log-likelihood", "test_nll", "nats"),
    ],
    "calibration curves": [
        curve("Calibration error, validation", "val_calibration_error"),
        curve("Calibration error, test", "test_calibration_error"),
        curve("Negative log-likelihood, validation", "val_nll", unit="nats"),
        curve("Negative log-likelihood, test", "test_nll", unit="nats"),
    ],
    "retained saliency": [curve("Retained saliency: Puzzle Mix, and a CutMix box of the same area", *RETAINED)],
    "mixing": [
        curve("Ratio of the first image", *RATIOS, unit="ratio", range_y=(0, 1)),
        curve("Mask entropy: 0 one image in each block, 1 both equally", "puzzlemix/mask_entropy", unit="bits"),
        curve("Visible blocks that were moved", "puzzlemix/moved_blocks"),
    ],
    "images": [wr.MediaBrowser(title="Mixed images", media_keys=IMAGES, num_columns=2)],
    "cost": [
        curve("Seconds of a training epoch", "epoch_seconds", unit="s"),
        curve("Seconds of a batch's saliency", "puzzlemix/saliency_seconds", unit="s"),
        curve("Seconds of a batch's mixing", *SECONDS, unit="s"),
    ],
    "test": [
        chart("Confusion matrix", MATRIX, CONFUSION, {key: key for key in ("Actual", "Predicted", "nPredictions")}),
        chart("Reliability diagram", LINES, CALIBRATION, LINES_COLUMNS, xname="confidence"),
        chart("Accuracy of each class", BARS, PER_CLASS, {"label": "class", "value": "accuracy"}),
        wr.MediaBrowser(title="Images of many classes", media_keys=[CONFUSION, PER_CLASS], num_columns=2),
    ],
    "tables": [wr.WeavePanelSummaryTable(table_name=name) for name in ("test/most_confused", "test/classes")],
    "robustness": [
        bar("Accuracy under FGSM, eps 8/255", "robustness/fgsm_8"),
        bar("Accuracy under PGD, 20 steps", "robustness/pgd_20"),
        bar("Accuracy on corrupted images, mean", "robustness/corrupted"),
    ],
    "robustness by run": [
        chart("Accuracy under attacks", BARS, ATTACKS, {"label": "attack", "value": "accuracy"}),
        chart("Accuracy on corrupted images", LINES, CORRUPTIONS, LINES_COLUMNS, xname="severity"),
        wr.MediaBrowser(title="Attacks and corruptions", media_keys=[PLOT], num_columns=2),
    ],
    "sweeps": [
        *(wr.ScatterPlot(title=f"Validation accuracy over {key}", x=wr.Config(key), y=ACCURACY) for key in SWEPT),
        wr.ParallelCoordinatesPlot(title="Searched hyperparameters and validation accuracy", columns=COORDINATES),
        wr.ParameterImportancePlot(with_respect_to="val_accuracy"),
    ],
    "comparison": [wr.RunComparer(diff_only="split")],
}


def arrange(panels: list[Any], *, columns: int, height: int = 8) -> list[Any]:
    """Lay panels out in full-width rows of `columns`, `height` units of the grid high."""
    arranged = [copy(panel) for panel in panels]
    for index, panel in enumerate(arranged):
        row, column = divmod(index, columns)
        width = GRID_WIDTH // min(columns, len(panels) - row * columns)
        panel.layout = wr.Layout(x=column * width, y=row * height, w=width, h=height)
    return arranged
