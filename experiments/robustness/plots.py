"""The picture of an evaluation: bars of the accuracies, and a map of corruptions and severities."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.common.atomic_files import save_figure
from experiments.data.corruptions import SEVERITIES
from experiments.robustness.results import CorruptionScores, Report
from lightning_puzzlemix.monitoring.palette import BLUE, GRAY, ORANGE

DPI = 150
WIDTH, BAR_HEIGHT, ROW_HEIGHT, MARGIN = 7.0, 0.42, 0.3, 0.9


def save_picture(path: Path, report: Report, title: str) -> None:
    """Draw what has been measured into a PNG.

    Args:
        path: The file to write.
        report: The results.
        title: What was evaluated.
    """
    save_figure(draw(report, title), path, dpi=DPI)


def draw(report: Report, title: str) -> Figure:
    """Bars of clean, attacked and corrupted accuracy; below them a map if corrupted images were measured."""
    bars = _bars(report)
    heights = [MARGIN + BAR_HEIGHT * len(bars)]
    if report.corruptions is not None and report.corruptions.accuracy:
        heights.append(MARGIN + ROW_HEIGHT * len(report.corruptions.accuracy))
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.3), layout="constrained")
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    _draw_bars(axes[0], bars)
    axes[0].set_xlabel(f"accuracy in %, {0 if report.clean is None else report.clean.images} images", fontsize=9)
    if len(heights) > 1 and report.corruptions is not None:
        _draw_map(axes[1], report.corruptions)
    return figure


def _bars(report: Report) -> list[tuple[str, float, str]]:
    """Label, accuracy in % and color, from top to bottom."""
    bars = [] if report.clean is None else [("clean", 100 * report.clean.accuracy, BLUE)]
    for name, scores in report.attacks.items():
        label = f"{name} (ε = {255 * report.attack_settings[name]['eps']:.3g}/255)"
        bars.append((label, 100 * scores.accuracy, ORANGE))
    if report.corruptions is not None and report.corruptions.mean is not None:
        bars.append(("corrupted, mean", 100 * report.corruptions.mean, GRAY))
    return bars


def _draw_bars(axes: Axes, bars: list[tuple[str, float, str]]) -> None:
    labels, values, colors = zip(*bars, strict=True)
    drawn = axes.barh(range(len(bars)), values, color=colors, height=0.7)
    axes.bar_label(drawn, fmt="%.1f", padding=3, fontsize=9)
    axes.set_yticks(range(len(bars)), labels, fontsize=9)
    axes.invert_yaxis()
    # Room for the number beside a bar of 100.
    axes.set_xlim(0, 108)
    axes.set_xticks(range(0, 101, 20))
    axes.tick_params(labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_map(axes: Axes, scores: CorruptionScores) -> None:
    names = [*scores.averaged, *scores.extra]
    values = 100 * np.array([[scores.accuracy[name][severity] for severity in SEVERITIES] for name in names])
    values = np.column_stack([values, values.mean(axis=1)])
    axes.imshow(values, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        axes.text(
            column, row, f"{value:.1f}", ha="center", va="center", fontsize=8, color="white" if value > 60 else "black"
        )
    axes.set_xticks(range(len(SEVERITIES) + 1), [*(str(severity) for severity in SEVERITIES), "mean"], fontsize=9)
    labels = [name.replace("_", " ") + (" *" if name in scores.extra else "") for name in names]
    axes.set_yticks(range(len(names)), labels, fontsize=9)
    axes.axvline(len(SEVERITIES) - 0.5, color="white", linewidth=4)
    if scores.averaged and scores.extra:
        axes.axhline(len(scores.averaged) - 0.5, color="white", linewidth=4)
    note = "    * not in the mean" if scores.extra else ""
    axes.set_xlabel(f"severity; accuracy in %{note}", fontsize=9)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
