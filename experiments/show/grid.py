"""One pair of pictures mixed for every combination of settings, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.show.options import GridAxis, Settings, option_types
from experiments.show.prepared_images import PreparedImages
from lightning_puzzlemix import MixedBatch, PuzzleMixConfig
from lightning_puzzlemix.monitoring import frame, retained_saliency, show_image, show_saliency, visible_moves
from lightning_puzzlemix.monitoring.palette import FIRST_COLOR, SECOND_COLOR, mask_colormap
from lightning_puzzlemix.normalization import Denormalizer

# In inches: the mixes, the small masks at their right, the originals above, and the space for words.
PANEL, MASK, ORIGINAL = 1.9, 0.55, 1.45
GAP, LINE, HEAD, LABEL, FOOT = 0.16, 0.15, 0.24, 0.3, 0.34
STEEPEST = 2.5


@dataclass(frozen=True)
class _Page:
    """A figure on which things are placed in inches from its top left corner.

    Args:
        figure: The figure.
        slope: Height of every panel for each inch of its width.
    """

    figure: Figure
    slope: float

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in inches."""
        width, height = self.figure.get_size_inches()
        return float(width), float(height)

    def panel(self, left: float, top: float, width: float) -> Axes:
        """Add axes without ticks, as high as the slope says."""
        (across, down), height = self.size, width * self.slope
        box = (left / across, 1 - (top + height) / down, width / across, height / down)
        return self.figure.add_axes(box, xticks=[], yticks=[])

    def write(self, text: str, x: float, y: float, **style: object) -> None:
        """Write a text, centered at x."""
        across, down = self.size
        self.figure.text(x / across, 1 - y / down, text, ha="center", **style)  # type: ignore[arg-type]


def draw_grid(scene: PreparedImages, settings: Settings, axes: Sequence[GridAxis]) -> Figure:
    """Draw the first pair of a scene, mixed for every combination of values.

    Args:
        scene: The pictures.
        settings: All settings that the grid does not vary.
        axes: One setting, for a row of panels, or two, the first for the rows and the second for the columns.

    Returns:
        The figure. Above, both pictures and their saliency; below, each mix with its mask.

    Raises:
        UserError: If a combination of values does not fit.
    """
    columns, rows = axes[-1], None if len(axes) == 1 else axes[0]
    keys = [axis.key for axis in axes]
    combinations = _combine(settings, axes, *scene.images.shape[2:])
    across, down = len(columns.values), len(combinations) // len(columns.values)
    height, width = scene.images.shape[2:]
    # Neither a banner nor a column of pixels may blow up the picture.
    slope = min(STEEPEST, max(1 / STEEPEST, height / width))
    left = GAP + (0 if rows is None else LABEL)
    step_x, step_y = PANEL + MASK + 2 * GAP, PANEL * slope + 2 * LINE + 2 * GAP
    top = GAP + _lines(scene) * LINE + ORIGINAL * slope + 2 * GAP
    size = (max(4 * (ORIGINAL + GAP) + GAP, left + across * step_x), top + HEAD + down * step_y + FOOT)
    page = _Page(Figure(figsize=size), slope)
    pixels = Denormalizer.of(scene.images[:1], scene.images[scene.partners[:1]], scene.viewer.mean, scene.viewer.std)
    _draw_originals(page, scene, pixels)
    for column in range(across):
        page.write(columns.label(column), left + column * step_x + PANEL / 2, top, va="top", weight="bold", size=10)
    if rows is not None:
        for row in range(down):
            middle = top + HEAD + row * step_y + 2 * LINE + PANEL * slope / 2
            page.write(rows.label(row), GAP + LABEL / 3, middle, va="center", weight="bold", size=10, rotation=90)
    for number, each in enumerate(combinations):
        row, column = divmod(number, across)
        place = (left + column * step_x, top + HEAD + row * step_y)
        _draw_mix(page, scene.mix(each), pixels, *place, count_moved=any("transport" in key for key in keys))
    page.write(_legend(settings, keys), size[0] / 2, size[1] - 0.1, va="bottom", size=8)
    return page.figure


def _combine(settings: Settings, axes: Sequence[GridAxis], height: int, width: int) -> list[Settings]:
    """All combinations, row by row; checked before the first is mixed."""
    chosen = product(*(axis.values for axis in axes))
    combinations = [
        settings.changed(**dict(zip((axis.key for axis in axes), values, strict=True))) for values in chosen
    ]
    for each in combinations:
        each.check_blocks(height, width)
    return combinations


def _draw_originals(page: _Page, scene: PreparedImages, pixels: Denormalizer) -> None:
    """Both pictures, named and framed in the color that the masks show them in, each with its saliency."""
    left = (page.size[0] - 4 * (ORIGINAL + GAP) + GAP) / 2
    top = GAP + _lines(scene) * LINE
    both = (("first", 0, FIRST_COLOR), ("second", int(scene.partners[0]), SECOND_COLOR))
    for number, (word, place, color) in enumerate(both):
        image = page.panel(left + 2 * number * (ORIGINAL + GAP), top, ORIGINAL)
        show_image(image, pixels.shown(scene.images[place]), f"{word}: {scene.describe(place)}")
        frame(image, color)
        beside = page.panel(left + (2 * number + 1) * (ORIGINAL + GAP), top, ORIGINAL)
        show_saliency(beside, scene.saliency[place].float().numpy(), "its saliency")


def _lines(scene: PreparedImages) -> int:
    """Lines above an original."""
    return 1 if scene.viewer.net is None else 2


def _draw_mix(
    page: _Page, mixed: MixedBatch, pixels: Denormalizer, left: float, top: float, *, count_moved: bool
) -> None:
    """The first mix of a batch, with its mask in small at its right; that no block moved is said only on demand."""
    stays = float(retained_saliency(mixed)[:, 0].mean())
    title = f"{float(mixed.ratio[0]):.0%} of the first{_count_moved(mixed, count_moved)},\n{stays:.0%} of the saliency stays"
    top += 2 * LINE
    show_image(page.panel(left, top, PANEL), pixels.shown(mixed.images[0]), title)
    mask = page.panel(left + PANEL + GAP / 2, top + (PANEL - MASK) * page.slope, MASK)
    values = mixed.mask[0].numpy()
    mask.imshow(values, cmap=mask_colormap(), vmin=0, vmax=1, interpolation="nearest", aspect="auto")


def _count_moved(mixed: MixedBatch, wanted: bool) -> str:
    if mixed.plan is None:
        return ""
    moved = int(visible_moves(mixed)[1][:, 0].sum())
    return f", {moved} moved block{'' if moved == 1 else 's'}" if moved or wanted else ""


def _legend(settings: Settings, keys: Sequence[str]) -> str:
    """What the colors are, and the settings that the grid does not vary, if they are not the usual ones."""
    usual = PuzzleMixConfig()
    fixed = {"lam": f"lam {settings.lam:g}", "blocks": f"{settings.blocks} x {settings.blocks} blocks"}
    for name in option_types():
        if getattr(settings.config, name) != getattr(usual, name):
            fixed[name] = f"{name} {str(getattr(settings.config, name)).lower()}"
    common = ", ".join(text for key, text in fixed.items() if key not in keys)
    told = f" All with {common}." if common else ""
    return f"Small masks: orange shows the first picture, blue the second, in between both.{told}"
