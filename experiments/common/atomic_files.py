"""Writing files so that a reader finds the old one or the new one, whole, whatever stops the program or fills the disk."""

import contextlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.common.errors import UnwritableError

DRAFT = ".part"


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a draft to write to, which takes the place of `path` at the end, in one step; what is no file is written in place.

    Whatever is raised inside leaves the old file and no draft; an OSError becomes an `UnwritableError`. `durable`: the new
    file is on the disk before the old one goes, should the machine fail; costs milliseconds.
    """
    with explained(path):
        if path.exists() and not path.is_file() and not path.is_dir():
            yield path
            return
        target = Path(os.path.realpath(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}{DRAFT}")
        try:
            yield draft
            if durable:
                with draft.open("rb+") as file:
                    os.fsync(file.fileno())
            draft.replace(target)
        except BaseException:
            # On a broken disk this fails as well, and is not what went wrong first.
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Have an OSError that is raised inside become an `UnwritableError` that names the file, in one sentence."""
    try:
        yield
    except OSError as error:
        message = UnwritableError(f"{path} cannot be written: {error.strerror or error}")
        message.errno = error.errno
        raise message from error


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write bytes, see `replacing`."""
    with replacing(path) as draft, draft.open("wb") as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8, with its line ends as they are, see `replacing`."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: Any, **options: Any) -> None:
    """Write JSON, indented by two unless the options of `json.dumps` say otherwise, see `replacing`."""
    write_text(path, json.dumps(content, **{"indent": 2, **options}) + "\n")


def save_figure(figure: Any, path: Path, *, dpi: float) -> None:
    """Save a matplotlib figure in the format that the ending of the path names, see `replacing`."""
    with replacing(path) as draft:
        figure.savefig(draft, dpi=dpi, format=path.suffix.removeprefix(".") or "png")


def remove_drafts(folder: Path) -> None:
    """Remove what writers that were killed have left in a folder. Only for the one process that writes there."""
    for draft in folder.glob(f".*{DRAFT}"):
        with contextlib.suppress(OSError):
            draft.unlink()
