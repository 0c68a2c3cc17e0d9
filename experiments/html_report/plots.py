"""Plots of logged metrics over epochs: of one run, and of groups of runs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.html_report.metrics import Curve, Metrics, Values
from experiments.sweep_results import DASHES, style_axes
from lightning_puzzlemix.monitoring.palette import SERIES

# More points cannot be told apart.
MAX_POINTS = 300
# From this ratio of the largest to the smallest loss on, its axis is logarithmic.
LOG_RATIO = 50.0
NONE = Curve(np.array([]), np.array([]))


class Plot(NamedTuple):
    """Metrics that share their axes, with their labels in the legend; those that a run does not have are left out."""

    ylabel: str
    labels: Mapping[str, str]
    caption: str
    factor: float = 1.0  # from the logged unit to that of the axis
    limits: tuple[float | None, float | None] = (0, None)


ACCURACY = Plot(
    "accuracy %", {"val_accuracy": "validation", "train_accuracy": "training", "test_accuracy": "test"},
    "Accuracy at the end of each epoch. Training accuracy is measured on the images as the network sees them: on mixed images "
    "it counts the class with the largest share of the image, and stays low.", 100.0, (None, None),
)  # fmt: skip
LOSS = Plot(
    "loss", {"val_nll": "validation", "train_loss": "training", "test_nll": "test"},
    "Training loss on the images as the network sees them, and negative log-likelihood on unmixed images, in nats.",
)  # fmt: skip
LEARNING = (
    ACCURACY,
    LOSS,
    Plot("calibration error %", {"val_calibration_error": "validation", "test_calibration_error": "test"},
         "Calibration error: mean distance between confidence and accuracy, 15 bins.", 100.0),
    Plot("learning rate", {"lr": ""}, "Learning rate at the start of each epoch."),
    Plot("seconds an epoch", {"epoch_seconds": "total", "saliency_seconds": "saliency", "mixing_seconds": "mixing"},
         "Time of each training epoch without validation."),
)  # fmt: skip
MIXING = (
    Plot("ratio", {"ratio": ""}, "Ratio: share of the first image in a mixed image.", limits=(0, 1)),
    Plot("mask entropy in bits", {"mask_entropy": ""},
         "Binary entropy of the mask: 0 where each block shows one image, 1 where each shows half of both.", limits=(0, 1)),
    Plot("moved blocks", {"moved_blocks": ""}, "Share of the visible blocks that were moved.", limits=(0, 1)),
    Plot("retained saliency", {"retained_saliency": "this method", "retained_saliency_cutmix": "CutMix"},
         "Share of an image's saliency that stays visible, mean over both images of all pairs; and the share that a CutMix "
         "box of the same area at a random place would keep.", limits=(0, 1)),
    Plot("seconds a batch", {"saliency_seconds": "saliency", "mixing_seconds": "mixing"},
         "Time that the callback adds to a training step."),
)  # fmt: skip
# Label, and factor from the logged unit, of each metric of epochs.
EPOCH_METRICS = {
    name: (f"{label} {plot.ylabel}".strip(), plot.factor) for plot in LEARNING for name, label in plot.labels.items()
}
COMPARED = ("val_accuracy", "test_accuracy", "train_loss", "val_nll", "val_calibration_error", "epoch_seconds")


class Line(NamedTuple):
    """A curve with its label; around it a band of one standard deviation, or single points."""

    label: str
    curve: Curve
    sd: Values | None = None
    points: Curve | None = None


def plot_metrics(
    curves: Mapping[str, Curve], plots: Sequence[Plot], *, by_step: bool = False
) -> Iterator[tuple[Figure, str]]:
    """Figure and caption of the plots that there are metrics for; of metrics of steps the points, and means by epoch."""
    for plot in plots:
        lines = []
        for name, label in plot.labels.items():
            # The times are 0 where a callback does not have that part.
            if name in curves and (not name.endswith("_seconds") or np.any(curves[name].y > 0)):
                curve = Curve(curves[name].x, plot.factor * curves[name].y)
                lines.append(Line(label, mean_by_epoch(curve), points=curve) if by_step else Line(label, curve))
        if lines:
            yield _plot_lines(plot.ylabel, lines, plot.limits, may_be_log=plot is LOSS), plot.caption


def plot_groups(groups: Mapping[str, Sequence[Metrics]]) -> Iterator[tuple[Figure, str]]:
    """Figure and caption for each metric that the runs have logged: the mean of each group of runs."""
    for metric in COMPARED:
        label, factor = EPOCH_METRICS[metric]
        lines = [
            _mean_line(name, [run.by_epoch.get(metric, NONE) for run in runs], factor) for name, runs in groups.items()
        ]
        if any(len(line.curve.x) > 1 for line in lines):
            limits: tuple[float | None, float | None] = (None, None)
            if metric.endswith("accuracy"):
                # The first epochs would hide the differences.
                x, y = (np.concatenate(parts) for parts in zip(*(line.curve for line in lines), strict=True))
                late = y[(x > x.max() / 4) & np.isfinite(y)]
                limits = (1.05 * late.min() - 5 if len(late) else None, None)
            yield _plot_lines(label, lines, limits, may_be_log=metric in LOSS.labels), label


def mean_by_epoch(curve: Curve) -> Curve:
    """The mean of each epoch that has values, in the middle of the epoch."""
    # A step that ends an epoch belongs to it.
    epoch = np.ceil(curve.x) - 1
    epochs = np.unique(epoch)
    return Curve(epochs + 0.5, np.array([curve.y[epoch == each].mean() for each in epochs]))


def _mean_line(label: str, curves: Sequence[Curve], factor: float) -> Line:
    x, y = (np.concatenate(parts) for parts in zip(NONE, *curves, strict=True))
    epochs = np.unique(x)
    values = [factor * y[x == epoch] for epoch in epochs]
    sd = np.array([each.std(ddof=1) if len(each) > 1 else 0.0 for each in values])
    return Line(label, Curve(epochs, np.array([each.mean() for each in values])), sd)


def _plot_lines(
    ylabel: str, lines: Sequence[Line], limits: tuple[float | None, float | None], *, may_be_log: bool
) -> Figure:
    figure = Figure(figsize=(5.0, 3.0))
    axes = figure.subplots()
    for index, (label, curve, sd, points) in enumerate(lines):
        if not len(curve.x):
            # The other groups keep their colors.
            continue
        color = SERIES[index % len(SERIES)]
        style = {"color": color, "linestyle": DASHES[index % len(DASHES)], "label": label}
        axes.plot(*curve, linewidth=1.6, marker="o" if len(curve.x) <= 30 else "", markersize=3.5, **style)
        if sd is not None and sd.any():
            axes.fill_between(curve.x, curve.y - sd, curve.y + sd, color=color, alpha=0.18, linewidth=0)
        if points is not None:
            every = -(-len(points.x) // MAX_POINTS)
            axes.plot(points.x[::every], points.y[::every], ".", color=color, alpha=0.5, markeredgewidth=0)
    axes.set_xlim(left=0)
    axes.set_ylim(*limits)
    if may_be_log:
        _use_log_scale(axes, np.concatenate([line.curve.y for line in lines]))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("epochs", fontsize=9)
    axes.set_ylabel(ylabel, fontsize=9)
    style_axes(axes)
    # More lines than styles cannot be told apart.
    if 1 < len(lines) <= len(SERIES) * len(DASHES):
        columns = 3 if max(len(line.label) for line in lines) <= 14 else 1
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.16), ncols=columns, fontsize=9, frameon=False)
    return figure


def _use_log_scale(axes: Axes, values: Values) -> None:
    """Make the axis logarithmic if the values span orders of magnitude."""
    finite = values[np.isfinite(values)]
    if len(finite) and finite.min() > 0 and finite.max() / finite.min() >= LOG_RATIO:
        axes.set_yscale("log")
        # The lower bound of a band may be close to 0.
        axes.set_ylim(bottom=finite.min() / 1.5)
