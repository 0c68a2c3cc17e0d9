"""Plots of a sweep: single runs and their mean, over the swept numbers or group by group; paired differences."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.sweep_results.comparison import Comparison, Group, format_value, is_number, label_of, metric_of
from lightning_puzzlemix.monitoring.palette import BLACK, GRID_COLOR, SERIES

# Lines differ in marker and dash as well as in color. No text is taken for a formula, as names may hold any character.
STYLE: dict[str, Any] = {
    "axes.prop_cycle": cycler(color=SERIES * 4, marker=list("osD^vP*") * 4, linestyle=["-", "--", "-.", ":"] * 7),
    "axes.grid": True, "grid.color": GRID_COLOR, "axes.spines.top": False, "axes.spines.right": False, "font.size": 9,
    "axes.labelsize": 9, "figure.labelsize": 9, "figure.titlesize": 11, "legend.frameon": False, "text.parse_math": False,
    "figure.constrained_layout.use": True, "errorbar.capsize": 4,
}  # fmt: skip
# From this ratio of the largest to the smallest value on, the axis is logarithmic; up to so many values are its ticks.
LOG_RATIO, MAX_TICKS = 10.0, 10


@mpl.rc_context(STYLE)
def plot_comparison(comparison: Comparison, metric: str, title: str) -> Figure:
    """Where a single number was swept, a line over it for each of the other settings; else a row for each group."""
    groups = [group for group in comparison.groups if group.scores[metric].n]
    columns = list(zip(*(group.values for group in groups), strict=True))
    swept = [index for index, values in enumerate(columns) if all(map(is_number, values)) and len(set(values)) > 1]
    figure = _plot_swept(comparison, groups, swept[0], metric) if len(swept) == 1 else _plot_rows(groups, metric)
    figure.suptitle(title)
    return figure


@mpl.rc_context({**STYLE, "axes.grid.axis": "x"})
def plot_differences(differences: Comparison, title: str) -> Figure:
    """A panel for each metric: mean difference and confidence interval of each group, and a line at zero."""
    groups, metrics = differences.groups, differences.metrics
    figure = Figure(figsize=(2.2 + 2.8 * len(metrics), 1.4 + 0.36 * len(groups)))
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for axes, metric in zip(panels, metrics, strict=True):
        # Not a number, where there are too few pairs, is not drawn.
        found = metric_of(metric).factor * np.array([group.scores[metric] for group in groups], dtype=float)
        axes.plot(found[:, 1], range(len(groups)), "o")
        axes.hlines(range(len(groups)), found[:, 3], found[:, 4])
        axes.axvline(0, color=BLACK, linewidth=1)
        _name_rows(axes, groups)
        axes.set_xlabel(_label(metric))
    figure.supxlabel(f"difference to {differences.reference}: mean and 95 % confidence interval")
    figure.suptitle(title)
    return figure


def _plot_rows(groups: Sequence[Group], metric: str) -> Figure:
    figure = Figure(figsize=(6.4, 1.2 + 0.36 * len(groups)))
    axes = figure.subplots()
    axes.yaxis.grid(visible=False)
    means, sds, singles = _numbers(groups, metric)
    axes.errorbar(means, range(len(groups)), xerr=sds, fmt="o")
    for row, scores in enumerate(singles):
        axes.plot(scores, [row + 0.24] * len(scores), "|", color=SERIES[1], markersize=8, markeredgewidth=1.6)
    _name_rows(axes, groups)
    axes.set_xlabel(f"{_label(metric)}\n● mean ± sd, | single runs")
    return figure


def _name_rows(axes: Axes, groups: Sequence[Group]) -> None:
    axes.set_yticks(range(len(groups)), [group.label for group in groups])
    axes.set_ylim(len(groups) - 0.4, -0.6)


def _plot_swept(comparison: Comparison, groups: Sequence[Group], key: int, metric: str) -> Figure:
    names, *columns = (each[:key] + each[key + 1 :] for each in (comparison.names, *(group.values for group in groups)))
    lines: dict[str, list[Group]] = {}
    for group, others in zip(groups, columns, strict=True):
        lines.setdefault(label_of(names, others), []).append(group)
    figure = Figure(figsize=(6.4, 4.2))
    axes = figure.subplots()
    for label, members in lines.items():
        x, (means, sds, singles) = [group.values[key] for group in members], _numbers(members, metric)
        line = axes.errorbar(x, means, sds, label=label)[0]
        for value, scores in zip(x, singles, strict=True):
            axes.plot([value] * len(scores), scores, "_", color=line.get_color(), markersize=9, alpha=0.8)
    values = sorted({group.values[key] for group in groups})
    if values[0] > 0 and values[-1] / values[0] >= LOG_RATIO:
        axes.set_xscale("log")
    if len(values) <= MAX_TICKS:
        axes.set_xticks(values, [format_value(value) for value in values])
        axes.minorticks_off()
    axes.set(xlabel=f"{comparison.keys[key]}\nmean ± sd, – single runs", ylabel=_label(metric))
    if len(lines) > 1:
        figure.legend(loc="outside lower center", ncols=2)
    return figure


def _numbers(groups: Sequence[Group], metric: str) -> tuple[Any, Any, list[Any]]:
    """Means, standard deviations and single scores of the groups, in the unit shown; NaN: there is no deviation."""
    factor = metric_of(metric).factor
    _, means, sds, *_ = factor * np.array([group.scores[metric] for group in groups], dtype=float).T
    return means, sds, [factor * np.array([run.scores.get(metric, np.nan) for run in group.runs]) for group in groups]


def _label(metric: str) -> str:
    return metric_of(metric).title.replace("\n", " ")
