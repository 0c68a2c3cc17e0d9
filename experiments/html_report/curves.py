"""The curves of one run: what it learned, and what its mixing did."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from experiments.html_report.metrics import Curve, Metrics, Values
from experiments.html_report.panels import LEARNING, MIXING, Line, Panel
from lightning_puzzlemix.monitoring.palette import GRID_COLOR, SERIES

# Inches.
WIDTH, HEIGHT = 5.0, 3.0
# More points than that cannot be told apart, and make the page heavy.
POINTS = 300
# From this ratio of the largest to the smallest loss on, its axis is logarithmic.
WIDE = 50.0


HOW_TO_READ = "Points: single batches; line: mean of each epoch."


def learning_panels(metrics: Metrics, panels: Sequence[Panel] = LEARNING) -> list[tuple[Panel, Figure]]:
    """Figures of what was logged once an epoch, as far as it was."""
    return _draw_all(panels, lambda name: metrics.by_epoch.get(name), _draw_epochs)


def mixing_panels(metrics: Metrics, callback: str) -> list[tuple[Panel, Figure]]:
    """Figures of what a mixing callback logged at every logging step, as far as it did."""
    return _draw_all(MIXING, lambda name: metrics.by_step.get(f"{callback}/{name}"), _draw_steps)


def callbacks(metrics: Metrics) -> list[str]:
    """Names of the mixing callbacks that have logged anything."""
    return sorted({name.rpartition("/")[0] for name in metrics.by_step if name.endswith("/ratio")})


def _draw_all(
    panels: Sequence[Panel], find: Callable[[str], Curve | None], draw: Callable[[Axes, Line, Curve, float], None]
) -> list[tuple[Panel, Figure]]:
    drawn = []
    for panel in panels:
        found = [(line, curve) for line in panel.lines if (curve := find(line.name)) is not None]
        # Times that are always 0 are those of a callback that has no such part.
        found = [(line, curve) for line, curve in found if not line.name.endswith("_seconds") or np.any(curve.y > 0)]
        if found:
            figure, axes = start_figure(panel.axis)
            for line, curve in found:
                draw(axes, line, curve, panel.factor)
            values = [value for _, curve in found for value in curve.y] if panel.may_be_log else []
            finish_figure(axes, legend=len(panel.lines) > 1, values=values)
            if panel.limits is not None and axes.get_yscale() == "linear":
                axes.set_ylim(*panel.limits)
            drawn.append((panel, figure))
    return drawn


def start_figure(axis: str) -> tuple[Figure, Axes]:
    """An empty panel over epochs; `axis` is what its vertical axis shows."""
    figure = Figure(figsize=(WIDTH, HEIGHT))
    # Fixed margins: a layout engine would take most of the time.
    figure.subplots_adjust(left=0.14, right=0.97, bottom=0.16, top=0.88)
    axes = figure.subplots()
    axes.set_xlabel("epochs", fontsize=9)
    axes.set_ylabel(axis, fontsize=9)
    return figure, axes


def finish_figure(axes: Axes, *, legend: bool, values: Sequence[float] = ()) -> None:
    """Grid, ticks, a logarithmic axis where the `values` span orders of magnitude and, above the panel, the legend."""
    finite = [value for value in values if np.isfinite(value)]
    if finite and min(finite) > 0 and max(finite) / min(finite) >= WIDE:
        axes.set_yscale("log")
        # A band around them may come close to 0, which is infinitely far down.
        axes.set_ylim(bottom=min(finite) / 1.5)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlim(left=0)
    axes.grid(color=GRID_COLOR, linewidth=0.8)
    axes.tick_params(labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    if legend:
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=3,
            fontsize=9,
            frameon=False,
            borderaxespad=0.2,
            handlelength=2.4,
        )


def _draw_epochs(axes: Axes, line: Line, curve: Curve, factor: float) -> None:
    # A line of one point would be none.
    marker = "o" if len(curve.x) <= 30 else ""
    axes.plot(
        curve.x, factor * curve.y, color=SERIES[line.color], linestyle=line.dash, marker=marker, markersize=3.5,
        linewidth=1.6, label=line.label,
    )  # fmt: skip


def _draw_steps(axes: Axes, line: Line, curve: Curve, factor: float) -> None:
    color = SERIES[line.color]
    every = -(-len(curve.x) // POINTS)
    axes.plot(
        curve.x[::every], factor * curve.y[::every], linestyle="", marker=".", markersize=5, alpha=0.5, color=color,
        markeredgewidth=0,
    )  # fmt: skip
    x, y = mean_by_epoch(curve)
    marker = "o" if len(x) <= 30 else ""
    axes.plot(
        x, factor * y, color=color, linestyle=line.dash, marker=marker, markersize=3.5, linewidth=1.8, label=line.label
    )


def mean_by_epoch(curve: Curve) -> tuple[Values, Values]:
    """The middles of the epochs in which there are values, and their means there."""
    # A step that ends an epoch belongs to it.
    epoch = np.ceil(curve.x) - 1
    epochs = np.unique(epoch)
    return epochs + 0.5, np.array([curve.y[epoch == each].mean() for each in epochs])
