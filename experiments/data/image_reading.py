"""Reading images of any kind as 8-bit gray or color, the one way for all of the study; see docs/study.md for the rules."""

import contextlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from experiments.data.errors import UnreadableImageError

BITS_TAG, PHOTOMETRIC_TAG, WHITE_IS_ZERO = 258, 262, 0


def read_image(path: Path, mode: str = "RGB", *, least_side: int | None = None, stretch: bool = False) -> Image.Image:
    """Read an image: upright as EXIF says, transparent parts white, deep gray values scaled to 8 bits, the first frame.

    With `least_side`, JPEG files may be decoded at a smaller size, with no side below this many pixels. With `stretch`, gray
    values without a known white are stretched from the smallest to the largest, for viewing, instead of being refused. An
    UnreadableImageError if it is no whole image, or its values are ambiguous.
    """
    try:
        with Image.open(path) as opened:
            # Pillow would hand it to Ghostscript.
            if opened.format == "EPS":
                raise ValueError("an EPS drawing")
            if least_side is not None:
                opened.draft(mode, (least_side, least_side))
            opened.load()
            # Broken EXIF does not make the image unreadable.
            with contextlib.suppress(Exception):
                ImageOps.exif_transpose(opened, in_place=True)
            image: Image.Image = opened
            if image.mode.startswith(("I", "F")):
                image = Image.fromarray(_eight_bits(image, stretch))
            elif image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            # A copy in any case: the file is closed.
            return image.convert(mode) if image.mode != mode else image.copy()
    # Decoders raise errors of every kind on a broken file.
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise UnreadableImageError(
            f"{path} cannot be read as an image ({reason}); replace it or take it out"
        ) from error


def _eight_bits(image: Image.Image, stretch: bool) -> np.ndarray:
    """Gray values of more than 8 bits as bytes, 0 black and 255 white."""
    values, black = np.asarray(image).astype(np.float64), 0.0
    tags = getattr(image, "tag_v2", {})
    if image.mode.startswith("I;16"):
        white = 2.0 ** tags.get(BITS_TAG, (16,))[0] - 1
    # Older Pillows open 16 bits as 32; the values of PPM are scaled to 16.
    elif image.mode == "I" and image.format in ("PNG", "PPM"):
        white = 65535.0
    # Not with NaN, which fails both comparisons.
    elif image.mode == "F" and values.min() >= 0 and values.max() <= 1:
        white = 1.0
    elif stretch:
        values = np.nan_to_num(values)
        black, white = values.min(), values.max()
    else:
        raise ValueError(
            f"gray values from {values.min():.6g} to {values.max():.6g}, none of which is known to be white: scale floats "
            "to [0, 1], or save 8 or 16 bits, unsigned"
        )
    shares = (values - black) / ((white - black) or 1.0)
    # Pillow does this for 8 bits alone.
    if tags.get(PHOTOMETRIC_TAG) == WHITE_IS_ZERO:
        shares = 1 - shares
    return np.round(255 * shares).astype(np.uint8)
