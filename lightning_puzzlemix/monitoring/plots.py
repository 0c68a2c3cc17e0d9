"""The picture of a mix: both images, where the model looks in them, mask, moved blocks, and the result. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lightning_puzzlemix.core.grid import expand
from lightning_puzzlemix.monitoring.class_titles import class_titles, shares_title
from lightning_puzzlemix.monitoring.metrics import moving_grid
from lightning_puzzlemix.monitoring.plot_data import PlotSamples
from lightning_puzzlemix.normalization import Denormalizer
from lightning_puzzlemix.results import MixedBatch
from lightning_puzzlemix.sampling import INPUT, BaselineDraw

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

# Colors that differ in lightness as well as in hue, so that they are told apart with any color vision and in gray.
FIRST_COLOUR, SECOND_COLOUR = "#FFA62B", "#0B4F8A"
_SALIENCY_COLOURS = "magma"
# Above this share of a saliency map's values all look the same, or the few peaks of a gradient would leave the rest black.
_SALIENCY_PEAK = 0.995
_PANEL, _TITLE, _HEAD, _FOOT, _GAP = 1.7, 0.42, 0.3, 0.3, 0.1


@dataclass(frozen=True)
class _Column:
    """A column of the picture: its head, and what draws a row of it."""

    head: str
    draw: Callable[[Axes, int], None]


def draw_mixes(
    mixed: MixedBatch,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    class_names: Sequence[str] | None = None,
    rows: int = 6,
    targets: Tensor | None = None,
    titles: Sequence[str] | None = None,
) -> Figure:
    """Draw the first pairs of a mixed batch, one a row.

    A row shows the first image and its saliency, the second and its, the mask over the grid, arrows for the visible blocks
    that moved, and the mixed image. Columns that the way of mixing does not have are left out.

    Args:
        mixed: The batch, on any device; only the rows that are drawn are copied from there.
        mean: Per-channel mean that the images were normalized with; ``None`` with ``std=None`` for images in [0, 1]. If those
            lie outside, they are drawn with their smallest value black and their largest white, and the picture says so.
        std: Per-channel standard deviation.
        class_names: A name for each class; class numbers are shown without.
        rows: Most pairs to draw, at least 1.
        targets: Of the originals, named above them where given: (B,) class indices, (B, classes) floats with one label or
            several a row, or (B, 1) or (B,) floats of one logit (see ``class_titles``).
        titles: B texts of one or two lines that stand above the originals in place of their classes.

    Returns:
        The figure; save it with ``figure.savefig(path)``. No global matplotlib state is touched.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If ``rows`` is below 1, only one of ``mean`` and ``std`` is given, or ``titles`` are not B.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("draw_mixes needs matplotlib: pip install matplotlib") from error
    if rows < 1:
        raise ValueError(f"rows must be at least 1, got {rows}")
    if titles is not None and len(titles) != len(mixed.images):
        raise ValueError(f"titles must be one text for each of {len(mixed.images)} images, got {len(titles)}")
    pairs = PlotSamples.take(mixed, min(rows, len(mixed.images)), titles or class_titles(targets, class_names))
    pixels = Denormalizer.of(pairs.first.originals, pairs.second, mean, std)
    columns = _columns(pairs, pixels, class_names)
    height, width = mixed.images.shape[2:]
    # Neither a banner nor a column of pixels may blow up the picture.
    panel = _PANEL * min(2.5, max(0.4, height / width))
    count = len(pairs.first.images)
    size = (len(columns) * (_PANEL + _GAP) + _GAP, _HEAD + count * (panel + _TITLE) + _FOOT)
    figure = Figure(figsize=size)
    for row in range(count):
        for place, column in enumerate(columns):
            left, top = _GAP + place * (_PANEL + _GAP), _HEAD + _TITLE + row * (panel + _TITLE)
            box = (left / size[0], 1 - (top + panel) / size[1], _PANEL / size[0], panel / size[1])
            axes = figure.add_axes(box, xticks=[], yticks=[])
            column.draw(axes, row)
            if row == 0:
                figure.text(
                    box[0] + box[2] / 2, 1 - 0.1 / size[1], column.head, ha="center", va="top", weight="bold", size=9
                )
    figure.text(0.5, 0.08 / size[1], " ".join([_legend(mixed), *pixels.notes]), ha="center", va="bottom", size=8)
    return figure


def _columns(pairs: PlotSamples, pixels: Denormalizer, class_names: Sequence[str] | None) -> list[_Column]:
    """Choose the columns that there is something to show in."""

    def original(which: int) -> Callable[[Axes, int], None]:
        images, color = (pairs.second, SECOND_COLOUR) if which else (pairs.first.originals, FIRST_COLOUR)

        def draw(axes: Axes, row: int) -> None:
            show_image(axes, pixels.shown(images[row]), pairs.titles[which][row])
            frame(axes, color)

        return draw

    def saliency(which: int) -> Callable[[Axes, int], None]:
        def draw(axes: Axes, row: int) -> None:
            assert pairs.saliency is not None
            assert pairs.retained is not None
            title = f"{float(pairs.retained[which, row]):.0%} stays visible"
            show_saliency(axes, pairs.saliency[which, row].numpy(), title)

        return draw

    def result(axes: Axes, row: int) -> None:
        show_image(axes, pixels.shown(pairs.first.images[row]), shares_title(pairs.first.targets[row], class_names))

    inputs, planned = pairs.saliency is not None, pairs.first.plan is not None
    columns = [
        (True, "first image", original(0)),
        (inputs, "its saliency", saliency(0)),
        (True, "second image", original(1)),
        (inputs, "its saliency", saliency(1)),
        (True, "mask", lambda axes, row: _show_mask(axes, pairs.first, row)),
        (planned, "moved blocks", lambda axes, row: _show_moves(axes, pairs, pixels, row)),
        (True, "mixed", result),
    ]
    return [_Column(head, draw) for wanted, head, draw in columns if wanted]


