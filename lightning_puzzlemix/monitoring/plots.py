"""Plot a mixed batch: both images of each pair, their saliency, the mask, the moved blocks, and the mix. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lightning_puzzlemix.core import expand
from lightning_puzzlemix.monitoring.class_titles import class_titles, shares_title
from lightning_puzzlemix.monitoring.metrics import moving_grid
from lightning_puzzlemix.monitoring.palette import (
    FIRST_ARROW_COLOR,
    FIRST_COLOR,
    SALIENCY_COLORMAP,
    SECOND_COLOR,
    mask_colormap,
)
from lightning_puzzlemix.monitoring.plot_data import PlotSamples
from lightning_puzzlemix.normalization import Denormalizer
from lightning_puzzlemix.results import MixedBatch

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    # A column of the figure: its heading, and what plots a row of it.
    Column = tuple[str, Callable[[Axes, int], None]]

# The highest values of a saliency map look the same, or the few peaks of a gradient would leave the rest black.
_SALIENCY_PEAK = 0.995
# In inches: width of a panel, height of its title, of the headings and of the legend, space between columns.
_PANEL, _TITLE, _HEAD, _FOOT, _GAP = 1.7, 0.42, 0.3, 0.3, 0.1


def plot_mixes(
    mixed: MixedBatch,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    class_names: Sequence[str] | None = None,
    rows: int = 6,
    targets: Tensor | None = None,
    titles: Sequence[str] | None = None,
) -> Figure:
    """Plot the first pairs of a mixed batch, one a row.

    A row shows the first image and its saliency, the second and its, the mask over the grid, arrows for the visible blocks
    that moved, and the mixed image. Columns that the mixing method does not have are left out.

    Args:
        mixed: The batch, on any device; only the rows that are plotted are copied from it.
        mean: Per-channel mean that the images were normalized with; by default that of ``mixed``. If neither has one, images
            are taken to be in [0, 1]; others are stretched from black to white, and the figure says so.
        std: Per-channel standard deviation, likewise.
        class_names: A name for each class; by default class numbers are shown.
        rows: Most pairs to plot, at least 1.
        targets: Targets of the originals, for their titles: (B,) class indices, (B, classes) floats with one label or several a
            row, or (B, 1) or (B,) floats of one logit (see ``class_titles``).
        titles: B titles of the originals, of one or two lines, in place of their classes.

    Returns:
        The figure; save it by ``figure.savefig(path)``. No global state of matplotlib is changed.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If ``rows`` is below 1, only one of ``mean`` and ``std`` is given, or ``titles`` are not B.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plot_mixes needs matplotlib: pip install matplotlib") from error
    if rows < 1:
        raise ValueError(f"rows must be at least 1, got {rows}")
    if titles is not None and len(titles) != len(mixed.images):
        raise ValueError(f"titles must be one text for each of {len(mixed.images)} images, got {len(titles)}")
    if mean is None and std is None:
        mean, std = mixed.mean, mixed.std
    pairs = PlotSamples.take(mixed, min(rows, len(mixed.images)), titles or class_titles(targets, class_names))
    pixels = Denormalizer.of(pairs.originals[0], pairs.originals[1], mean, std)
    columns = _columns(pairs, pixels, class_names)
    height, width = mixed.images.shape[2:]
    # Very wide or very high images are distorted to a readable panel.
    panel = _PANEL * min(2.5, max(0.4, height / width))
    count = len(pairs.mixed.images)
    size = (len(columns) * (_PANEL + _GAP) + _GAP, _HEAD + count * (panel + _TITLE) + _FOOT)
    figure = Figure(figsize=size)
    for place, (heading, _) in enumerate(columns):
        left = _GAP + place * (_PANEL + _GAP)
        middle, top = (left + _PANEL / 2) / size[0], 1 - 0.1 / size[1]
        figure.text(middle, top, heading, ha="center", va="top", weight="bold", size=9)
    for row in range(count):
        bottom = 1 - (_HEAD + (row + 1) * (panel + _TITLE)) / size[1]
        for place, (_, plot) in enumerate(columns):
            left = _GAP + place * (_PANEL + _GAP)
            box = (left / size[0], bottom, _PANEL / size[0], panel / size[1])
            plot(figure.add_axes(box, xticks=[], yticks=[]), row)
    figure.text(0.5, 0.08 / size[1], " ".join([_legend(mixed), *pixels.notes]), ha="center", va="bottom", size=8)
    return figure


