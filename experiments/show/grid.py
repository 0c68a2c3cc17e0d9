"""One pair of images mixed for every combination of settings, side by side."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.show.prepare import PreparedImages
from lightning_puzzlemix import MixedBatch
from lightning_puzzlemix.monitoring import frame, retained_saliency, show_image, show_saliency, visible_moves
from lightning_puzzlemix.monitoring.palette import FIRST_COLOR, SECOND_COLOR, mask_colormap
from lightning_puzzlemix.normalization import Denormalizer

# In inches: panels, the space between them, and the text above a panel and below a mix.
ORIGINAL, MIX, GAP, ABOVE, BELOW = 1.45, 1.9, 0.16, 0.45, 0.65
# The mask at the lower right of a mix: left, bottom, width and height as shares of those of the mix.
MASK = (1.04, 0, 0.3, 0.3)


def plot_grid(
    prepared: PreparedImages, mixes: Sequence[MixedBatch], axes: Mapping[str, Sequence[str]], legend: str
) -> Figure:
    """Plot mixes of the first pair of images.

    Args:
        prepared: The images.
        mixes: One for each panel, row by row.
        axes: The values of one setting, for the columns, or of two, the first for the rows.
        legend: The settings that all mixes share.

    Returns:
        A figure with both images and their saliency at the top and, below, each mix with its mask.
    """
    *rows, columns = ([f"{key} = {value}" for value in values] for key, values in axes.items())
    rows = rows[0] if rows else [""]
    height, width = prepared.images.shape[2:]
    # Limited: a banner or a column of pixels would fill the figure.
    aspect = min(2.5, max(0.4, height / width))
    step = MIX * (MASK[0] + MASK[2]) + GAP, MIX * aspect + BELOW
    top = ABOVE + ORIGINAL * aspect + ABOVE
    size = max(4 * (ORIGINAL + GAP), 2 * GAP + len(columns) * step[0]) + GAP, top + len(rows) * step[1] + GAP
    figure = Figure(figsize=size)
    partner = int(prepared.partners[0])
    pixels = Denormalizer.of(prepared.images[:1], prepared.images[[partner]], prepared.mean, prepared.std)
    for number, index in enumerate((0, partner)):
        left = size[0] / 2 + (2 * number - 2) * (ORIGINAL + GAP)
        image = _add_panel(figure, left, ABOVE, ORIGINAL, aspect)
        show_image(
            image, pixels.shown(prepared.images[index]), f"{('first', 'second')[number]}: {prepared.titles[index]}"
        )
        frame(image, (FIRST_COLOR, SECOND_COLOR)[number])
        saliency = _add_panel(figure, left + ORIGINAL + GAP, ABOVE, ORIGINAL, aspect)
        show_saliency(saliency, prepared.saliency[index].float().numpy(), "its saliency")
    for number, mixed in enumerate(mixes):
        row, column = divmod(number, len(columns))
        panel = _add_panel(figure, 2 * GAP + column * step[0], top + row * step[1], MIX, aspect)
        _plot_mix(panel, mixed, pixels, count_moved=any("transport" in key for key in axes))
        panel.set_title(columns[column] if row == 0 else "", weight="bold", size=10)
        panel.set_ylabel(rows[row] if column == 0 else "", weight="bold", size=10)
    text = f"Small masks: orange shows the first image, blue the second, in between both. All with {legend}."
    figure.text(0.5, 0.1 / size[1], text, ha="center", size=8)
    return figure


def _add_panel(figure: Figure, left: float, top: float, width: float, aspect: float) -> Axes:
    """Add axes, placed in inches from the top left corner of the figure."""
    (across, down), height = figure.get_size_inches(), width * aspect
    box = (left / across, 1 - (top + height) / down, width / across, height / down)
    return figure.add_axes(box, xticks=[], yticks=[])


def _plot_mix(axes: Axes, mixed: MixedBatch, pixels: Denormalizer, *, count_moved: bool) -> None:
    """Plot the first mix of a batch with its mask; that no block moved is stated only if `count_moved`."""
    moved = 0 if mixed.plan is None else int(visible_moves(mixed)[1][:, 0].sum())
    count = (
        f", {moved} moved block{'' if moved == 1 else 's'}" if moved or (count_moved and mixed.plan is not None) else ""
    )
    retained = float(retained_saliency(mixed)[:, 0].mean())
    show_image(axes, pixels.shown(mixed.images[0]), "")
    axes.set_xlabel(f"{float(mixed.ratio[0]):.0%} of the first{count},\n{retained:.0%} of the saliency stays", size=8)
    mask = axes.inset_axes(MASK, xticks=[], yticks=[])
    mask.imshow(mixed.mask[0].numpy(), cmap=mask_colormap(), vmin=0, vmax=1, interpolation="nearest", aspect="auto")
