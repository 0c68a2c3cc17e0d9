"""Read files of a data set from a folder or straight from a zip, so that nothing has to be extracted or moved."""

import os
import zipfile
from abc import ABC, abstractmethod
from pathlib import Path


class FileStore(ABC):
    """A read-only tree of files, addressed by relative paths with forward slashes."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Content of a file."""

    @abstractmethod
    def list_files(self, folder: str, suffix: str) -> list[str]:
        """Sorted paths of the files below `folder` that end in `suffix`, whatever the case."""


class FolderStore(FileStore):
    """Files below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, name: str) -> bytes:
        """Content of a file."""
        return (self.root / name).read_bytes()

    def list_files(self, folder: str, suffix: str) -> list[str]:
        """Sorted paths of the files below `folder` that end in `suffix`, whatever the case."""
        return sorted(
            Path(parent, file).relative_to(self.root).as_posix()
            for parent, _, files in os.walk(self.root / folder)
            for file in files
            if file.lower().endswith(suffix.lower())
        )


class ZipStore(FileStore):
    """Files below a folder inside a zip; usable from forked and spawned loader processes.

    Args:
        path: The archive.
        prefix: The folder inside it, "" or ending in a slash.
    """

    def __init__(self, path: Path, prefix: str) -> None:
        self.path = path
        self.prefix = prefix
        self._handle: tuple[int, zipfile.ZipFile] | None = None

    def read(self, name: str) -> bytes:
        """Content of a file."""
        return self._archive().read(self.prefix + name)

    def list_files(self, folder: str, suffix: str) -> list[str]:
        """Sorted paths of the files below `folder` that end in `suffix`, whatever the case."""
        start = f"{self.prefix}{folder}/"
        return sorted(
            name.removeprefix(self.prefix)
            for name in self._archive().namelist()
            if name.startswith(start) and name.lower().endswith(suffix.lower())
        )

    def _archive(self) -> zipfile.ZipFile:
        # One handle a process: processes that share a file descriptor move each other's reading position.
        if self._handle is None or self._handle[0] != os.getpid():
            self._handle = (os.getpid(), zipfile.ZipFile(self.path))
        return self._handle[1]

    def __getstate__(self) -> dict[str, object]:
        """Leave the open handle behind: it cannot be pickled."""
        return {**self.__dict__, "_handle": None}


def open_store(path: Path, marker: str) -> FileStore | None:
    """Open the folder or zip at `path` whose data set root holds the file `marker`; None: there is no such thing.

    In a zip the root may be any folder, in practice the top one.
    """
    if path.is_dir():
        return FolderStore(path) if (path / marker).is_file() else None
    if not path.is_file() or not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        hits = [name for name in archive.namelist() if name == marker or name.endswith(f"/{marker}")]
    return ZipStore(path, min(hits, key=len).removesuffix(marker)) if hits else None
