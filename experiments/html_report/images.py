"""Plots and image files as data URIs."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from PIL import Image as PILImage

from experiments.common import UserError, short

# Settings of matplotlib for all plots of a page. Text stays text, which the reader's fonts show, and no text is taken for a
# formula, as class names may hold any character. The same plot gives the same file.
PLOT_STYLE: dict[str, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "report", "text.parse_math": False, "font.sans-serif": ["DejaVu Sans"],
}  # fmt: skip
SHRUNK_WIDTH, WEBP_QUALITY = 1100, 85


class Image(NamedTuple):
    """A data URI, and the width in CSS pixels."""

    source: str
    caption: str
    width: int


def embed_figure(figure: Figure, caption: str) -> Image:
    """A plot as SVG, which has ids of its own within `img`."""
    file = io.BytesIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(file, format="svg", transparent=True, bbox_inches="tight", metadata=metadata)
    return Image(_data_uri("image/svg+xml", file.getvalue()), caption, round(96 * figure.get_figwidth()))


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


class ImageFiles:
    """Embeds image files, up to `budget` bytes in all, which base64 makes a third more."""

    def __init__(self, budget: int) -> None:
        self.budget = budget

    def embed(self, files: Sequence[tuple[Path, str]], *, shrink: bool = False) -> tuple[list[Image], str]:
        """Images of the files with their captions, and a note on those that the page has no room for.

        Raises:
            UserError: If a file is no image.
        """
        images: list[Image] = []
        for path, caption in files:
            content, kind, width = _read(path, shrink=shrink)
            if len(content) > self.budget:
                left = len(files) - len(images)
                return images, f"{left} more images would make this page too large; see {short(path.parent)}."
            self.budget -= len(content)
            images.append(Image(_data_uri(kind, content), caption, width))
        return images, ""


def _read(path: Path, *, shrink: bool) -> tuple[bytes, str, int]:
    """Content, media type and width of an image file; wide ones may be made smaller, with some loss."""
    try:
        content = path.read_bytes()
        with PILImage.open(io.BytesIO(content)) as image:
            if not shrink or image.width <= SHRUNK_WIDTH:
                return content, image.get_format_mimetype() or "image/png", image.width
            image.thumbnail((SHRUNK_WIDTH, image.height))
            file = io.BytesIO()
            image.convert("RGB").save(file, "WEBP", quality=WEBP_QUALITY)
            return file.getvalue(), "image/webp", image.width
    except (OSError, SyntaxError) as error:
        raise UserError(f"{path} is not a whole image ({error}); remove it for a report without it") from error