def _columns(pairs: PlotSamples, pixels: Denormalizer, class_names: Sequence[str] | None) -> list[Column]:
    """Return the columns that the mixing method has."""

    def original(which: int, color: str) -> Callable[[Axes, int], None]:
        def plot(axes: Axes, row: int) -> None:
            show_image(axes, pixels.shown(pairs.originals[which, row]), pairs.titles[which][row])
            frame(axes, color)

        return plot

    def saliency(which: int) -> list[Column]:
        maps, retained = pairs.saliency, pairs.retained
        if maps is None or retained is None:
            return []

        def plot(axes: Axes, row: int) -> None:
            show_saliency(axes, maps[which, row].numpy(), f"{float(retained[which, row]):.0%} stays visible")

        return [("its saliency", plot)]

    def result(axes: Axes, row: int) -> None:
        show_image(axes, pixels.shown(pairs.mixed.images[row]), shares_title(pairs.mixed.targets[row], class_names))

    plan = pairs.mixed.plan
    moves: list[Column] = (
        [] if plan is None else [("moved blocks", lambda axes, row: _show_moves(axes, pairs, plan, pixels, row))]
    )
    return [
        ("first image", original(0, FIRST_COLOR)),
        *saliency(0),
        ("second image", original(1, SECOND_COLOR)),
        *saliency(1),
        ("mask", lambda axes, row: _show_mask(axes, pairs.mixed, row)),
        *moves,
        ("mixed", result),
    ]


def _legend(mixed: MixedBatch) -> str:
    blocks = mixed.mask.shape[-1]
    over = f" over {blocks} x {blocks} blocks" if blocks > 1 else ""
    text = f"Mask{over}: orange shows the first image, blue the second, in between both."
    if mixed.plan is not None:
        text += " Arrows: from where visible blocks came."
    if mixed.layer is not None:
        text += f" Not the images were mixed but the output of the layer {mixed.layer}."
    return text


def _show(axes: Axes, values: np.ndarray, title: str, **options: object) -> None:
    # Pixels stay sharp if they are enlarged, and are averaged if there are more of them than the plot has.
    axes.imshow(values, interpolation="antialiased", aspect="auto", **options)  # type: ignore[arg-type]
    axes.set_title(title, fontsize=8, pad=3)


def show_image(axes: Axes, pixels: np.ndarray, title: str) -> None:
    """Show (H, W, 3) or (H, W) pixels in [0, 1] under a title, filling the axes."""
    _show(axes, pixels, title, vmin=0, vmax=1, cmap="gray" if pixels.ndim == 2 else None)


def show_saliency(axes: Axes, saliency: np.ndarray, title: str) -> None:
    """Show one (H, W) map under a title, clipped at its highest peaks. Values that are not finite stay blank."""
    finite = saliency[np.isfinite(saliency)]
    peak = (float(np.quantile(finite, _SALIENCY_PEAK)) or float(finite.max())) if len(finite) else 0.0
    _show(axes, saliency, title, cmap=SALIENCY_COLORMAP, vmin=0, vmax=peak if peak > 0 else 1)


def frame(axes: Axes, color: str) -> None:
    """Frame an original in the color in which the mask shows it."""
    for spine in axes.spines.values():
        spine.set(color=color, linewidth=2.5)


def _show_mask(axes: Axes, mixed: MixedBatch, row: int) -> None:
    """Show the mask pixel by pixel, with lines between its blocks."""
    grid = moving_grid(mixed)
    height, width = mixed.images.shape[2:]
    if mixed.boxes is None:
        blocks = mixed.mask[row].repeat_interleave(grid.rows.cells, 0).repeat_interleave(grid.cols.cells, 1)
        values = expand(blocks, grid).numpy()
    else:
        top, bottom, left, right = mixed.boxes[row if len(mixed.boxes) > 1 else 0]
        values = np.ones((height, width))
        values[top:bottom, left:right] = 0
    _show(axes, values, f"{float(mixed.ratio[row]):.0%} of the first", vmin=0, vmax=1, cmap=mask_colormap())
    host = torch.device("cpu")
    for side, axis, line in ((height, grid.rows, axes.axhline), (width, grid.cols, axes.axvline)):
        for edge in axis.edges(host)[:: axis.cells].tolist():
            if 0 < edge < side:
                line(edge - 0.5, color="white", linewidth=0.4)


def _show_moves(axes: Axes, pairs: PlotSamples, plan: Tensor, pixels: Denormalizer, row: int) -> None:
    """Show an arrow from the old to the new place of each visible block, in the color of its image, over the pale mix."""
    grid, host = moving_grid(pairs.mixed), torch.device("cpu")
    pale = pixels.shown(pairs.mixed.images[row])
    pale = 0.55 + 0.45 * (pale.mean(2) if pale.ndim == 3 else pale)
    moved = pairs.moved[:, row]
    _show(axes, pale, f"{int(moved.sum()) or 'none'} moved", vmin=0, vmax=1, cmap="gray")
    rows, cols = (
        (edges[:-1] + edges[1:]).numpy() / 2 - 0.5 for edges in (grid.rows.edges(host), grid.cols.edges(host))
    )
    for which, color in ((1, SECOND_COLOR), (0, FIRST_ARROW_COLOR)):
        to_row, to_col = (index.numpy() for index in moved[which].nonzero(as_tuple=True))
        if not len(to_row):
            continue
        source = plan[which, row][moved[which]].numpy()
        x, y = cols[source % len(cols)], rows[source // len(cols)]
        axes.quiver(
            x, y, cols[to_col] - x, rows[to_row] - y, color=color, angles="xy", scale_units="xy", scale=1,
            units="inches", width=0.014, headwidth=4.5, headlength=5, headaxislength=4.5,
        )  # fmt: skip
