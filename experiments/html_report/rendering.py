"""From parts to HTML."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from experiments.html_report.parts import Page

TEMPLATES = Path(__file__).parent / "templates"


def render(page: Page) -> str:
    """The page as one text that refers to nothing outside itself; all text in it is escaped."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = (Markup((TEMPLATES / name).read_text()) for name in ("page.css", "page.js"))
    return environment.get_template("page.html.j2").render(page=page, style=style, script=script)
