"""What the tests of the documentation read from it: blocks of code, tables, commands."""

import re
import shlex
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
DOCS = REPOSITORY / "docs"
PAGES = [REPOSITORY / "README.md", *sorted(DOCS.glob("*.md"))]
# The study is not installed, it is run from the repository's root.
if str(REPOSITORY) not in sys.path:
    sys.path.insert(0, str(REPOSITORY))


def blocks(page: Path, language: str) -> list[str]:
    """Code of one language, in the order of the page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    """Every command of the study that the page shows in a block for the shell."""
    lines = [line for block in blocks(page, "bash") for line in block.splitlines()]
    return [line for line in lines if line.startswith("python -m experiments")]


def words(command: str) -> tuple[str, list[str]]:
    """The module of a command, and its arguments as a shell splits them."""
    _, _, module, *arguments = shlex.split(command, comments=True)
    return module, arguments


def table_rows(page: Path, section: str | None = None) -> list[list[str]]:
    """Cells of all tables of a page, or of one section, without their heads."""
    text = page.read_text()
    if section is not None:
        text = re.search(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", text, flags=re.MULTILINE | re.DOTALL)[1]  # type: ignore[index]
    found = []
    for table in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        for line in table.splitlines()[2:]:
            found.append([cell.strip() for cell in line.strip().strip("|").split("|")])
    return found


def code_in(cell: str) -> list[str]:
    """What a cell of a table shows as code."""
    return re.findall(r"`([^`]+)`", cell)


def normalized(text: str) -> str:
    """Text on one line."""
    return " ".join(text.split())
