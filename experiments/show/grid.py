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
    _plot_originals(top.subplots(1, 4), pairs[0], pixels)
    panels = bottom.subplots(len(rows), len(columns), squeeze=False)
    for panel, pair in zip(panels.flat, pairs, strict=True):
        _plot_mix(panel, pair, pixels, count_moved=any("transport" in key for key in axes))
    for panel, title in zip(panels[0], columns, strict=True):
        panel.set_title(title, weight="bold", size=10)
    for panel, label in zip(panels[:, 0], rows, strict=True):
        panel.set_ylabel(label, weight="bold", size=10)
    for panel in figure.axes:
        panel.set(xticks=[], yticks=[], box_aspect=aspect)
    colors = "Small masks: orange shows the first image, blue the second, in between both."
    figure.supxlabel(f"{colors}\nAll with {legend}.", size=8)
    return figure


def _plot_originals(panels: Sequence[Axes], pair: PlotSamples, pixels: Denormalizer) -> None:
    for which, (name, color) in enumerate((("first", FIRST_COLOR), ("second", SECOND_COLOR))):
        image, saliency = panels[2 * which : 2 * which + 2]
        show_image(image, pixels.shown(pair.originals[which, 0]), f"{name}: {pair.titles[which][0]}")
        frame(image, color)
        show_saliency(saliency, pair.saliency[which, 0].numpy(), "its saliency")


def _plot_mix(panel: Axes, pair: PlotSamples, pixels: Denormalizer, *, count_moved: bool) -> None:
    """Plot a mix with its mask; that no block moved is stated only if `count_moved`."""
    mixed, moved = pair.mixed, int(pair.moved.sum())
    count = ""
    if moved or (count_moved and mixed.plan is not None):
        count = f", {moved} moved block{'' if moved == 1 else 's'}"
    show_image(panel, pixels.shown(mixed.images[0]), "")
    share, retained = float(mixed.ratio[0]), float(pair.retained.mean())
    panel.set_xlabel(f"{share:.0%} of the first{count},\n{retained:.0%} of the saliency stays", size=8)
    mask = panel.inset_axes(MASK, xticks=[], yticks=[])
    mask.imshow(mixed.mask[0].numpy(), cmap=mask_colormap(), vmin=0, vmax=1, interpolation="nearest", aspect="auto")
