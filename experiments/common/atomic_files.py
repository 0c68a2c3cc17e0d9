"""Writing files so that a reader finds the old one or the new one, whole, whatever stops the program or fills the disk."""

import contextlib
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from experiments.common.errors import UnwritableError

DRAFT = ".part"


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a path to write a new version of `path` to, which takes its place at the end, in one step.

    The draft lies in the same folder under a hidden name that ends in `.part`: writers that go by the ending
    (`Figure.savefig`) must be told the format. Whatever is raised inside leaves the old file as it was and no draft.

    Args:
        path: The file. Its folder is made; a link is followed. What is no regular file (/dev/stdout) is written in place.
        durable: Whether the new file has reached the disk before the old one goes, so that neither is lost when the machine
            fails. Costs some milliseconds.

    Raises:
        UnwritableError: If the file cannot be written.
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
                _flush(draft)
            draft.replace(target)
            if durable:
                # Windows opens no folders, and some network file systems refuse this for them.
                with contextlib.suppress(OSError):
                    _flush(target.parent)
        except BaseException:
            # On a broken disk this fails as well, and is not what went wrong first.
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
            raise


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Have an error of the operating system that is raised inside name the file, in one sentence.

    Raises:
        UnwritableError: Instead of any other OSError.
    """
    try:
        yield
    except OSError as error:
        message = UnwritableError(f"{path} cannot be written: {error.strerror or error}")
        message.errno = error.errno
        raise message from error


def _flush(path: Path) -> None:
    """Have the system write a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8, with its line ends as they are, see `replacing`."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write bytes, see `replacing`."""
    with replacing(path) as draft, draft.open("wb") as file:
        file.write(content)


def write_json(path: Path, content: Any, **options: Any) -> None:
    """Write JSON, indented by two unless the options of `json.dumps` say otherwise, and a line end, see `replacing`."""
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
