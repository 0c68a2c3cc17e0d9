"""Figures and pictures as parts of a page: SVG without ids that collide, PNG as data URIs."""

import base64
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image, UnidentifiedImageError

from experiments.common.errors import UserError

REFERENCE = re.compile(r"url\(#([^)]+)\)")
# Wider than a page is shown, so that nothing becomes illegible.
SHRUNK_WIDTH, WEBP_QUALITY = 1100, 85
# Wider ones are not squeezed into a phone's width, where they would be illegible, but can be moved sideways.
BROAD_INCHES, BROAD_PIXELS = 7.0, 900


@contextmanager
def figure_style() -> Iterator[None]:
    """Settings of matplotlib under which figures for a page must be drawn and embedded.

    Text stays text: it is small and can be searched. No text is taken for a formula, as class names may hold any sign.
    """
    settings: Any = {
        "svg.fonttype": "none",
        "text.parse_math": False,
        "font.family": ["sans-serif"],
        # What the text is measured with; a reader who does not have it sees a sans-serif font, most of which are narrower.
        "font.sans-serif": ["DejaVu Sans"],
        # Instead of a random number: the same run gives the same page.
        "svg.hashsalt": "report",
    }
    with mpl.rc_context(settings):
        yield


class Embedder:
    """Makes figures and pictures elements of one page, within a budget for pictures.

    Args:
        budget: Bytes that all pictures together may take, before base64 makes them a third longer.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._numbers = count(1)

    def svg(self, figure: Figure, label: str) -> Markup:
        """An `svg` element that scales with the page; `label` says what it shows to those who cannot see it."""
        file = io.StringIO()
        # Without metadata, which would name sites of other people.
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
        root = ElementTree.fromstring(file.getvalue())
        _strip_namespaces(root)
        _rename_ids(root, f"f{next(self._numbers)}-")
        for parent in list(root.iter()):
            for child in list(parent):
                # Matplotlib's own style sheet would hold for the whole page; the page's has the same rule for figures.
                if child.tag in ("metadata", "style"):
                    parent.remove(child)
        for size in ("width", "height", "version"):
            root.attrib.pop(size, None)
        root.attrib |= {"role": "img", "aria-label": label, "style": f"max-width:{figure.get_figwidth():g}in"}
        if is_broad(figure):
            root.attrib["class"] = "broad"
        # ElementTree escapes all text and all attributes.
        return Markup(ElementTree.tostring(root, encoding="unicode"))

    def picture(self, path: Path, label: str, *, shrink: bool = False) -> Markup | None:
        """An `img` element of a PNG file; None: the budget is used up.

        Args:
            path: The file.
            label: What it shows, for those who cannot see it.
            shrink: Whether a wide picture is made smaller, at some cost in detail.

        Raises:
            UserError: If it is no picture.
        """
        try:
            content = path.read_bytes()
            with Image.open(io.BytesIO(content)) as image:
                width, height = image.size
                kind = image.get_format_mimetype() or "image/png"
                if shrink and width > SHRUNK_WIDTH:
                    height, width = round(height * SHRUNK_WIDTH / width), SHRUNK_WIDTH
                    content, kind = _as_webp(image.resize((width, height), Image.Resampling.LANCZOS)), "image/webp"
        except (OSError, UnidentifiedImageError, SyntaxError) as error:
            raise UserError(f"{path} is not a whole picture ({error}); remove it for a report without it") from error
        if len(content) > self.budget:
            return None
        self.budget -= len(content)
        data = base64.b64encode(content).decode()
        return Markup('<img src="data:{};base64,{}" alt="{}" width="{}" height="{}" class="{}">').format(
            kind, data, label, width, height, "broad" if width > BROAD_PIXELS else "narrow"
        )


def is_broad(figure: Figure) -> bool:
    """Whether a figure needs a line of the page for itself."""
    return figure.get_figwidth() > BROAD_INCHES


def _as_webp(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.convert("RGB").save(file, "WEBP", quality=WEBP_QUALITY)
    return file.getvalue()


def _strip_namespaces(root: ElementTree.Element) -> None:
    """In HTML an `svg` element needs none."""
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = {key.rpartition("}")[2]: value for key, value in element.attrib.items()}


def _rename_ids(root: ElementTree.Element, prefix: str) -> None:
    """Put the prefix before all ids that are referred to, and drop the others."""
    used = set()
    for element in root.iter():
        for key, value in element.attrib.items():
            used |= set(REFERENCE.findall(value))
            if key == "href" and value.startswith("#"):
                used.add(value[1:])
    for element in root.iter():
        if element.attrib.get("id") not in used:
            element.attrib.pop("id", None)
        for key, value in element.attrib.items():
            if key == "id":
                element.attrib[key] = prefix + value
            elif key == "href" and value.startswith("#"):
                element.attrib[key] = f"#{prefix}{value[1:]}"
            else:
                element.attrib[key] = REFERENCE.sub(rf"url(#{prefix}\1)", value)
