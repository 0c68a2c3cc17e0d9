"""Panels of the dashboard by subject; workspace and report arrange them. Tests compare the names with what runs log."""

from collections.abc import Sequence
from typing import Any

import wandb_workspaces.reports.v2 as wr

from experiments.loggers import CALIBRATION, CONFUSION, PER_CLASS
from experiments.robustness import ATTACKS, CORRUPTIONS, PLOT

# Axes: what the study logs once an epoch, and what callbacks log at every logging step.
EPOCH, STEP = "epoch", "trainer/global_step"
METHODS = ("puzzlemix", "mixup", "cutmix", "manifoldmix")
# Settings in the config of a run, where defaults are missing. A group of runs differs in the seed alone.
DATA = "choices.data"
GROUP = (DATA, "choices.model", "choices.mix")
# Settings that the sweeps of the study change; `sweep=optuna` searches the first four.
SWEPT = {
    "mix.config.beta": "beta, weight of the label smoothness",
    "mix.config.gamma": "gamma, weight of the data smoothness",
    "mix.config.eta": "eta, weight of the prior",
    "mix.config.transport_cost": "transport_cost, cost of moving a block",
    "data.fraction": "fraction of the training images",
    "optimizer.lr": "learning rate",
}
SEARCHED = list(SWEPT)[:4]
# Width of a report in the units of its grid, and the number of lines or bars in a plot.
GRID_WIDTH, MOST_SHOWN = 24, 50
MATRIX, LINES, BARS = "wandb/confusion_matrix/v1", "wandb/lineseries/v0", "wandb/bar/v0"
LINES_COLUMNS = {"step": "step", "lineKey": "lineKey", "lineVal": "lineVal"}
OVER_SEEDS = {"groupby_aggfunc": "mean", "groupby_rangefunc": "stddev", "max_runs_to_show": MOST_SHOWN}
SMOOTHED = {"smoothing_type": "exponentialTimeWeighted", "smoothing_factor": 0.8, "smoothing_show_original": True}


def curve(title: str, metrics: Sequence[str], unit: str = "", **settings: Any) -> wr.LinePlot:
    """Plot metrics over the epochs: mean of each group of runs, with a band of one standard deviation."""
    axes = {"x": EPOCH, "title_x": "epoch", "title_y": unit}
    return wr.LinePlot(title=title, y=list(metrics), **{**axes, **OVER_SEEDS, **settings})


def step_curve(title: str, metrics: Sequence[str], unit: str, **settings: Any) -> wr.LinePlot:
    """Plot metrics over the optimizer's steps, smoothed: every batch has a mixing ratio of its own."""
    return curve(title, metrics, unit, x=STEP, title_x="step", **SMOOTHED, **settings)


def bar(title: str, metric: str, unit: str) -> wr.BarPlot:
    """Plot a bar for each group of runs: mean over the seeds, with one standard deviation."""
    return wr.BarPlot(
        title=title, metrics=[metric], orientation="h", title_x=unit, max_bars_to_show=MOST_SHOWN, **OVER_SEEDS
    )


def chart(title: str, kind: str, key: str, columns: dict[str, str], **strings: str) -> wr.CustomChart:
    """Show a chart that a run has logged by `wandb.plot` under `key`; `columns` are those of its table, by their role."""
    query = {"summaryTable": {"tableKey": f"{key}_table"}}
    return wr.CustomChart(query=query, chart_name=kind, chart_fields=columns, chart_strings={"title": title, **strings})


def media(title: str, *keys: str) -> wr.MediaBrowser:
    """Show logged images, with a slider for the step."""
    return wr.MediaBrowser(title=title, media_keys=list(keys), num_columns=2)


