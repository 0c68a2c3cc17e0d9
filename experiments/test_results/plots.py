"""Plots of the results of a test: confusion matrix, reliability diagram, accuracy of each class."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from sklearn.calibration import CalibrationDisplay
from sklearn.metrics import ConfusionMatrixDisplay
from torch.nn import functional as F

from experiments.test_results.results import Shares, TestResults
from lightning_puzzlemix.monitoring.palette import BLUE, MATRIX_COLORMAP, MISSING_COLOR, ORANGE
from lightning_puzzlemix.validation import shorten

# The color map grows evenly in lightness.
COLOR_MAP = colormaps[MATRIX_COLORMAP].with_extremes(bad=MISSING_COLOR)
# Up to so many classes cells have their counts; rows their names; classes a cell each, which beyond would be below a pixel.
NUMBERED, NAMED, CELLS = 16, 50, 200
# Pairs, and best and worst classes, that are named.
PAIRS, EXTREMES = 16, 10
MAX_NAME = 22
# Inches.
ROW_HEIGHT, MARGIN = 0.26, 1.1


def plot_confusion(results: TestResults) -> Figure:
    """The confusion matrix as shares of each true class and, beside it, the pairs that were confused most.

    Of more than 200 classes neighboring ones share a cell, which shows the largest of their shares, so that no confusion
    disappears. Rows of classes without images are gray.
    """
    classes = len(results.class_names)
    side = max(4.6, MARGIN + min(0.34 if classes <= NUMBERED else 0.2, 9 / classes) * classes)
    figure = _figure(results, side + 5.4, side + 0.6)
    axes, pairs = figure.subplots(1, 2, width_ratios=(side, 4.2))
    size = -(-classes // CELLS)
    shares = _pool(results.confusion_shares(), size)
    labels = [shorten(name, MAX_NAME) for name in results.class_names] if classes <= NAMED else None
    display = ConfusionMatrixDisplay(shares, display_labels=labels).plot(
        ax=axes, cmap=COLOR_MAP, include_values=False, xticks_rotation="vertical", colorbar=False,
        im_kw={"norm": PowerNorm(0.5, 0, 1)},
    )  # fmt: skip
    for row, column in np.argwhere(results.confusion) if classes <= NUMBERED else ():
        # On the root scale of the colors, this is the middle of their lightness.
        color = "black" if shares[row, column] > 0.3 else "white"
        axes.text(column, row, results.confusion[row, column], ha="center", va="center", fontsize=8, color=color)
    bar = figure.colorbar(display.im_, ax=axes, format=PercentFormatter(1, decimals=0), fraction=0.046, pad=0.02)
    bar.set_label("share of the true class", fontsize=9)
    if classes > NAMED:
        note = "" if size == 1 else f"; a cell holds {size} x {size} classes and shows their largest share"
        axes.set_title(f"{classes} classes{note}", fontsize=8)
        # About five round numbers.
        ticks = np.arange(0, classes, -(-classes // 50) * 10)
        axes.set(xticks=ticks / size, xticklabels=ticks, yticks=ticks / size, yticklabels=ticks)
    for each in (axes, bar.ax):
        each.tick_params(labelsize=8)
    _plot_pairs(pairs, results)
    return figure


def _pool(shares: Shares, size: int) -> Shares:
    """The largest value of every `size` x `size` cells; NaN where all of them are."""
    known = torch.from_numpy(np.nan_to_num(shares, nan=-1.0))[None]
    pooled = F.max_pool2d(known, size, ceil_mode=True)[0].numpy()
    return np.where(pooled < 0, np.nan, pooled)


def _plot_pairs(axes: Axes, results: TestResults) -> None:
    pairs = results.most_confused(PAIRS)
    axes.set_title("most confused pairs", fontsize=9)
    if not pairs:
        axes.text(0.5, 0.5, "none", ha="center", va="center", fontsize=9)
        axes.axis("off")
        return
    bars = axes.barh(range(len(pairs)), [pair.share for pair in pairs], color=ORANGE, height=0.7)
    axes.bar_label(bars, [f"{pair.share:.0%} ({pair.count})" for pair in pairs], padding=3, fontsize=8)
    labels = [f"{shorten(pair.true, MAX_NAME)} as {shorten(pair.predicted, MAX_NAME)}" for pair in pairs]
    axes.set_yticks(range(len(pairs)), labels, fontsize=8)
    # Few pairs have bars as thin as many.
    axes.set(ylim=(PAIRS - 0.5, -0.5), xlim=(0, 1.45 * max(pair.share for pair in pairs)))
    axes.set_xlabel("share of the true class (images)", fontsize=9)
    _percent(axes.xaxis)


def plot_calibration(results: TestResults) -> Figure:
    """The reliability diagram: accuracy against confidence, and below it the shares of the images."""
    curve = results.calibration
    figure = _figure(results, 5.2, 5.6)
    upper, lower = figure.subplots(2, 1, height_ratios=(3.2, 1), sharex=True)
    confidence, accuracy = (values[curve.count > 0] for values in (curve.confidence, curve.accuracy))
    # The distances to the diagonal, whose mean is the error.
    upper.vlines(confidence, confidence, accuracy, color=ORANGE, linewidth=2.5, alpha=0.7, label="distance")
    CalibrationDisplay(accuracy, confidence, None, estimator_name="model").plot(ax=upper, color=BLUE, marker="o")
    verdict = "no images" if np.isnan(curve.gap) else "overconfident" if curve.gap > 0 else "underconfident"
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
    accuracy = results.per_class_accuracy()
    order = [index for index in np.argsort(accuracy, kind="stable") if not np.isnan(accuracy[index])]
    if len(order) <= NAMED:
        figure = _figure(results, 6.4, MARGIN + ROW_HEIGHT * max(4, len(order)))
        _plot_class_bars(figure.subplots(), results, order)
        return figure
    figure = _figure(results, 10.0, MARGIN + ROW_HEIGHT * 2 * EXTREMES)
    curve, bars = figure.subplots(1, 2)
    curve.fill_between(range(1, len(order) + 1), accuracy[order], color=BLUE, alpha=0.15)
    curve.plot(range(1, len(order) + 1), accuracy[order], color=BLUE, linewidth=2)
    curve.axhline(results.accuracy, color=ORANGE, linestyle="--", linewidth=1.2)
    curve.set_title(f"all {len(order)} classes", fontsize=9)
    curve.set(
        xlim=(1, len(order)), ylim=(0, 1.02), xlabel="classes, worst first", ylabel="accuracy; dashed: all images"
    )
    _percent(curve.yaxis)
    _plot_class_bars(bars, results, [*order[:EXTREMES], *order[-EXTREMES:]])
    bars.axhline(EXTREMES - 0.5, color="black", linewidth=0.8)
    bars.set_title(f"the {EXTREMES} worst and the {EXTREMES} best classes", fontsize=9)
    return figure


def _plot_class_bars(axes: Axes, results: TestResults, order: Sequence[int]) -> None:
    accuracy, counts = results.per_class_accuracy()[order], results.per_class_count()[order]
    bars = axes.barh(range(len(order)), accuracy, color=BLUE, height=0.7)
    texts = [f"{share:.0%} of {count}" for share, count in zip(accuracy, counts, strict=True)]
    # On white, as the dashed line may run behind them.
    axes.bar_label(bars, texts, padding=3, fontsize=8, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8})
    axes.set_yticks(range(len(order)), [shorten(results.class_names[index], MAX_NAME) for index in order], fontsize=8)
    # Room for the number beside a bar of 100%.
    axes.set(ylim=(len(order) - 0.4, -0.6), xlim=(0, 1.2), xticks=np.linspace(0, 1, 6))
    axes.axvline(results.accuracy, color=ORANGE, linestyle="--", linewidth=1.2)
    axes.set_xlabel("accuracy; dashed: all images", fontsize=9)
    _percent(axes.xaxis)


def _figure(results: TestResults, width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(f"{results.images} test images, accuracy {results.accuracy:.1%}", fontsize=11)
    return figure


def _percent(axis: Axis) -> None:
    axis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.axes.spines[["top", "right"]].set_visible(False)
