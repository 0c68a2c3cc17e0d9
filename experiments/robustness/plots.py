"""The plot of an evaluation: bars of the accuracies, and a heat map of corruptions and severities."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.data import SEVERITIES
from experiments.robustness.results import CorruptionScores, EvaluationResults
from lightning_puzzlemix.monitoring.palette import BLUE, GRAY, ORANGE

# Inches.
WIDTH, BAR_HEIGHT, ROW_HEIGHT, MARGIN = 7.0, 0.42, 0.3, 0.9


def plot_evaluation(results: EvaluationResults, title: str) -> Figure:
    """Bars of clean, attacked and corrupted accuracy; below them a heat map if corrupted images were measured."""
    bars = [] if results.clean is None else [("clean", results.clean.accuracy, BLUE)]
    for name, scores in results.attacks.items():
        bars.append((f"{name} (ε = {255 * results.attack_settings[name]['eps']:.3g}/255)", scores.accuracy, ORANGE))
    corruptions = results.corruptions
    if corruptions is not None and corruptions.mean is not None:
        bars.append(("corrupted, mean", corruptions.mean, GRAY))
    heights = [MARGIN + BAR_HEIGHT * len(bars)]
    if corruptions is not None and corruptions.accuracy:
        heights.append(MARGIN + ROW_HEIGHT * len(corruptions.accuracy))
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.3), layout="constrained")
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    _plot_bars(axes[0], bars)
    axes[0].set_xlabel(f"accuracy in %, {0 if results.clean is None else results.clean.images} images", fontsize=9)
    if len(heights) > 1 and corruptions is not None:
        _plot_heat_map(axes[1], corruptions)
    return figure


def _plot_bars(axes: Axes, bars: list[tuple[str, float, str]]) -> None:
    labels, accuracies, colors = zip(*bars, strict=True)
    container = axes.barh(labels, [100 * accuracy for accuracy in accuracies], color=colors, height=0.7)
    axes.bar_label(container, fmt="%.1f", padding=3, fontsize=9)
    axes.invert_yaxis()
    # Room for the number beside a bar of 100.
    axes.set(xlim=(0, 108), xticks=range(0, 101, 20))
    axes.tick_params(labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def _plot_heat_map(axes: Axes, scores: CorruptionScores) -> None:
    names = [*scores.averaged, *scores.extra]
    values = 100 * np.array([[*scores.accuracy[name].values(), scores.mean_of(name)] for name in names])
    axes.imshow(values, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        color = "white" if value > 60 else "black"
        axes.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=8, color=color)
    axes.set_xticks(range(len(SEVERITIES) + 1), [*map(str, SEVERITIES), "mean"], fontsize=9)
    labels = [name.replace("_", " ") + (" *" if name in scores.extra else "") for name in names]
    axes.set_yticks(range(len(names)), labels, fontsize=9)
    axes.axvline(len(SEVERITIES) - 0.5, color="white", linewidth=4)
    if scores.averaged and scores.extra:
        axes.axhline(len(scores.averaged) - 0.5, color="white", linewidth=4)
    axes.set_xlabel(f"severity; accuracy in %{'    * not in the mean' if scores.extra else ''}", fontsize=9)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
