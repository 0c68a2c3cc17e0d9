"""The plot of a sweep: single runs and their mean, over the swept numbers or setting by setting."""

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from experiments.sweep_results.comparison import (
    METRICS,
    Comparison,
    Group,
    format_value,
    is_number,
    label_of,
    mean_and_sd,
)
from lightning_puzzlemix.monitoring.palette import GRID_COLOR, SERIES

# Lines differ in marker and dash as well as in color.
MARKERS = "osD^vP*"
DASHES = ("-", "--", "-.", ":")
# From this ratio of the largest to the smallest value on, the axis is logarithmic.
LOG_RATIO = 10.0


def plot_comparison(comparison: Comparison, metric: str, title: str) -> Figure:
    """One swept number: a line over it for each of the other settings. Several: a panel for each. None: a row a group.

    Args:
        comparison: The groups; those without the metric are left out.
        metric: A key of METRICS.
        title: Title of the figure.
    """
    groups = [group for group in comparison.groups if group.scores(metric)]
    columns = list(zip(*(group.values for group in groups), strict=True))
    swept = [index for index, values in enumerate(columns) if all(map(is_number, values)) and len(set(values)) > 1]
    figure = _plot_swept(comparison, groups, swept, metric) if swept else _plot_rows(groups, metric)
    figure.suptitle(title, fontsize=11)
    return figure


def _plot_rows(groups: Sequence[Group], metric: str) -> Figure:
    figure = Figure(figsize=(6.4, 1.2 + 0.36 * len(groups)), layout="constrained")
    axes = figure.subplots()
    for row, group in enumerate(groups):
        scores = _scores(group, metric)
        mean, sd = mean_and_sd(scores)
        axes.errorbar(mean, row, xerr=sd, color=SERIES[0], marker="o", markersize=7, capsize=4, linewidth=1.6)
        axes.plot(scores, [row + 0.24] * len(scores), "|", color=SERIES[1], markersize=8, markeredgewidth=1.6)
    axes.set_yticks(range(len(groups)), [group.label for group in groups])
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.set_xlabel(f"{METRICS[metric].label}\n● mean ± sd, | single runs", fontsize=9)
    style_axes(axes, grid="x")
    return figure


def _plot_swept(comparison: Comparison, groups: Sequence[Group], swept: Sequence[int], metric: str) -> Figure:
    # Settings without an axis make the lines.
    others = [index for index in range(len(comparison.keys)) if index not in swept]
    lines: dict[str, list[Group]] = {}
    for group in groups:
        label = label_of([comparison.names[index] for index in others], [group.values[index] for index in others])
        lines.setdefault(label, []).append(group)
    columns = min(len(swept), 2)
    rows = math.ceil(len(swept) / columns)
    size = (6.4, 4.2) if len(swept) == 1 else (3.4 * columns, 2.9 * rows + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).flatten()
    for axes, key in zip(panels, swept, strict=False):
        for index, (label, members) in enumerate(lines.items()):
            members = sorted(members, key=lambda group: group.values[key])
            style = {"color": SERIES[index % len(SERIES)], "marker": MARKERS[index % len(MARKERS)]}
            style["label"] = label if axes is panels[0] else "_"
            x, scores = [group.values[key] for group in members], [_scores(group, metric) for group in members]
            if len(swept) > 1:
                axes.plot(x, [mean_and_sd(each)[0] for each in scores], linestyle="", alpha=0.75, **style)
            else:
                _plot_line(axes, x, scores, linestyle=DASHES[index % len(DASHES)], **style)
        _scale_x(axes, sorted({group.values[key] for group in groups}), ticked=len(swept) == 1)
        axes.set_xlabel(comparison.keys[key] + ("\nmean ± sd, – single runs" if len(swept) == 1 else ""), fontsize=9)
        style_axes(axes)
    for axes in panels[len(swept) :]:
        axes.set_visible(False)
    figure.supylabel(METRICS[metric].label, fontsize=9)
    if len(lines) > 1:
        figure.legend(loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    return figure


def _plot_line(axes: Axes, x: Sequence[float], scores: Sequence[Sequence[float]], color: str, **style: Any) -> None:
    """The means, a band of one standard deviation, and the single runs."""
    means, sds = zip(*map(mean_and_sd, scores), strict=True)
    bounds = [(mean - (sd or 0), mean + (sd or 0)) for mean, sd in zip(means, sds, strict=True)]
    axes.fill_between(x, *zip(*bounds, strict=True), color=color, alpha=0.18, linewidth=0)
    axes.plot(x, means, color=color, linewidth=1.8, **style)
    points = [(value, score) for value, each in zip(x, scores, strict=True) for score in each]
    axes.plot(*zip(*points, strict=True), "_", color=color, markersize=9, alpha=0.8)


def _scores(group: Group, metric: str) -> list[float]:
    return [METRICS[metric].factor * score for score in group.scores(metric)]


def _scale_x(axes: Axes, values: Sequence[float], *, ticked: bool) -> None:
    if values[0] > 0 and values[-1] / values[0] >= LOG_RATIO:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    if ticked and len(values) <= 10:
        axes.set_xticks(values, [format_value(value) for value in values])
        axes.minorticks_off()


def style_axes(axes: Axes, grid: Any = "both") -> None:
    """Grid, small tick labels, no frame at the top and right."""
    axes.grid(axis=grid, color=GRID_COLOR, linewidth=0.8)
    axes.tick_params(labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
