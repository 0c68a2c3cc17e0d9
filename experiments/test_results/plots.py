"""Plots of the results of a test: confusion matrix, reliability diagram, accuracy of each class."""

from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import AutoLocator, PercentFormatter
from sklearn.calibration import CalibrationDisplay

from experiments.test_results.results import TestResults
from lightning_puzzlemix.monitoring.palette import BLUE, MATRIX_COLORMAP, MISSING_COLOR, ORANGE
from lightning_puzzlemix.validation import shorten

COLOR_MAP = colormaps[MATRIX_COLORMAP].with_extremes(bad=MISSING_COLOR)
# Up to so many classes cells have their counts; rows their names; classes a cell each.
NUMBERED, NAMED, CELLS = 16, 50, 200
# Pairs, best and worst classes, and letters that are shown.
PAIRS, EXTREMES, MAX_NAME = 16, 10, 22
ROW_HEIGHT, MARGIN = 0.26, 1.1  # inches


def plot_confusion(results: TestResults) -> Figure:
    """The confusion matrix as shares of each true class, gray where it has no images, and the most confused pairs."""
    classes, shares = len(results.class_names), results.confusion_shares()
    side = max(4.6, MARGIN + min(0.34 if classes <= NUMBERED else 0.2, 9 / classes) * classes)
    figure = _figure(results, side + 5.4, side + 0.6)
    axes, pairs = figure.subplots(1, 2, width_ratios=(side, 4.2))
    # Of many classes neighbors share a cell, which shows the largest of their shares, so that no confusion disappears.
    size = -(-classes // CELLS)
    firsts, end = range(0, classes, size), classes + -classes % size - 0.5
    pooled = np.fmax.reduceat(np.fmax.reduceat(shares, firsts, axis=0), firsts, axis=1)
    image = axes.imshow(pooled, cmap=COLOR_MAP, norm=PowerNorm(0.5, 0, 1), extent=(-0.5, end, end, -0.5))
    axes.set(xlabel="predicted class", ylabel="true class")
    if classes <= NAMED:
        labels = [shorten(name, MAX_NAME) for name in results.class_names]
        axes.set_xticks(range(classes), labels, rotation="vertical", fontsize=8)
        axes.set_yticks(range(classes), labels, fontsize=8)
    for row, column in np.argwhere(results.confusion) if classes <= NUMBERED else ():
        # On the root scale of the colors, this is the middle of their lightness.
        color = "black" if shares[row, column] > 0.3 else "white"
        axes.text(column, row, results.confusion[row, column], ha="center", va="center", fontsize=8, color=color)
    bar = figure.colorbar(image, ax=axes, format=PercentFormatter(1, decimals=0), fraction=0.046, pad=0.02)
    bar.set_label("share of the true class", fontsize=9)
    confused = results.most_confused(PAIRS)
    names = [f"{shorten(pair.true, MAX_NAME)} as {shorten(pair.predicted, MAX_NAME)}" for pair in confused]
    values = [pair.share for pair in confused]
    plot_bars(pairs, names, values, [f"{pair.share:.0%} ({pair.count})" for pair in confused], ORANGE, rows=PAIRS)
    pairs.set_title("most confused pairs" if confused else "no confused pairs", fontsize=9)
    pairs.set(xlim=(0, 1.45 * max(values, default=1)), xlabel="share of the true class (images)")
    pairs.xaxis.set_major_locator(AutoLocator())
    return figure


def plot_calibration(results: TestResults) -> Figure:
    """The reliability diagram: accuracy against confidence, and below it the shares of the images."""
    curve = results.calibration
    figure = _figure(results, 5.2, 5.6)
    upper, lower = figure.subplots(2, 1, height_ratios=(3.2, 1), sharex=True)
    confidence, accuracy = (values[curve.count > 0] for values in (curve.confidence, curve.accuracy))
    # The distances to the diagonal, whose mean is the error.
    upper.vlines(confidence, confidence, accuracy, color=ORANGE, linewidth=2.5, alpha=0.7, label="distance")
    CalibrationDisplay(accuracy, confidence, None, estimator_name="model").plot(ax=upper, color=BLUE, marker="o")
    verdict = "overconfident" if np.nansum((curve.confidence - curve.accuracy) * curve.count) > 0 else "underconfident"
    upper.set_title(f"expected calibration error {curve.expected_error:.2%}, {verdict}", fontsize=9)
    upper.set(xlabel="", ylabel="accuracy", ylim=(-0.02, 1.02))
    shares = curve.count / max(1, curve.count.sum())
    lower.bar(curve.edges[:-1], shares, width=np.diff(curve.edges), align="edge", color=BLUE, edgecolor="white")
    lower.set(xlabel="confidence, the probability of the predicted class", ylabel="images", xlim=(-0.02, 1.02))
    for axis in (upper.yaxis, lower.yaxis, lower.xaxis):
        _percent(axis)
    return figure


def plot_per_class(results: TestResults) -> Figure:
    """Accuracy of the classes, worst first: a bar each or, of more than 50, a curve and bars of the worst and the best."""
    accuracy, counts = results.per_class_accuracy(), results.per_class_count()
    order = [index for index in np.argsort(accuracy, kind="stable") if counts[index]]
    many = len(order) > NAMED
    shown = [*order[:EXTREMES], *order[-EXTREMES:]] if many else order
    figure = _figure(results, 10.0 if many else 6.4, MARGIN + ROW_HEIGHT * max(4, len(shown)))
    *curves, bars = figure.subplots(1, 1 + many, squeeze=False)[0]
    names = [shorten(results.class_names[index], MAX_NAME) for index in shown]
    texts = [f"{accuracy[index]:.0%} of {counts[index]}" for index in shown]
    plot_bars(bars, names, accuracy[shown], texts, BLUE)
    bars.axvline(results.accuracy, color=ORANGE, linestyle="--", linewidth=1.2)
    bars.set_xlabel("accuracy; dashed: all images")
    for axes in curves:
        axes.plot(range(1, len(order) + 1), accuracy[order], color=BLUE, linewidth=2)
        axes.axhline(results.accuracy, color=ORANGE, linestyle="--", linewidth=1.2)
        axes.set(xlim=(1, len(order)), ylim=(0, 1.02), xlabel=f"{len(order)} classes, worst first", ylabel="accuracy")
        _percent(axes.yaxis)
        bars.axhline(EXTREMES - 0.5, color="black", linewidth=0.8)
        bars.set_title(f"the {EXTREMES} worst and the {EXTREMES} best classes", fontsize=9)
    return figure


def plot_bars(axes: Axes, names: list[str], values: Any, texts: list[str], color: str, *, rows: int = 0) -> None:
    """Plot shares in [0,1] as a bar a row with its name and its text, with room for at least so many rows."""
    bars = axes.barh(range(len(names)), values, color=color, height=0.7)
    # On white, as a line may run behind them.
    axes.bar_label(bars, texts, padding=3, fontsize=8, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8})
    axes.set_yticks(range(len(names)), names, fontsize=8)
    # With room for the text beside a bar of 100%.
    axes.set(xlim=(0, 1.2), ylim=(max(rows, len(names)) - 0.4, -0.6), xticks=np.linspace(0, 1, 6))
    _percent(axes.xaxis)


def _figure(results: TestResults, width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(f"{results.images} test images, accuracy {results.accuracy:.1%}", fontsize=11)
    return figure


def _percent(axis: Axis) -> None:
    axis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.axes.spines[["top", "right"]].set_visible(False)
