"""Panels of the dashboard, by subject; workspace and report put them together."""

from collections.abc import Sequence
from typing import Any

import wandb_workspaces.reports.v2 as wr

from experiments.loggers.results import CALIBRATION, CONFUSION, PER_CLASS
from experiments.robustness.evaluation_logging import ATTACKS, CORRUPTIONS, PLOT
from experiments.test_results.plots import NAMED
from experiments.wandb_dashboard import keys

# Width of a report in the units of its grid.
GRID_WIDTH = 24
HEIGHT, TALL, TALLER = 8, 12, 18
# Lines of a plot, or bars: groups of runs, or runs where nothing is grouped.
MOST_SHOWN = 50
# Names of W&B's own charts, and the columns of one of them.
MATRIX, LINES, BARS = "wandb/confusion_matrix/v1", "wandb/lineseries/v0", "wandb/bar/v0"
LINES_COLUMNS = {"step": "step", "lineKey": "lineKey", "lineVal": "lineVal"}


def curve(title: str, *metrics: str, label: str = "", **settings: Any) -> wr.LinePlot:
    """Lines over the epochs: mean of each group of runs, with a band of one standard deviation.

    Args:
        title: Of the plot.
        metrics: What is drawn, of every group.
        label: Of the y axis.
        settings: Further settings of LinePlot.
    """
    return wr.LinePlot(
        title=title,
        y=list(metrics),
        title_y=label,
        groupby_aggfunc="mean",
        groupby_rangefunc="stddev",
        max_runs_to_show=MOST_SHOWN,
        **{"x": keys.EPOCH, "title_x": "epoch", **settings},
    )


def step_curve(title: str, *metrics: str, label: str = "", **settings: Any) -> wr.LinePlot:
    """Lines over the optimizer's steps, smoothed: every batch is mixed with a share of its own."""
    smoothing = {"smoothing_type": "exponentialTimeWeighted", "smoothing_factor": 0.8, "smoothing_show_original": True}
    return curve(title, *metrics, label=label, x=keys.STEP, title_x="step", **smoothing, **settings)


def bars(title: str, metric: str, label: str = "") -> wr.BarPlot:
    """A bar for each group of runs: mean over the seeds, with one standard deviation."""
    return wr.BarPlot(
        title=title,
        metrics=[metric],
        orientation="h",
        title_x=label,
        groupby_aggfunc="mean",
        groupby_rangefunc="stddev",
        max_runs_to_show=MOST_SHOWN,
        max_bars_to_show=MOST_SHOWN,
    )


def accuracy_bars() -> list[wr.BarPlot]:
    """Test accuracy at the end of training, in its three forms."""
    return [
        bars("Test accuracy, last epoch", keys.TEST_ACCURACY, "share"),
        bars("Test accuracy, median of the last 10 epochs", keys.TEST_ACCURACY_MEDIAN, "share"),
        bars("Test accuracy, right class among the first 5", keys.TEST_TOP5, "share"),
    ]


def learning_curves() -> list[wr.LinePlot]:
    """Accuracy, loss and learning rate over the epochs."""
    return [
        curve("Validation accuracy", keys.VAL_ACCURACY, label="share"),
        curve("Test accuracy", keys.TEST_ACCURACY, label="share"),
        curve("Training accuracy, against the dominant label of a mix", keys.TRAIN_ACCURACY, label="share"),
        curve("Training loss, of what the network saw", keys.TRAIN_LOSS, label="nats"),
        curve("Right class among the first 5", keys.VAL_TOP5, keys.TEST_TOP5, label="share"),
        curve("Learning rate", keys.LEARNING_RATE),
    ]


def calibration_bars() -> list[wr.BarPlot]:
    """Calibration at the end of training."""
    return [
        bars("Test calibration error", keys.TEST_CALIBRATION_ERROR, "share"),
        bars("Test negative log-likelihood", keys.TEST_NLL, "nats"),
    ]


def calibration_curves() -> list[wr.LinePlot]:
    """Calibration over the epochs."""
    return [
        curve("Calibration error, validation", keys.VAL_CALIBRATION_ERROR, label="share"),
        curve("Calibration error, test", keys.TEST_CALIBRATION_ERROR, label="share"),
        curve("Negative log-likelihood, validation", keys.VAL_NLL, label="nats"),
        curve("Negative log-likelihood, test", keys.TEST_NLL, label="nats"),
    ]


def retained_saliency() -> wr.LinePlot:
    """What Puzzle Mix keeps visible of the images' saliency, beside what CutMix would keep."""
    return step_curve(
        "Saliency that stays visible: Puzzle Mix, and a CutMix box of the same area",
        keys.RETAINED_SALIENCY,
        keys.RETAINED_SALIENCY_CUTMIX,
        label="share",
    )


def mixing_curves() -> list[wr.LinePlot]:
    """What the masks are like."""
    return [
        step_curve("Share of the first image", *keys.RATIOS, label="share", range_y=(0, 1)),
        step_curve("Mask entropy: 0 one image in each block, 1 both by half", keys.MASK_ENTROPY, label="bits"),
        step_curve("Visible blocks that were moved", keys.MOVED_BLOCKS, label="share"),
    ]


