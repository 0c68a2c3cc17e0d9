"""Writing files so that a reader finds the old one or the new one, whole, whatever stops the program or fills the disk."""

import contextlib
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from experiments.common.errors import UserError

DRAFT = ".part"


class UnwritableError(UserError):
    """A file cannot be written: the disk is full, the folder is read-only; the message names the file and the reason."""


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a path to write a new version of `path` to, which takes its place at the end, in one step.

    The draft lies in the same folder and thus in the same file system, under a hidden name that ends in `.part`: writers
    that go by the ending (`Figure.savefig`) must be told the format. Whatever is raised inside leaves the old file as it was
    and no draft.

    Args:
        path: The file. Its folder is made; a link is followed. What is no regular file (/dev/stdout) is written in place.
        durable: Whether the new file has reached the disk before the old one goes, so that neither is lost when the machine
            dies. Costs some milliseconds.

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
    except UnwritableError:
        raise
    except OSError as error:
        sentence = UnwritableError(f"{path} cannot be written: {error.strerror or error}")
        sentence.errno = error.errno
        raise sentence from error


def _flush(path: Path) -> None:
    """Have the system write a file, or the names in a folder, to the disk."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        # Windows opens no folders.
        if path.is_dir():
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError:
        # Some network file systems refuse it for folders.
        if not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8, with its line ends as they are.

    Raises:
        UnwritableError: If the file cannot be written; an old one is then left as it was.
    """
    with replacing(path) as draft, draft.open("w", encoding="utf-8", newline="") as file:
        file.write(text)


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write bytes.

    Raises:
        UnwritableError: If the file cannot be written; an old one is then left as it was.
    """
    with replacing(path) as draft, draft.open("wb") as file:
        file.write(content)


def write_json(path: Path, content: Any, **options: Any) -> None:
    """Write JSON, indented by two unless the options of `json.dumps` say otherwise, and a line end.

    Raises:
        UnwritableError: If the file cannot be written; an old one is then left as it was.
    """
    write_text(path, json.dumps(content, **{"indent": 2, **options}) + "\n")


def save_figure(figure: Any, path: Path, *, dpi: float) -> None:
    """Draw a matplotlib figure into a file, in the format that its ending names.

    Raises:
        UnwritableError: If the file cannot be written; an old one is then left as it was.
    """
    with replacing(path) as draft:
        figure.savefig(draft, dpi=dpi, format=path.suffix.removeprefix(".") or "png")


def remove_drafts(folder: Path) -> None:
    """Remove what writers that were killed have left in a folder. Only for the one process that writes there."""
    for draft in folder.glob(f".*{DRAFT}"):
        with contextlib.suppress(OSError):
            draft.unlink()
