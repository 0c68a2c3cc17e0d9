"""One pair of images mixed for every combination of settings, side by side."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_puzzlemix import MixedBatch
from lightning_puzzlemix.monitoring import frame, show_image, show_saliency
from lightning_puzzlemix.monitoring.palette import FIRST_COLOR, SECOND_COLOR, mask_colormap
from lightning_puzzlemix.monitoring.plot_data import PlotSamples
from lightning_puzzlemix.normalization import Denormalizer

# In inches: widths of panels, the space beside a mix for mask and label, and that for the texts above and below.
ORIGINAL, MIX, BESIDE, ABOVE, BELOW = 1.45, 1.9, 1.0, 0.4, 0.5
# The mask at the lower right of a mix: left, bottom, width and height as shares of those of the mix.
MASK = (1.04, 0, 0.3, 0.3)


def plot_grid(
    mixes: Sequence[MixedBatch], titles: Sequence[str], axes: Mapping[str, Sequence[str]], legend: str
) -> Figure:
    """Plot the first pair of images and their saliency at the top and, below, each mix with its mask.

    Args:
        mixes: One batch for each panel, row by row.
        titles: Of the images.
        axes: The values of one setting, for the columns, or of two, the first for the rows.
        legend: The settings that all mixes share.
    """
    *rows, columns = ([f"{key} = {value}" for value in values] for key, values in axes.items())
    rows = rows[0] if rows else [""]
    pairs = [PlotSamples.take(mixed, 1, titles) for mixed in mixes]
    pixels = Denormalizer.of(*pairs[0].originals, pairs[0].mixed.mean, pairs[0].mixed.std)
    height, width = mixes[0].images.shape[2:]
    # Limited: a banner or a column of pixels would fill the figure.
    aspect = min(2.5, max(0.4, height / width))
    heights = (ORIGINAL * aspect + ABOVE, len(rows) * (MIX * aspect + BELOW) + ABOVE)
    figure = Figure((max(4.5 * ORIGINAL, len(columns) * (MIX + BESIDE)), sum(heights) + BELOW), layout="constrained")
    top, bottom = figure.subfigures(2, height_ratios=heights)
    originals = top.subplots(1, 4)
    for which, (name, color) in enumerate((("first", FIRST_COLOR), ("second", SECOND_COLOR))):
        image, saliency = originals[2 * which : 2 * which + 2]
        show_image(image, pixels.shown(pairs[0].originals[which, 0]), f"{name}: {pairs[0].titles[which][0]}")
        frame(image, color)
        show_saliency(saliency, pairs[0].saliency[which, 0].numpy(), "its saliency")
    panels = bottom.subplots(len(rows), len(columns), squeeze=False)
    for number, (panel, pair) in enumerate(zip(panels.flat, pairs, strict=True)):
        row, column = divmod(number, len(columns))
        _plot_mix(panel, pair, pixels)
        panel.set_title(columns[column] if row == 0 else "", weight="bold", size=10)
        panel.set_ylabel(rows[row] if column == 0 else "", weight="bold", size=10)
    for panel in figure.axes:
        panel.set(xticks=[], yticks=[], box_aspect=aspect)
    text = f"Small masks: orange shows the first image, blue the second, in between both.\nAll with {legend}."
    figure.supxlabel(text, size=8)
    return figure


def _plot_mix(panel: Axes, pair: PlotSamples, pixels: Denormalizer) -> None:
    mixed, count = pair.mixed, int(pair.moved.sum())
    moved = "" if mixed.plan is None else f", {count} moved block{'' if count == 1 else 's'}"
    show_image(panel, pixels.shown(mixed.images[0]), "")
    share, retained = float(mixed.ratio[0]), float(pair.retained.mean())
    panel.set_xlabel(f"{share:.0%} of the first{moved},\n{retained:.0%} of the saliency stays", size=8)
    mask = panel.inset_axes(MASK, xticks=[], yticks=[])
    mask.imshow(mixed.mask[0].numpy(), cmap=mask_colormap(), vmin=0, vmax=1, interpolation="nearest", aspect="auto")