def training_panels() -> dict[str, list[Any]]:
    """Make the panels of metrics that are logged during training, by subject."""
    return {
        "accuracy": [
            bar("Test accuracy, last epoch", "test_accuracy", "fraction"),
            bar("Test accuracy, median of the last 10 epochs", "test_accuracy_median_last_10", "fraction"),
            bar("Test top-5 accuracy", "test_top5", "fraction"),
        ],
        "learning": [
            curve("Validation accuracy", ["val_accuracy"], "fraction"),
            curve("Test accuracy", ["test_accuracy"], "fraction"),
            curve("Training accuracy, against the dominant label of a mix", ["train_accuracy"], "fraction"),
            curve("Training loss, of the mixed images", ["train_loss"], "nats"),
            curve("Top-5 accuracy", ["val_top5", "test_top5"], "fraction"),
            curve("Learning rate", ["lr"]),
        ],
        "calibration": [
            bar("Test calibration error", "test_calibration_error", "fraction"),
            bar("Test negative log-likelihood", "test_nll", "nats"),
        ],
        "calibration curves": [
            curve("Calibration error, validation", ["val_calibration_error"], "fraction"),
            curve("Calibration error, test", ["test_calibration_error"], "fraction"),
            curve("Negative log-likelihood, validation", ["val_nll"], "nats"),
            curve("Negative log-likelihood, test", ["test_nll"], "nats"),
        ],
        "retained saliency": [
            step_curve(
                "Retained saliency: Puzzle Mix, and a CutMix box of the same area",
                ["puzzlemix/retained_saliency", "puzzlemix/retained_saliency_cutmix"],
                "fraction",
            )
        ],
        "mixing": [
            step_curve("Ratio of the first image", [f"{name}/ratio" for name in METHODS], "ratio", range_y=(0, 1)),
            step_curve("Mask entropy: 0 one image in each block, 1 both equally", ["puzzlemix/mask_entropy"], "bits"),
            step_curve("Visible blocks that were moved", ["puzzlemix/moved_blocks"], "fraction"),
        ],
        "images": [media("Mixed images", *(f"{name}/mix" for name in METHODS))],
        "cost": [
            curve("Seconds of a training epoch", ["epoch_seconds"], "s"),
            step_curve("Seconds of a batch's saliency", ["puzzlemix/saliency_seconds"], "s"),
            step_curve("Seconds of a batch's mixing", [f"{name}/mixing_seconds" for name in METHODS], "s"),
        ],
    }


def result_panels() -> dict[str, list[Any]]:
    """Make the panels of tests, evaluations and sweeps, by subject."""
    matrix = {name: name for name in ("Actual", "Predicted", "nPredictions")}
    scatters = [
        wr.ScatterPlot(title=f"Validation accuracy over {name}", x=wr.Config(key), y=wr.SummaryMetric("val_accuracy"))
        for key, name in SWEPT.items()
    ]
    searched = [*map(wr.Config, SEARCHED), wr.SummaryMetric("val_accuracy")]
    columns = [wr.ParallelCoordinatesPlotColumn(metric=metric) for metric in searched]
    return {
        "test": [
            chart("Confusion matrix", MATRIX, CONFUSION, matrix),
            chart("Reliability diagram", LINES, CALIBRATION, LINES_COLUMNS, xname="confidence"),
            chart("Accuracy of each class", BARS, PER_CLASS, {"label": "class", "value": "accuracy"}),
            media("Confusion matrix and accuracies, with many classes", CONFUSION, PER_CLASS),
        ],
        "tables": [wr.WeavePanelSummaryTable(table_name=name) for name in ("test/most_confused", "test/classes")],
        "robustness": [
            bar("Accuracy under FGSM, eps 8/255", "robustness/fgsm_8", "fraction"),
            bar("Accuracy under PGD, 20 steps", "robustness/pgd_20", "fraction"),
            bar("Accuracy on corrupted images, mean", "robustness/corrupted", "fraction"),
        ],
        "robustness by run": [
            chart("Accuracy under attacks", BARS, ATTACKS, {"label": "attack", "value": "accuracy"}),
            chart("Accuracy on corrupted images", LINES, CORRUPTIONS, LINES_COLUMNS, xname="severity"),
            media("Attacks and corruptions", PLOT),
        ],
        "sweeps": [
            *scatters,
            wr.ParallelCoordinatesPlot(title="Searched hyperparameters and validation accuracy", columns=columns),
            wr.ParameterImportancePlot(with_respect_to="val_accuracy"),
        ],
        "comparison": [wr.RunComparer(diff_only="split")],
    }


def arrange(panels: list[Any], *, columns: int, height: int = 8) -> list[Any]:
    """Lay panels out in full-width rows of `columns`, `height` units of the grid high; their layout is replaced."""
    for first in range(0, len(panels), columns):
        row = panels[first : first + columns]
        width = GRID_WIDTH // len(row)
        for place, panel in enumerate(row):
            panel.layout = wr.Layout(x=place * width, y=first // columns * height, w=width, h=height)
    return panels
