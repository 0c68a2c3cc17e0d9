"""Image files of every kind, each with the pixels that it should be read as, made by hand."""

import io
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

RANDOM = np.random.default_rng(0)
# 6 x 8 pixels.
COLOURS = RANDOM.integers(0, 256, (6, 8, 3)).astype(np.uint8)
GREYS = RANDOM.integers(0, 65536, (6, 8)).astype(np.uint16)
GREYS[0, :2] = 0, 65535
ALPHA = RANDOM.integers(0, 256, (6, 8)).astype(np.uint8)
ALPHA[0], ALPHA[1] = 0, 255
PALETTE = np.array([[255, 0, 0], [0, 128, 64], [10, 20, 30]], np.uint8)
PLACES = RANDOM.integers(0, 3, (6, 8)).astype(np.uint8)
ORIENTATION, BITS, PHOTOMETRIC = 0x0112, 258, 262
TURNED = {
    2: COLOURS[:, ::-1], 3: np.rot90(COLOURS, 2), 4: COLOURS[::-1], 5: COLOURS.transpose(1, 0, 2),
    6: np.rot90(COLOURS, -1), 7: np.rot90(COLOURS, 2).transpose(1, 0, 2), 8: np.rot90(COLOURS),
}  # fmt: skip


def gray(values: np.ndarray) -> np.ndarray:
    """The three channels of gray values in [0, 255]."""
    return np.repeat(np.asarray(values, float)[..., None], 3, axis=2)


