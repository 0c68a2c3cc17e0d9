"""What a page is made of; the template knows how each part looks."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from markupsafe import Markup
from rich.table import Table as RichTable
from rich.text import Text as RichText


@dataclass(frozen=True)
class Text:
    """A paragraph; as a warning it stands out."""

    kind: ClassVar[str] = "text"
    text: str
    warning: bool = False


@dataclass(frozen=True)
class Code:
    """Text to be copied, under a line that says what it is."""

    kind: ClassVar[str] = "code"
    label: str
    text: str


@dataclass(frozen=True)
class Link:
    """A cell that leads to a place on the page."""

    text: str
    anchor: str


@dataclass(frozen=True)
class Table:
    """A table; the first column names the row.

    Args:
        caption: What it holds.
        heads: A heading for each column; empty: none are shown.
        rows: Cells, as they are shown.
        numeric: Columns from this one on hold numbers.
        sortable: Whether a click on a heading may sort the rows.
    """

    kind: ClassVar[str] = "table"
    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str | Link]]
    numeric: int = 1
    sortable: bool = False


@dataclass(frozen=True)
class Drawing:
    """A figure.

    Args:
        markup: An `svg` or `img` element that names itself for those who cannot see it.
        caption: What it shows.
    """

    markup: Markup
    caption: str


@dataclass(frozen=True)
class Drawings:
    """Figures, side by side where there is room for it; `wide` ones below each other."""

    kind: ClassVar[str] = "drawings"
    drawings: Sequence[Drawing]
    wide: bool = False


@dataclass(frozen=True)
class Folded:
    """Parts behind a line that opens them."""

    kind: ClassVar[str] = "folded"
    title: str
    parts: Sequence["Part"]
    anchor: str = ""


Part = Text | Code | Table | Drawings | Folded


@dataclass(frozen=True)
class Section:
    """A chapter, which the table of contents names."""

    title: str
    parts: Sequence[Part]

    @property
    def anchor(self) -> str:
        """Where links lead to."""
        return re.sub(r"\W+", "-", self.title.lower()).strip("-")


@dataclass(frozen=True)
class Page:
    """A whole page; `lead` stands above its chapters."""

    title: str
    lead: Sequence[Part]
    sections: Sequence[Section]


def from_rich(table: RichTable, *, caption: str | None = None) -> Table:
    """A table that was made for the terminal, with the same words and numbers; a row that is indented there stays so."""
    heads = [_plain(column.header) for column in table.columns] if table.show_header else []
    columns = [[_plain(cell) for cell in column.cells] for column in table.columns]
    rows = list(zip(*columns, strict=True))
    return Table(_plain(table.title or "") if caption is None else caption, heads, rows)


def _plain(cell: object) -> str:
    return cell.plain if isinstance(cell, RichText) else str(cell)
