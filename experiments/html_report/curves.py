"""Curves of `logs/metrics.csv`: of one run over epochs and optimizer steps, and of groups of runs."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.runs.metrics_file import read_lines
from experiments.sweep_results import STYLE

# By name of the metric: (n,3) epochs that are over by then, optimizer steps, value.
Metrics = Mapping[str, npt.NDArray[np.float64]]
Plots = Iterator[tuple[str, Figure]]
# Plots by their axis, in the order of the page, which explains them: metrics with their labels, those that a run has.
LEARNING = {
    "accuracy": {"val_accuracy": "validation", "train_accuracy": "training", "test_accuracy": "test"},
    "loss": {"val_nll": "validation", "train_loss": "training", "test_nll": "test"},
    "calibration error": {"val_calibration_error": "validation", "test_calibration_error": "test"},
    "learning rate": {"lr": ""},
    "seconds an epoch": {"epoch_seconds": "total", "saliency_seconds": "saliency", "mixing_seconds": "mixing"},
}
MIXING = {
    "ratio": {"ratio": ""},
    "mask entropy in bits": {"mask_entropy": ""},
    "moved blocks": {"moved_blocks": ""},
    "retained saliency": {"retained_saliency": "this method", "retained_saliency_cutmix": "CutMix"},
    "seconds a batch": {"saliency_seconds": "saliency", "mixing_seconds": "mixing"},
}
EPOCH_METRICS = {name: f"{label} {axis}".strip() for axis, plot in LEARNING.items() for name, label in plot.items()}
COMPARED = ("val_accuracy", "test_accuracy", "train_loss", "val_nll", "val_calibration_error", "epoch_seconds")
# More points cannot be told apart, nor more lines; more values need no markers.
MAX_POINTS, MAX_LINES, MAX_MARKED = 300, 28, 30


def read_metrics(path: Path) -> Metrics:
    """Read what Lightning's CSVLogger writes, but for a line that is being written; without a file there are no metrics."""
    rows: dict[str, list[Any]] = defaultdict(list)
    for line in read_lines(path):
        epoch, step = float(line.pop("epoch")), float(line.pop("step"))
        for name, value in line.items():
            rows[name].append((epoch + 1, step, float(value)))
    last = max((epoch for epoch, *_ in rows.get("train_loss", [])), default=np.inf)
    # Of the epoch that is running there are batches only. The test at the end is logged as an epoch of its own.
    return {
        name: np.array([row for row in found if "/" in name or row[0] <= last] or [(last, *found[-1][1:])])
        for name, found in rows.items()
    }


def values_by_epoch(metrics: Metrics, name: str) -> dict[float, float]:
    """Values of a metric that is logged once an epoch, by the number of epochs that are over."""
    return {float(epoch): float(value) for epoch, _, value in metrics.get(name, ())}


def plot_metrics(metrics: Metrics, plots: Mapping[str, Mapping[str, str]], callback: str = "") -> Plots:
    """Names and figures of the plots that there are metrics for.

    What a callback has logged is drawn over optimizer steps: as points, and as a line of the means by epoch.
    """
    for ylabel, labels in plots.items():
        axes = _make_axes(ylabel, "optimizer steps" if callback else "epochs")
        for name, label in labels.items():
            points = metrics.get(f"{callback}/{name}" if callback else name, np.empty((0, 3)))
            # The times are 0 where there is no such part.
            if not len(points) or (name.endswith("_seconds") and not points[:, 2].any()):
                continue
            epochs = np.array([points[points[:, 0] == epoch].mean(axis=0) for epoch in np.unique(points[:, 0])])
            line = _draw(axes, label, epochs[:, 1 if callback else 0], epochs[:, 2])
            if callback:
                some = points[:: -(-len(points) // MAX_POINTS)]
                axes.plot(some[:, 1], some[:, 2], ".", color=line.get_color(), alpha=0.5, markeredgewidth=0)
        if axes.lines:
            yield ylabel, _finish(axes)


def plot_groups(groups: Mapping[str, Sequence[Metrics]]) -> Plots:
    """Name and figure of each metric that the runs have logged: mean and standard deviation of each group of runs."""
    for name in COMPARED:
        axes = _make_axes(EPOCH_METRICS[name], "epochs")
        for label, runs in groups.items():
            curves = [values_by_epoch(run, name) for run in runs]
            epochs = sorted({epoch for curve in curves for epoch in curve})
            values = [np.array([curve[epoch] for curve in curves if epoch in curve]) for epoch in epochs]
            means = np.array([each.mean() for each in values])
            sds = np.array([each.std(ddof=1) if len(each) > 1 else np.nan for each in values])
            color = _draw(axes, label, epochs, means).get_color()
            axes.fill_between(epochs, means - sds, means + sds, color=color, alpha=0.18, linewidth=0)
        if any(len(line.get_xdata()) > 1 for line in axes.lines):
            yield EPOCH_METRICS[name], _finish(axes)


@mpl.rc_context(STYLE)
def _make_axes(ylabel: str, xlabel: str) -> Axes:
    axes = Figure(figsize=(5.0, 3.0)).subplots()
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set(xlabel=xlabel, ylabel=ylabel)
    return axes


def _draw(axes: Axes, label: str, x: Any, y: Any) -> Any:
    (line,) = axes.plot(x, y, label=label, linewidth=1.6, markersize=3.5)
    if len(x) > MAX_MARKED:
        line.set_marker("")
    return line


@mpl.rc_context(STYLE)
def _finish(axes: Axes) -> Any:
    """The figure, with a legend where there are several lines, but not more than can be told apart."""
    labels = axes.get_legend_handles_labels()[1]
    if 1 < len(labels) <= MAX_LINES:
        axes.figure.legend(loc="outside lower left", ncols=3 if max(map(len, labels)) <= 14 else 1)
    return axes.figure
