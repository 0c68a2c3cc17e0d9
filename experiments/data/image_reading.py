"""Reading images of any kind as 8-bit gray or color, or refusing them by name: the one way for all of the study.

Images are turned upright as EXIF says, transparent parts are white, palettes are looked up, CMYK is converted without its
color profile, of several frames the first is taken. Gray values of more than 8 bits are scaled by the range of their type,
floats by [0, 1].
"""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from experiments.data.errors import UnreadableImageError

# Whatever a broken file makes the decoders stumble on; not RuntimeError, by which torch tells of lost loader processes.
DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError, AttributeError, NotImplementedError,
    struct.error, zlib.error, Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip
SIXTEEN_BITS = 65535
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
BITS_TAG, PHOTOMETRIC_TAG, WHITE_IS_ZERO = 258, 262, 0


def read_image(
    source: Path | bytes, mode: str = "RGB", *, name: str = "", least_side: int | None = None, stretch: bool = False
) -> Image.Image:
    """Read an image.

    Args:
        source: The file or its content.
        mode: "RGB" or "L".
        name: What the image is called in messages; left out: the path.
        least_side: JPEG files may be decoded smaller, with no side below so many pixels; None: in full.
        stretch: Whether gray values that have no white of their own are stretched from the smallest to the largest, to be
            looked at, instead of being refused.

    Raises:
        UnreadableImageError: If it is no whole image, or its values can be read in more than one way.
    """
    named = name or str(source)
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as opened:
            # Pillow would hand it to Ghostscript.
            if opened.format == "EPS":
                raise ValueError("an EPS drawing")
            if least_side is not None:
                opened.draft(mode, (least_side, least_side))
            opened.load()
            return _plain(opened, mode, stretch)
    except DECODER_ERRORS as error:
        raise UnreadableImageError(
            f"{named} cannot be read as an image ({_reason(error, source)}); replace it or take it out"
        ) from error


def _reason(error: BaseException, source: Path | bytes) -> str:
    if isinstance(error, UnidentifiedImageError):
        empty = len(source) == 0 if isinstance(source, bytes) else source.stat().st_size == 0
        return "the file is empty" if empty else "not in an image format that Pillow reads"
    # Without the path once more.
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(reason.split()) or type(error).__name__


def _plain(image: Image.Image, mode: str, stretch: bool) -> Image.Image:
    """A loaded image upright, in 8 bits and without transparency."""
    orientation = _orientation(image)
    plain = image
    if image.mode.startswith(("I", "F")):
        plain = Image.fromarray(_eight_bits(image, stretch))
    elif image.has_transparency_data:
        plain = image.convert("RGBA")
        plain = Image.alpha_composite(Image.new("RGBA", plain.size, "white"), plain)
    plain = plain.convert(mode)
    return plain.transpose(TURNS[orientation]) if orientation in TURNS else plain


def _orientation(image: Image.Image) -> Any:
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except DECODER_ERRORS:
        # The picture itself has been read.
        return None


def _eight_bits(image: Image.Image, stretch: bool) -> np.ndarray:
    """Gray values of more than 8 bits as bytes, 0 black and 255 white."""
    values = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    white = _white(image, values, tags)
    if white is None and not stretch:
        raise ValueError(_ambiguity(image, values))
    shares = np.nan_to_num(values.astype(np.float64))
    low, high = (shares.min(), shares.max()) if white is None else (0, white)
    shares = (shares - low) / ((high - low) or 1)
    # Pillow does this for 8 bits alone.
    if tags.get(PHOTOMETRIC_TAG) == WHITE_IS_ZERO:
        shares = 1 - shares
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        shares = np.where(values == clear, 1.0, shares)
    return np.round(255 * shares).astype(np.uint8)


def _white(image: Image.Image, values: np.ndarray, tags: Any) -> float | None:
    """The value of white, black being 0; None: the file does not tell."""
    if image.mode.startswith("I;16"):
        return float(2 ** int(tags.get(BITS_TAG, (16,))[0]) - 1)
    # Older Pillows open 16 bits as 32; the values of PPM are scaled to 16.
    if image.mode == "I" and image.format in ("PNG", "PPM"):
        return float(SIXTEEN_BITS)
    whole = image.mode == "F" and bool(np.isfinite(values).all())
    return 1.0 if whole and values.min() >= 0 and values.max() <= 1 else None


def _ambiguity(image: Image.Image, values: np.ndarray) -> str:
    found = f"from {values.min():.6g} to {values.max():.6g}"
    if image.mode == "F":
        return f"float values {found}, where 0 is black and 1 is white: scale them to [0, 1], or save 8 or 16 bits"
    return f"integers {found}, of 32 bits or signed, none of which is known to be white: save 8 or 16 bits, unsigned"