def cost_curves() -> list[wr.LinePlot]:
    """What the mixing costs."""
    return [
        curve("Seconds of a training epoch", keys.EPOCH_SECONDS, label="s"),
        step_curve("Seconds of a batch's saliency", keys.SALIENCY_SECONDS, label="s"),
        step_curve("Seconds of a batch's mixing", *keys.MIXING_SECONDS, label="s"),
    ]


def mix_pictures() -> wr.MediaBrowser:
    """Pictures of mixed batches, with a slider for the step."""
    return _pictures("Mixed images", *keys.MIX_PICTURES)


def chart(title: str, kind: str, key: str, *, xname: str | None = None, **columns: str) -> wr.CustomChart:
    """A chart that a run has logged by `wandb.plot`.

    Args:
        title: Of the chart.
        kind: The name that W&B gives to such charts.
        key: The name under which the run has logged it.
        xname: Label of the x axis, where the chart has a choice of it.
        columns: The columns of its table, by their role in the chart.
    """
    # wandb keeps the table of a chart under this name.
    query = {"summaryTable": {"tableKey": f"{key}_table"}}
    strings = {"title": title} if xname is None else {"title": title, "xname": xname}
    return wr.CustomChart(query=query, chart_name=kind, chart_fields=columns, chart_strings=strings)


def detail_charts() -> list[Any]:
    """Confusion matrix, calibration and accuracy of each class, of finished runs; as pictures where classes are many."""
    matrix = {"Actual": "Actual", "Predicted": "Predicted", "nPredictions": "nPredictions"}
    return [
        chart("Confusion matrix", MATRIX, CONFUSION, **matrix),
        chart("Accuracy over confidence", LINES, CALIBRATION, xname="confidence", **LINES_COLUMNS),
        chart("Accuracy of each class", BARS, PER_CLASS, label="class", value="accuracy"),
        _pictures(f"Confusion matrix and accuracies of more than {NAMED} classes", CONFUSION, PER_CLASS),
    ]


def detail_tables() -> list[wr.WeavePanelSummaryTable]:
    """The pairs of classes that were confused most, and all classes."""
    return [wr.WeavePanelSummaryTable(table_name=name) for name in ("test/most_confused", "test/classes")]


def robustness_bars() -> list[wr.BarPlot]:
    """Accuracy under attack and on corrupted images, of runs that were evaluated."""
    return [
        bars("Accuracy under FGSM, eps 8/255", keys.UNDER_FGSM, "share"),
        bars("Accuracy under PGD, 20 steps", keys.UNDER_PGD, "share"),
        bars("Accuracy on corrupted images, mean", keys.CORRUPTED, "share"),
    ]


def robustness_charts() -> list[Any]:
    """All attacks and corruptions of each evaluated run."""
    return [
        chart("Accuracy under attacks", BARS, ATTACKS, label="attack", value="accuracy"),
        chart("Accuracy on corrupted images", LINES, CORRUPTIONS, xname="severity", **LINES_COLUMNS),
        _pictures("Attacks and corruptions", PLOT),
    ]


def _pictures(title: str, *names: str) -> wr.MediaBrowser:
    return wr.MediaBrowser(title=title, media_keys=list(names), num_columns=2)


def sweep_panels() -> list[Any]:
    """Validation accuracy over each setting that the study's sweeps change, over all together, and which matters most."""
    scatters = [
        wr.ScatterPlot(
            title=f"Validation accuracy over {name}", x=wr.Config(key), y=wr.SummaryMetric(keys.VAL_ACCURACY)
        )
        for key, name in keys.SWEPT.items()
    ]
    metrics: list[Any] = [*(wr.Config(key) for key in keys.SEARCHED), wr.SummaryMetric(keys.VAL_ACCURACY)]
    together = wr.ParallelCoordinatesPlot(
        title="The settings of a search, and what became of them",
        columns=[wr.ParallelCoordinatesPlotColumn(metric=metric) for metric in metrics],
    )
    return [*scatters, together, wr.ParameterImportancePlot(with_respect_to=keys.VAL_ACCURACY)]


def run_comparer() -> wr.RunComparer:
    """Settings and figures in which runs differ."""
    return wr.RunComparer(diff_only="split")


def arrange(panels: Sequence[Any], *, columns: int, height: int = HEIGHT) -> list[Any]:
    """Lay panels out in rows from the left, none over another; each row, the last one too, is as wide as the report.

    Args:
        panels: The panels; their layout is replaced.
        columns: Panels in a row, from 1 to 24.
        height: Height of a row in units of the grid.
    """
    panels = list(panels)
    for first in range(0, len(panels), columns):
        row = panels[first : first + columns]
        width = GRID_WIDTH // len(row)
        for place, panel in enumerate(row):
            panel.layout = wr.Layout(x=place * width, y=first // columns * height, w=width, h=height)
    return panels
