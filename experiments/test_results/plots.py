"""The pictures of a test's outcome: confusion matrix, calibration curve, accuracy of each class."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from experiments.test_results.results import CalibrationCurve, Shares, TestResults
from lightning_puzzlemix.monitoring.palette import BLUE, GRAY, MATRIX_COLORMAP, MISSING_COLOR, ORANGE
from lightning_puzzlemix.validation import shorten

# Up to so many classes every cell has its number, every row its name; beyond, names no longer fit.
NUMBERED, NAMED = 16, 50
# More classes than that are drawn in groups, as a cell would be smaller than a dot of the picture.
CELLS = 200
# Of the pairs, and of the best and of the worst classes, so many are named.
PAIRS, EXTREMES = 16, 10
LONGEST = 22
# Inches.
ROW_HEIGHT, MARGIN = 0.26, 1.1


def draw_confusion(outcome: TestResults) -> Figure:
    """The confusion matrix as shares of each true class and, beside it, the pairs that were confused most.

    Of more than 200 classes neighboring ones share a cell, which shows the largest of their shares, so that no confusion
    disappears. Rows of classes without images are gray.
    """
    classes = len(outcome.class_names)
    side = max(4.6, MARGIN + min(0.34 if classes <= NUMBERED else 0.2, 9 / classes) * classes)
    figure = Figure(figsize=(side + 5.4, side + 0.6), layout="constrained")
    matrix, pairs = figure.subplots(1, 2, width_ratios=(side, 4.2))
    figure.suptitle(_title(outcome), fontsize=11)
    shares = outcome.confusion_shares()
    size = -(-classes // CELLS)
    shown = colormaps[MATRIX_COLORMAP].with_extremes(bad=MISSING_COLOR)
    colors = matrix.imshow(_largest(shares, size), cmap=shown, norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    bar = figure.colorbar(colors, ax=matrix, format=PercentFormatter(1, decimals=0), fraction=0.046, pad=0.02)
    bar.ax.tick_params(labelsize=8)
    bar.set_label("share of the true class", fontsize=9)
    matrix.set_xlabel("predicted class", fontsize=9)
    matrix.set_ylabel("true class", fontsize=9)
    if classes <= NAMED:
        names = [shorten(name, LONGEST) for name in outcome.class_names]
        matrix.set_xticks(range(classes), names, rotation=90, fontsize=8)
        matrix.set_yticks(range(classes), names, fontsize=8)
    else:
        note = "" if size == 1 else f"; a cell holds {size} x {size} classes and shows their largest share"
        matrix.set_title(f"{classes} classes{note}", fontsize=8)
        # About five round numbers.
        ticks = np.arange(0, classes, -(-classes // 50) * 10)
        matrix.set_xticks(ticks / size, ticks, fontsize=8)
        matrix.set_yticks(ticks / size, ticks, fontsize=8)
    if classes <= NUMBERED:
        _write_counts(matrix, outcome)
    _draw_pairs(pairs, outcome)
    return figure


def _largest(shares: Shares, size: int) -> Shares:
    """The largest value of every `size` x `size` cells; NaN where all of them are."""
    padding = -len(shares) % size
    padded = np.pad(shares, (0, padding), constant_values=np.nan)
    blocks = padded.reshape(len(padded) // size, size, -1, size)
    # fmax leaves NaN out where there is anything else.
    return np.fmax.reduce(blocks, axis=(1, 3))


def _write_counts(axes: Axes, outcome: TestResults) -> None:
    shares = outcome.confusion_shares()
    for (row, column), count in np.ndenumerate(outcome.confusion):
        if count:
            # In the root that the colors follow, this is the middle of their lightness.
            color = "black" if shares[row, column] > 0.3 else "white"
            axes.text(column, row, str(count), ha="center", va="center", fontsize=8, color=color)


def _draw_pairs(axes: Axes, outcome: TestResults) -> None:
    pairs = outcome.most_confused(PAIRS)
    axes.set_title("most confused: true as predicted", fontsize=9)
    if not pairs:
        axes.text(0.5, 0.5, "none", ha="center", va="center", fontsize=9)
        axes.axis("off")
        return
    bars = axes.barh(range(len(pairs)), [pair.share for pair in pairs], color=ORANGE, height=0.7)
    axes.bar_label(bars, [f"{pair.share:.0%} ({pair.count})" for pair in pairs], padding=3, fontsize=8)
    labels = [f"{shorten(pair.true, LONGEST)} as {shorten(pair.predicted, LONGEST)}" for pair in pairs]
    axes.set_yticks(range(len(pairs)), labels, fontsize=8)
    # Of few pairs the bars stay as thin as those of many.
    axes.set_ylim(max(PAIRS, len(pairs)) - 0.5, -0.5)
    axes.set_xlim(0, 1.45 * max(pair.share for pair in pairs))
    axes.set_xlabel("share of the true class (images)", fontsize=9)
    _tidy_shares(axes)


def draw_calibration(outcome: TestResults) -> Figure:
    """Accuracy over confidence, which of a calibrated model lies on the diagonal, and below how the images spread."""
    curve = outcome.calibration
    figure = Figure(figsize=(5.2, 5.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=(3.2, 1), sharex=True)
    figure.suptitle(_title(outcome), fontsize=11)
    filled = curve.count > 0
    upper.plot([0, 1], [0, 1], color=GRAY, linestyle="--", linewidth=1.2, label="calibrated")
    # The distance to the diagonal, which the error is the mean of.
    upper.vlines(
        curve.confidence[filled], curve.confidence[filled], curve.accuracy[filled], color=ORANGE, linewidth=2.5,
        alpha=0.7, label="distance",
    )  # fmt: skip
    upper.plot(curve.confidence[filled], curve.accuracy[filled], color=BLUE, marker="o", markersize=5, label="model")
    upper.set_title(f"expected calibration error {curve.expected_error:.2%}, {_describe_side(curve)}", fontsize=9)
    upper.set_ylabel("accuracy", fontsize=9)
    upper.set_ylim(-0.02, 1.02)
    upper.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    upper.legend(fontsize=8, frameon=False, loc="upper left")
    shares = curve.count / max(1, curve.count.sum())
    lower.bar(curve.edges[:-1], shares, width=np.diff(curve.edges), align="edge", color=BLUE, edgecolor="white")
    lower.set_ylabel("images", fontsize=9)
    lower.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    lower.set_xlabel("confidence, the probability of the predicted class", fontsize=9)
    lower.set_xlim(-0.02, 1.02)
    lower.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    for axes in (upper, lower):
        axes.tick_params(labelsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _describe_side(curve: CalibrationCurve) -> str:
    filled = curve.count > 0
    if not filled.any():
        return "no images"
    excess = np.average((curve.confidence - curve.accuracy)[filled], weights=curve.count[filled])
    return "too sure of itself" if excess > 0 else "not sure enough of itself"


def draw_per_class(outcome: TestResults) -> Figure:
    """Accuracy of the classes, worst first: a bar each or, of more than 50, a curve and bars of the worst and the best."""
    accuracy = outcome.per_class_accuracy()
    measured = np.flatnonzero(~np.isnan(accuracy))
    order = measured[np.argsort(accuracy[measured], kind="stable")]
    if len(order) <= NAMED:
        figure = Figure(figsize=(6.4, MARGIN + ROW_HEIGHT * max(4, len(order))), layout="constrained")
        _draw_class_bars(figure.subplots(), outcome, order.tolist())
    else:
        figure = Figure(figsize=(10.0, MARGIN + ROW_HEIGHT * 2 * EXTREMES), layout="constrained")
        curve, bars = figure.subplots(1, 2)
        _draw_class_curve(curve, outcome, accuracy[order])
        _draw_class_bars(bars, outcome, [*order[:EXTREMES], *order[-EXTREMES:]])
        bars.axhline(EXTREMES - 0.5, color="black", linewidth=0.8)
        bars.set_title(f"the {EXTREMES} worst and the {EXTREMES} best classes", fontsize=9)
    figure.suptitle(_title(outcome), fontsize=11)
    return figure


def _draw_class_bars(axes: Axes, outcome: TestResults, order: Sequence[int]) -> None:
    accuracy, counts = outcome.per_class_accuracy(), outcome.per_class_count()
    bars = axes.barh(range(len(order)), [accuracy[index] for index in order], color=BLUE, height=0.7)
    texts = [f"{accuracy[index]:.0%} of {counts[index]}" for index in order]
    # On white, as the dashed line may run behind them.
    white = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
    axes.bar_label(bars, texts, padding=3, fontsize=8, bbox=white)
    axes.set_yticks(range(len(order)), [shorten(outcome.class_names[index], LONGEST) for index in order], fontsize=8)
    axes.set_ylim(len(order) - 0.4, -0.6)
    # Room for the number beside a bar of 100%.
    axes.set_xlim(0, 1.2)
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.axvline(outcome.accuracy, color=ORANGE, linestyle="--", linewidth=1.2)
    axes.set_xlabel("accuracy; dashed: all images", fontsize=9)
    _tidy_shares(axes)


def _draw_class_curve(axes: Axes, outcome: TestResults, accuracy: Shares) -> None:
    axes.plot(range(1, len(accuracy) + 1), accuracy, color=BLUE, linewidth=2)
    axes.fill_between(range(1, len(accuracy) + 1), accuracy, color=BLUE, alpha=0.15)
    axes.axhline(outcome.accuracy, color=ORANGE, linestyle="--", linewidth=1.2)
    axes.set_xlim(1, len(accuracy))
    axes.set_ylim(0, 1.02)
    axes.set_title(f"all {len(accuracy)} classes", fontsize=9)
    axes.set_xlabel("classes, worst first", fontsize=9)
    axes.set_ylabel("accuracy; dashed: all images", fontsize=9)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.tick_params(labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def _tidy_shares(axes: Axes) -> None:
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.tick_params(axis="x", labelsize=9)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right"]].set_visible(False)


def _title(outcome: TestResults) -> str:
    return f"{outcome.images} test images, {outcome.accuracy:.1%} classified rightly"