def _legend(mixed: MixedBatch) -> str:
    draw, blocks = mixed.draw, mixed.mask.shape[-1]
    over = f" over {blocks} x {blocks} blocks" if blocks > 1 else ""
    text = f"Mask{over}: orange shows the first image, blue the second, in between both."
    if mixed.plan is not None:
        text += " Arrows: from where visible blocks came."
    if isinstance(draw, BaselineDraw) and draw.layer != INPUT:
        text += f" Not the images were mixed but the output of the layer {draw.layer}."
    return text


def _show(axes: Axes, values: np.ndarray, title: str, **options: object) -> None:
    # Denormalizer stay sharp where they are enlarged, and are averaged where there are more of them than the picture has.
    axes.imshow(values, interpolation="antialiased", aspect="auto", **options)  # type: ignore[arg-type]
    axes.set_title(title, fontsize=8, pad=3)


def show_image(axes: Axes, pixels: np.ndarray, title: str) -> None:
    """Show (H, W, 3) or (H, W) pixels in [0, 1] under a title, filling the axes."""
    _show(axes, pixels, title, vmin=0, vmax=1, cmap="gray" if pixels.ndim == 2 else None)


def show_saliency(axes: Axes, saliency: np.ndarray, title: str) -> None:
    """Show one (H, W) map under a title; all but its highest peaks are told apart. Values that are not finite stay blank."""
    finite = saliency[np.isfinite(saliency)]
    peak = (float(np.quantile(finite, _SALIENCY_PEAK)) or float(finite.max())) if len(finite) else 0.0
    _show(axes, saliency, title, cmap=_SALIENCY_COLOURS, vmin=0, vmax=peak if peak > 0 else 1)


def frame(axes: Axes, color: str) -> None:
    """Frame an original in the color that the mask shows it in."""
    for spine in axes.spines.values():
        spine.set(color=color, linewidth=2.5)


def mask_colors() -> Colormap:
    """Return the mask's colors: 1, the first image, is orange and light, 0, the second, blue and dark."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("mix", [SECOND_COLOUR, "#B9AFA6", FIRST_COLOUR])


def _show_mask(axes: Axes, mixed: MixedBatch, row: int) -> None:
    """Show the mask pixel by pixel, with lines between its blocks."""
    grid = moving_grid(mixed)
    height, width = mixed.images.shape[2:]
    boxes = mixed.draw.boxes if isinstance(mixed.draw, BaselineDraw) else None
    if boxes is None:
        blocks = mixed.mask[row].repeat_interleave(grid.rows.cells, 0).repeat_interleave(grid.cols.cells, 1)
        values = expand(blocks, grid).numpy()
    else:
        top, bottom, left, right = boxes[row if len(boxes) > 1 else 0]
        values = np.ones((height, width))
        values[top:bottom, left:right] = 0
    title = f"{float(mixed.ratio[row]):.0%} of the first"
    _show(axes, values, title, vmin=0, vmax=1, cmap=mask_colors())
    device = torch.device("cpu")
    for side, edges, line in (
        (height, grid.rows.edges(device), axes.axhline),
        (width, grid.cols.edges(device), axes.axvline),
    ):
        for edge in edges[:: grid.rows.cells].tolist():
            if 0 < edge < side:
                line(edge - 0.5, color="white", linewidth=0.4)


def _show_moves(axes: Axes, pairs: PlotSamples, pixels: Denormalizer, row: int) -> None:
    """Draw an arrow from where each visible block was to where it is, in the color of its image, over the pale result."""
    assert pairs.first.plan is not None
    grid = moving_grid(pairs.first)
    pale = pixels.shown(pairs.first.images[row])
    pale = 0.55 + 0.45 * (pale.mean(2) if pale.ndim == 3 else pale)
    moved = pairs.moved[:, row]
    _show(axes, pale, f"{int(moved.sum()) or 'none'} moved", vmin=0, vmax=1, cmap="gray")
    rows, cols = (
        (edges[:-1] + edges[1:]).numpy() / 2 - 0.5
        for edges in (grid.rows.edges(torch.device("cpu")), grid.cols.edges(torch.device("cpu")))
    )
    for which, color in ((1, SECOND_COLOUR), (0, "#C25E00")):
        to_row, to_col = (index.numpy() for index in moved[which].nonzero(as_tuple=True))
        if not len(to_row):
            continue
        source = pairs.first.plan[which, row][moved[which]].numpy()
        x, y = cols[source % len(cols)], rows[source // len(cols)]
        axes.quiver(
            x, y, cols[to_col] - x, rows[to_row] - y, color=color, angles="xy", scale_units="xy", scale=1,
            units="inches", width=0.014, headwidth=4.5, headlength=5, headaxislength=4.5,
        )  # fmt: skip