def on_white(colors: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return share * colors + (1 - share) * 255


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned(orientation: int, kind: str) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return saved(Image.fromarray(COLOURS), kind, exif=exif)


def paletted() -> Image.Image:
    image = Image.new("P", (8, 6))
    image.putdata(PLACES.flatten().tolist())
    image.putpalette(PALETTE.flatten().tolist())
    return image


def sixteen(kind: str, **options: object) -> bytes:
    return saved(Image.fromarray(GREYS), kind, **options)


def twelve_bits() -> bytes:
    """A TIFF of 12 bits a pixel, which Pillow reads and does not write: its two pixels a three bytes by hand."""
    values = (GREYS >> 4).astype(int).reshape(-1, 2)
    packed = np.stack([values[:, 0] >> 4, (values[:, 0] & 15) << 4 | values[:, 1] >> 8, values[:, 1] & 255], axis=1)
    data = packed.astype(np.uint8).tobytes()
    short, long = 3, 4
    tags = [(256, short, 8), (257, short, 6), (BITS, short, 12), (259, short, 1), (PHOTOMETRIC, short, 1), (273, long, 8),
            (277, short, 1), (278, short, 6), (279, long, len(data))]  # fmt: skip
    entries = b"".join(
        np.array([tag, kind], "<u2").tobytes() + np.array([1, value], "<u4").tobytes() for tag, kind, value in tags
    )
    header = b"II*\0" + np.array([8 + len(data)], "<u4").tobytes()
    return header + data + np.array([len(tags)], "<u2").tobytes() + entries + bytes(4)


def deep_png(values: np.ndarray, kind: int) -> bytes:
    """A PNG of 16 bits a channel, (H,W,C), which Pillow reads and does not write; `kind` is PNG's name of the channels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(name + content)
        return len(content).to_bytes(4, "big") + name + content + checksum.to_bytes(4, "big")

    height, width = values.shape[:2]
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([16, kind, 0, 0, 0])
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(values: np.ndarray, **options: object) -> bytes:
    """A TIFF such as microscopes and satellites write."""
    tifffile = pytest.importorskip("tifffile")
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **options)
    return buffer.getvalue()


def floats(values: np.ndarray) -> bytes:
    return saved(Image.fromarray(values.astype(np.float32)), "TIFF")


def ints(values: np.ndarray) -> bytes:
    return saved(Image.fromarray(values.astype(np.int32)), "TIFF")


def pgm_of_16_bits() -> bytes:
    return b"P5 8 6 65535\n" + GREYS.astype(">u2").tobytes()


def frames(kind: str) -> bytes:
    others = [Image.fromarray(255 - COLOURS), Image.new("RGB", (8, 6))]
    return saved(
        Image.fromarray(COLOURS),
        kind,
        save_all=True,
        append_images=others,
        **({"lossless": True} if kind == "WEBP" else {}),
    )


def hidden_colors(mode: str) -> bytes:
    """Colors below a transparency in the mode's own way."""
    if mode == "LA":
        return saved(Image.merge("LA", [Image.fromarray(COLOURS[..., 0]), Image.fromarray(ALPHA)]), "PNG")
    return saved(Image.fromarray(np.dstack([COLOURS, ALPHA])), "PNG")


BITS_OF_ONE = PLACES == 1
CMYK = np.dstack([COLOURS, ALPHA])

# Content, and the pixels (6 or 8, 8 or 6, 3) in [0, 255] to be read.
READABLE: dict[str, tuple[Callable[[], bytes], np.ndarray]] = {
    "rgb": (lambda: saved(Image.fromarray(COLOURS), "PNG"), COLOURS),
    "gray": (lambda: saved(Image.fromarray(COLOURS[..., 0]), "PNG"), gray(COLOURS[..., 0])),
    "one bit": (lambda: saved(Image.fromarray(BITS_OF_ONE), "PNG"), gray(255 * BITS_OF_ONE)),
    "rgba": (lambda: hidden_colors("RGBA"), on_white(COLOURS, ALPHA)),
    "la": (lambda: hidden_colors("LA"), on_white(gray(COLOURS[..., 0]), ALPHA)),
    "palette": (lambda: saved(paletted(), "PNG"), PALETTE[PLACES]),
    "palette, one color transparent": (
        lambda: saved(paletted(), "PNG", transparency=1), on_white(PALETTE[PLACES], 255 * ~BITS_OF_ONE)),
    "palette, alpha for each color": (
        lambda: saved(paletted(), "PNG", transparency=bytes([255, 51, 0])),
        on_white(PALETTE[PLACES], np.array([255, 51, 0])[PLACES])),
    "rgb, one color transparent": (
        lambda: saved(Image.fromarray(PALETTE[PLACES]), "PNG", transparency=(0, 128, 64)),
        on_white(PALETTE[PLACES], 255 * ~BITS_OF_ONE)),
    "gif with a transparent color": (
        lambda: saved(paletted(), "GIF", transparency=1), on_white(PALETTE[PLACES], 255 * ~BITS_OF_ONE)),
    "cmyk": (lambda: saved(Image.fromarray(CMYK, "CMYK"), "TIFF"),
             (255 - CMYK[..., :3].astype(float)) * (255 - CMYK[..., 3:].astype(float)) / 255),
    "16 bits, png": (lambda: sixteen("PNG"), gray(GREYS / 257)),
    "16 bits, tiff": (lambda: sixteen("TIFF"), gray(GREYS / 257)),
    "16 bits, compressed tiff": (lambda: sixteen("TIFF", compression="tiff_lzw"), gray(GREYS / 257)),
    "16 bits, other bytes first": (
        lambda: saved(Image.frombytes("I;16B", (8, 6), GREYS.astype(">u2").tobytes()), "TIFF"), gray(GREYS / 257)),
    "16 bits, white is 0": (lambda: sixteen("TIFF", tiffinfo={PHOTOMETRIC: 0}), gray(255 - GREYS / 257)),
    "16 bits, dark": (lambda: saved(Image.fromarray(PLACES.astype(np.uint16)), "PNG"), gray(0 * PLACES)),
    "16 bits, pgm": (pgm_of_16_bits, gray(GREYS / 257)),
    "12 bits": (twelve_bits, gray((GREYS >> 4) / 4095 * 255)),
    "floats": (lambda: floats(GREYS / 65535), gray(GREYS / 257)),
    "floats, all black": (lambda: floats(0 * GREYS), gray(0 * GREYS)),
    "first frame of a gif": (
        lambda: saved(paletted(), "GIF", save_all=True, append_images=[Image.new("RGB", (8, 6), "blue")]), PALETTE[PLACES]),
    "first frame of a png": (lambda: frames("PNG"), COLOURS),
    "first frame of a webp": (lambda: frames("WEBP"), COLOURS),
    "first page of a tiff": (lambda: frames("TIFF"), COLOURS),
    **{f"exif {turn}, {kind}": ((lambda turn=turn, kind=kind: turned(turn, kind)), pixels)
       for turn, pixels in TURNED.items() for kind in ("PNG", "TIFF")},
}  # fmt: skip


def exif_that_is_broken() -> bytes:
    return saved(Image.fromarray(COLOURS), "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\xff" + b"\xff" * 20)


DEEP = RANDOM.integers(0, 65536, (6, 8, 3)).astype(np.uint16)
DEEP_ALPHA = (ALPHA.astype(np.uint16) * 257)[..., None]
READABLE |= {
    "16 bits a color, png": (lambda: deep_png(DEEP, 2), DEEP / 257),
    "16 bits a color and alpha, png": (lambda: deep_png(np.dstack([DEEP, DEEP_ALPHA]), 6), on_white(DEEP / 257, ALPHA)),
    "16 bits and alpha, png": (
        lambda: deep_png(np.dstack([GREYS, DEEP_ALPHA]), 4), on_white(gray(GREYS / 257), ALPHA)),
    "16 bits a color, tiff": (lambda: tiff(DEEP, photometric="rgb"), DEEP / 257),
}  # fmt: skip
READABLE["exif that is broken"] = (exif_that_is_broken, COLOURS)

PHOTOGRAPH = Image.fromarray(RANDOM.integers(0, 256, (64, 64, 3)).astype(np.uint8))


def cut(content: bytes, share: float) -> bytes:
    return content[: int(share * len(content))]


def bomb() -> bytes:
    """A small file that claims to be of 20000 x 20000 pixels."""
    content = bytearray(saved(Image.new("1", (1, 1)), "PNG"))
    # After the signature: length and type of the header, width and height, and its checksum.
    content[16:24] = np.array([20000, 20000], ">u4").tobytes()
    content[29:33] = np.array([zlib.crc32(content[12:29])], ">u4").tobytes()
    return bytes(content)


# Content, and what the message gives as the reason.
UNREADABLE: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "cannot identify image file"),
    "text": (lambda: b"<html>404 Not Found</html>", "cannot identify image file"),
    "zeros": (lambda: bytes(1000), "cannot identify image file"),
    "truncated jpeg": (lambda: cut(saved(PHOTOGRAPH, "JPEG"), 0.7), "truncated"),
    "truncated png": (lambda: cut(saved(PHOTOGRAPH, "PNG"), 0.7), "truncated"),
    "truncated tiff": (lambda: cut(saved(PHOTOGRAPH, "TIFF"), 0.7), ".+"),
    "truncated webp": (lambda: cut(saved(PHOTOGRAPH, "WEBP"), 0.7), ".+"),
    "truncated gif": (lambda: cut(saved(PHOTOGRAPH, "GIF"), 0.7), ".+"),
    "truncated bmp": (lambda: cut(saved(PHOTOGRAPH, "BMP"), 0.7), "truncated"),
    "damaged png": (lambda: saved(PHOTOGRAPH, "PNG").replace(b"IDAT", b"IXAT"), ".+"),
    "bomb": (bomb, "400000000 pixels"),
    "floats to 255": (lambda: floats(GREYS / 257 + 0.5), r"gray values from 0\.5 to 255\.5.*scale floats to \[0, 1\]"),
    "negative floats": (lambda: floats(GREYS / 65535 - 0.5), r"gray values from -0\.5 to 0\.5"),
    "floats with nan": (lambda: floats(np.where(GREYS[2, 3] == GREYS, np.nan, GREYS / 65535)), "gray values"),
    "32-bit integers": (
        lambda: ints(GREYS.astype(int) * 1000),
        "gray values from 0 to 6.5535e.07, none of which is known",
    ),
    "signed 16 bits": (
        lambda: tiff(GREYS.astype(np.int32).clip(0, 30000).astype(np.int16)),
        "gray values from 0 to 30000",
    ),
    "floats a color": (lambda: tiff(DEEP.astype(np.float32) / 65535, photometric="rgb"), ".+"),
    "floats of 64 bits": (lambda: tiff(GREYS / 65535), "cannot identify image file"),
    "five bands": (
        lambda: tiff(np.dstack([DEEP, DEEP[..., :2]]), photometric="minisblack", planarconfig="contig"),
        ".+",
    ),
    "eps": (lambda: saved(PHOTOGRAPH, "EPS"), "an EPS drawing"),
}


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
