"""The colors of every plot, of the plugin and of the study: told apart with any color vision, most of them also in gray."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.colors import Colormap

# Of a mask: these differ in lightness as well as in hue.
FIRST_COLOR, SECOND_COLOR = "#FFA62B", "#0B4F8A"
# Darker, since it is drawn on a pale image.
FIRST_ARROW_COLOR = "#C25E00"
# Colors of Okabe and Ito, for lines and bars.
BLUE, ORANGE, GREEN, PINK, AMBER, SKY, BLACK = SERIES = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000",
)  # fmt: skip
GRAY, GRID_COLOR, MISSING_COLOR = "#7F7F7F", "#DDDDDD", "#BBBBBB"
# Matplotlib's names of color maps that grow evenly in lightness.
SALIENCY_COLORMAP, MATRIX_COLORMAP = "magma", "cividis"


def mask_colormap() -> Colormap:
    """Return the color map of masks: 1, the first image, is orange and light, 0, the second, blue and dark."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("mix", [SECOND_COLOR, "#B9AFA6", FIRST_COLOR])
