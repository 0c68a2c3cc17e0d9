"""The curves of many runs: for each group the mean over its runs, with a band of one standard deviation."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from experiments.html_report.curves import HEIGHT, finish_figure, start_figure
from experiments.html_report.metrics import Metrics
from experiments.sweep_results.plot import DASHES
from lightning_puzzlemix.monitoring.palette import GRAY, SERIES

EARLY = "The axis begins at the lowest mean after the first quarter of the epochs, as the beginning would hide the difference."
# What is compared: name, axis, caption, factor from the logged unit to that of the axis.
COMPARED = (
    ("val_accuracy", "validation accuracy in %", f"Accuracy on the validation images. {EARLY}", 100.0),
    ("test_accuracy", "test accuracy in %", f"Accuracy on the test images. {EARLY}", 100.0),
    ("train_loss", "training loss in nats", "Loss on the images as the network saw them, mixed or not.", 1.0),
    ("val_nll", "validation loss in nats", "Negative log-likelihood on the validation images.", 1.0),
    ("val_calibration_error", "calibration error in %", "Calibration error on the validation images, 15 bins.", 100.0),
    ("epoch_seconds", "seconds an epoch", "Time of each training epoch without validation.", 1.0),
)
# More groups than colors and dashes can tell apart stay without a name.
NAMED = len(SERIES) * len(DASHES)
LEGEND_ROW = 0.2


def group_panels(groups: Mapping[str, Sequence[Metrics]]) -> list[tuple[str, Figure]]:
    """A caption and a figure for each metric that any of the runs has logged.

    Args:
        groups: The metrics of each group's runs, under the group's name.
    """
    panels = []
    for name, axis, caption, factor in COMPARED:
        curves = {
            group: {epoch: [factor * value for value in values] for epoch, values in _gather(runs, name).items()}
            for group, runs in groups.items()
        }
        curves = {group: by_epoch for group, by_epoch in curves.items() if by_epoch}
        if any(len(by_epoch) > 1 for by_epoch in curves.values()):
            figure = _draw(curves, axis, list(groups))
            if caption.endswith(EARLY):
                _leave_out_the_beginning(figure, curves)
            panels.append((caption, figure))
    return panels


def _gather(runs: Sequence[Metrics], name: str) -> dict[float, list[float]]:
    """The values of all runs by epoch, ascending."""
    values: dict[float, list[float]] = {}
    for run in runs:
        curve = run.by_epoch.get(name)
        if curve is not None:
            for epoch, value in zip(curve.x, curve.y, strict=True):
                values.setdefault(float(epoch), []).append(float(value))
    return dict(sorted(values.items()))


def _draw(curves: Mapping[str, Mapping[float, Sequence[float]]], axis: str, order: Sequence[str]) -> Figure:
    figure, axes = start_figure(axis)
    for group, by_epoch in curves.items():
        index = order.index(group)
        named = len(order) <= NAMED
        color = SERIES[index % len(SERIES)] if named else GRAY
        dash = DASHES[index // len(SERIES) % len(DASHES)]
        x, mean = list(by_epoch), np.array([np.mean(values) for values in by_epoch.values()])
        sd = np.array([np.std(values, ddof=1) if len(values) > 1 else 0.0 for values in by_epoch.values()])
        axes.plot(x, mean, color=color, linestyle=dash, linewidth=1.6, label=group if named else None)
        if sd.any():
            axes.fill_between(x, mean - sd, mean + sd, color=color, alpha=0.18, linewidth=0)
    means = [np.mean(values) for by_epoch in curves.values() for values in by_epoch.values()]
    finish_figure(axes, legend=False, values=[float(mean) for mean in means])
    if len(order) <= NAMED:
        columns = 3 if max(map(len, order)) <= 14 else 1
        rows = -(-len(curves) // columns)
        # The panel keeps its size; the legend takes its own room below.
        height = HEIGHT + LEGEND_ROW * rows
        figure.set_figheight(height)
        figure.subplots_adjust(bottom=(0.5 + LEGEND_ROW * rows) / height, top=1 - 0.15 / height)
        figure.legend(loc="lower left", ncols=columns, fontsize=9, frameon=False, bbox_to_anchor=(0.02, 0.0))
    return figure


def _leave_out_the_beginning(figure: Figure, curves: Mapping[str, Mapping[float, Sequence[float]]]) -> None:
    (axes,) = figure.axes
    last = max(epoch for by_epoch in curves.values() for epoch in by_epoch)
    late = [np.mean(values) for by_epoch in curves.values() for epoch, values in by_epoch.items() if epoch > last / 4]
    late = [mean for mean in late if np.isfinite(mean)]
    if late:
        # A band may go beyond what an accuracy can be.
        top, margin = min(axes.get_ylim()[1], 100.0), 0.05 * (100.0 - min(late))
        axes.set_ylim(min(late) - margin, top + margin / 4)
