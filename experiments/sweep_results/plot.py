"""The picture of a sweep: single runs and their mean, over the swept number or setting by setting."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from experiments.common.atomic_files import save_figure
from experiments.sweep_results.table import METRICS, Group, group_label, is_number, mean_and_sd, short_names, shown
from lightning_puzzlemix.monitoring.palette import GRID_COLOR, SERIES

# Lines differ in marker and dash as well as in color.
MARKERS = "osD^vP*"
DASHES = ("-", "--", "-.", ":")
DPI = 150
# Inches.
WIDTH, HEIGHT, ROW_HEIGHT, MARGIN, PANEL = 6.4, 4.2, 0.36, 1.2, 3.4
# From this ratio of the largest to the smallest value on, the axis is logarithmic.
WIDE = 10.0


def save_plot(path: Path, groups: Sequence[Group], keys: Sequence[str], metric: str, title: str) -> None:
    """Draw into a PNG, see `draw`."""
    save_figure(draw(groups, keys, metric, title), path, dpi=DPI)


def draw(groups: Sequence[Group], keys: Sequence[str], metric: str, title: str) -> Figure:
    """One swept number: a line over it for each of the other settings. Several: a panel for each. None: a row a group.

    Args:
        groups: The runs; those without the metric are left out.
        keys: What the groups differ in.
        metric: A key of METRICS.
        title: What was swept.
    """
    groups = [group for group in groups if group.scores(metric)]
    numeric = [
        index
        for index in range(len(keys))
        if all(is_number(group.values[index]) for group in groups)
        and len({group.values[index] for group in groups}) > 1
    ]
    if not numeric:
        figure = _draw_rows(groups, keys, metric)
    elif len(numeric) == 1:
        figure = _draw_lines(groups, keys, numeric[0], metric)
    else:
        figure = _draw_panels(groups, keys, numeric, metric)
    figure.suptitle(title, fontsize=11)
    return figure


def _draw_rows(groups: Sequence[Group], keys: Sequence[str], metric: str) -> Figure:
    figure = Figure(figsize=(WIDTH, MARGIN + ROW_HEIGHT * len(groups)), layout="constrained")
    axes = figure.subplots()
    for row, group in enumerate(groups):
        scores = group.scores(metric)
        mean, sd = mean_and_sd(scores)
        axes.errorbar(mean, row, xerr=sd, color=SERIES[0], marker="o", markersize=7, capsize=4, linewidth=1.6)
        axes.plot(scores, [row + 0.24] * len(scores), "|", color=SERIES[1], markersize=8, markeredgewidth=1.6)
    names = short_names(keys)
    axes.set_yticks(
        range(len(groups)), [group_label(names, group.values) or "all runs" for group in groups], fontsize=9
    )
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.set_xlabel(f"{METRICS[metric].label}\n● mean ± sd, | single runs", fontsize=9)
    axes.grid(axis="x", color=GRID_COLOR, linewidth=0.8)
    _tidy(axes)
    return figure


def _draw_lines(groups: Sequence[Group], keys: Sequence[str], swept: int, metric: str) -> Figure:
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    axes = figure.subplots()
    lines = _split(groups, [swept])
    names = _without(short_names(keys), [swept])
    for index, (others, members) in enumerate(lines.items()):
        _draw_line(axes, members, swept, metric, index, label=group_label(names, others))
    _scale_x(axes, [group.values[swept] for group in groups], ticked=True)
    axes.set_xlabel(f"{keys[swept]}\nmean ± sd, – single runs", fontsize=9)
    axes.set_ylabel(METRICS[metric].label, fontsize=9)
    axes.grid(color=GRID_COLOR, linewidth=0.8)
    _tidy(axes)
    if len(lines) > 1:
        figure.legend(loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    return figure


def _draw_line(axes: Axes, groups: Sequence[Group], swept: int, metric: str, index: int, *, label: str) -> None:
    """Means joined by a line, a band of one standard deviation where it is known, and the single runs."""
    style: dict[str, Any] = {"color": SERIES[index % len(SERIES)]}
    x = [group.values[swept] for group in groups]
    means, sds = zip(*(mean_and_sd(group.scores(metric)) for group in groups), strict=True)
    low, high = zip(*((mean - (sd or 0), mean + (sd or 0)) for mean, sd in zip(means, sds, strict=True)), strict=True)
    axes.fill_between(x, low, high, alpha=0.18, linewidth=0, **style)
    dash = DASHES[index % len(DASHES)]
    axes.plot(x, means, marker=MARKERS[index % len(MARKERS)], linestyle=dash, linewidth=1.8, label=label, **style)
    points = [(value, score) for value, group in zip(x, groups, strict=True) for score in group.scores(metric)]
    axes.plot(*zip(*points, strict=True), "_", markersize=9, alpha=0.8, **style)


def _draw_panels(groups: Sequence[Group], keys: Sequence[str], numeric: Sequence[int], metric: str) -> Figure:
    columns = min(len(numeric), 2)
    rows = math.ceil(len(numeric) / columns)
    figure = Figure(figsize=(PANEL * columns, PANEL * rows * 0.85 + 0.5), layout="constrained")
    panels = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
    names = _without(short_names(keys), numeric)
    clouds = _split(groups, numeric)
    for panel, swept in zip(panels, numeric, strict=False):
        for index, (others, members) in enumerate(clouds.items()):
            points = [(group.values[swept], mean_and_sd(group.scores(metric))[0]) for group in members]
            panel.plot(
                *zip(*points, strict=True), linestyle="", marker=MARKERS[index % len(MARKERS)], alpha=0.75,
                color=SERIES[index % len(SERIES)], label=group_label(names, others) if swept == numeric[0] else None,
            )  # fmt: skip
        _scale_x(panel, [group.values[swept] for group in groups], ticked=False)
        panel.set_xlabel(keys[swept], fontsize=9)
        panel.grid(color=GRID_COLOR, linewidth=0.8)
        _tidy(panel)
    for panel in panels[len(numeric) :]:
        panel.set_visible(False)
    figure.supylabel(METRICS[metric].label, fontsize=9)
    if len(clouds) > 1:
        figure.legend(loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    return figure


def _split(groups: Sequence[Group], swept: Sequence[int]) -> dict[tuple[Any, ...], list[Group]]:
    """Groups by the values of the settings that have no axis, each list in ascending order of the swept ones."""
    parts: dict[tuple[Any, ...], list[Group]] = {}
    for group in groups:
        parts.setdefault(tuple(_without(group.values, swept)), []).append(group)
    return {
        others: sorted(part, key=lambda group: [group.values[index] for index in swept])
        for others, part in parts.items()
    }


def _without(values: Sequence[Any], left_out: Sequence[int]) -> list[Any]:
    return [value for index, value in enumerate(values) if index not in left_out]


def _scale_x(axes: Axes, values: Sequence[float], *, ticked: bool) -> None:
    ordered = sorted(set(values))
    if ordered[0] > 0 and ordered[-1] / ordered[0] >= WIDE:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    if ticked and len(ordered) <= 10:
        axes.set_xticks(ordered, [shown(value) for value in ordered])
        axes.minorticks_off()


def _tidy(axes: Axes) -> None:
    axes.tick_params(labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
