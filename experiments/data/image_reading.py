"""Reading images of any kind as 8-bit gray or color, the one way for all of the study; see docs/study.md for the rules."""

import contextlib
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from experiments.data.errors import UnreadableImageError

# What decoders raise on a broken file; not RuntimeError, by which torch reports lost loader processes.
DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError, AttributeError, NotImplementedError,
    struct.error, zlib.error, Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip
BITS_TAG, PHOTOMETRIC_TAG, WHITE_IS_ZERO = 258, 262, 0


def read_image(
    source: Path | bytes, mode: str = "RGB", *, name: str = "", least_side: int | None = None, stretch: bool = False
) -> Image.Image:
    """Read an image: upright as EXIF says, transparent parts white, deep gray values scaled to 8 bits, the first frame.

    Args:
        source: The file or its content.
        mode: "RGB" or "L".
        name: Name of the image in messages; left out: the path.
        least_side: JPEG files may be decoded at a smaller size, with no side below this many pixels; None: in full.
        stretch: Whether gray values without a known white are stretched from the smallest to the largest, for viewing,
            instead of being refused.

    Raises:
        UnreadableImageError: If it is no whole image, or its values are ambiguous.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as opened:
            # Pillow would hand it to Ghostscript.
            if opened.format == "EPS":
                raise ValueError("an EPS drawing")
            if least_side is not None:
                opened.draft(mode, (least_side, least_side))
            opened.load()
            # Broken EXIF does not make the image unreadable.
            with contextlib.suppress(*DECODER_ERRORS):
                ImageOps.exif_transpose(opened, in_place=True)
            image: Image.Image = opened
            if image.mode.startswith(("I", "F")):
                image = Image.fromarray(_eight_bits(image, stretch))
            elif image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            # A copy in any case: the file is closed.
            return image.convert(mode) if image.mode != mode else image.copy()
    except DECODER_ERRORS as error:
        reason = _reason(error, source)
        raise UnreadableImageError(
            f"{name or source} cannot be read as an image ({reason}); replace it or take it out"
        ) from error


def _reason(error: BaseException, source: Path | bytes) -> str:
    if isinstance(error, UnidentifiedImageError):
        empty = len(source) == 0 if isinstance(source, bytes) else source.stat().st_size == 0
        return "the file is empty" if empty else "not in an image format that Pillow reads"
    # Without the path once more.
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(reason.split()) or type(error).__name__


def _eight_bits(image: Image.Image, stretch: bool) -> np.ndarray:
    """Gray values of more than 8 bits as bytes, 0 black and 255 white."""
    values = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    white = _white(image, values, tags)
    if white is None and not stretch:
        kind = "float values" if image.mode == "F" else "integers of 32 bits or signed"
        raise ValueError(
            f"{kind} from {values.min():.6g} to {values.max():.6g}, none of which is known to be white: scale floats to "
            "[0, 1], or save 8 or 16 bits, unsigned"
        )
    shares = np.nan_to_num(values.astype(np.float64))
    low, high = (shares.min(), shares.max()) if white is None else (0, white)
    shares = (shares - low) / ((high - low) or 1)
    # Pillow does this for 8 bits alone.
    if tags.get(PHOTOMETRIC_TAG) == WHITE_IS_ZERO:
        shares = 1 - shares
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        shares = np.where(values == transparent, 1.0, shares)
    return np.round(255 * shares).astype(np.uint8)


def _white(image: Image.Image, values: np.ndarray, tags: Any) -> float | None:
    """The value of white, black being 0; None: the file does not tell."""
    if image.mode.startswith("I;16"):
        return float(2 ** int(tags.get(BITS_TAG, (16,))[0]) - 1)
    # Older Pillows open 16 bits as 32; the values of PPM are scaled to 16.
    if image.mode == "I" and image.format in ("PNG", "PPM"):
        return 65535.0
    # Not with NaN, which fails both comparisons.
    return 1.0 if image.mode == "F" and values.min() >= 0 and values.max() <= 1 else None
