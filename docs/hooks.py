r"""Hooks of mkdocs: formulas, and tables generated from the files that they describe.

A page holds LaTeX between dollars, ``$m \in [0, 1]$`` or ``$$...$$`` for a formula by itself. It becomes MathML, which
browsers render themselves: nothing is loaded for it. A line such as ``<!-- options: conf/data -->`` is replaced by the
result of the function of that name in ``docs/generated.py`` for the path.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element, SubElement

import generated
from latex2mathml.converter import convert
from markdown import Markdown
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor
from markdown.util import AtomicString

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig

_ROOT = Path(__file__).resolve().parents[1]
_MARK = re.compile(r"^<!-- (\w+): (\S+) -->$", re.MULTILINE)
# A dollar inside, or next to a blank, is an amount of money or a shell variable.
_DISPLAYED = r"\$\$([^$]+)\$\$"
_INLINE = r"\$(?!\s)([^$]+?)(?<!\s)\$"
# References in docstrings.
_ROLE = r":(?:class|func|meth|mod):`~?([\w.]+)`"
_PACKAGE = "lightning_puzzlemix"
_PRIORITY_OF_CODE = 190
# Behind code spans, which keep their dollars, and before backslashes are taken for escapes (180).
_PRIORITY = 185


class _Formula(InlineProcessor):
    def __init__(self, pattern: str, md: Markdown, display: str) -> None:
        super().__init__(pattern, md)
        self.display = display

    def handleMatch(self, match: re.Match[str], data: str) -> tuple[str | Element, int, int]:
        formula = convert(" ".join(match.group(1).split()), display=self.display)
        return self.md.htmlStash.store(formula), match.start(0), match.end(0)


class _Role(InlineProcessor):
    def handleMatch(self, match: re.Match[str], data: str) -> tuple[Element, int, int]:
        name = match.group(1).removeprefix(f"{_PACKAGE}.")
        # A link where the API page has the name, else the name alone.
        link = Element("autoref", {"identifier": f"{_PACKAGE}.{name}", "optional": ""})
        SubElement(link, "code").text = AtomicString(name)
        return link, match.start(0), match.end(0)


class PageExtension(Extension):
    """Formulas in LaTeX, and the roles of docstrings such as ``:class:`PuzzleMix```."""

    def extendMarkdown(self, md: Markdown) -> None:
        """Add the patterns."""
        md.inlinePatterns.register(_Role(_ROLE, md), "role", _PRIORITY_OF_CODE + 1)
        md.inlinePatterns.register(_Formula(_DISPLAYED, md, "block"), "displayed_formula", _PRIORITY + 1)
        md.inlinePatterns.register(_Formula(_INLINE, md, "inline"), "inline_formula", _PRIORITY)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add formulas and roles to the Markdown of the pages."""
    config.markdown_extensions.append(PageExtension())
    return config


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the marks by generated tables."""

    def make(match: re.Match[str]) -> str:
        kind, path = match.groups()
        maker = generated.MAKERS.get(kind)
        if maker is None:
            raise ValueError(f"<!-- {kind}: {path} --> names no kind of table: use one of {sorted(generated.MAKERS)}")
        return maker(_ROOT / path)

    return _MARK.sub(make, markdown)


def on_serve(server: Any, **_: Any) -> Any:
    """Rebuild when a source file of the tables changes."""
    for folder in ("conf", "lightning_puzzlemix", "experiments"):
        server.watch(str(_ROOT / folder))
    return server
