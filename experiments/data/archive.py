"""Read files of a data set from a folder or straight from a zip, so that nothing has to be extracted or moved."""

import os
import re
import zipfile
import zlib
from abc import ABC, abstractmethod
from pathlib import Path, PurePosixPath

from experiments.data.errors import DatasetError
from experiments.data.listing import is_leftover, list_files, warn_of_broken

# Of one file in a zip, unpacked: more than any image, less than what memory could not hold.
MAX_MEMBER_BYTES = 2**29
ENCRYPTED = 0x1
AGAIN = "remove it and download it again"
# What a broken zip makes the reader stumble on; not RuntimeError, by which torch tells of lost loader processes.
ZIP_ERRORS = (
    OSError,
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    EOFError,
    RuntimeError,
    ValueError,
    LookupError,
)


class FileStore(ABC):
    """A read-only tree of files, addressed by relative paths with forward slashes."""

    @abstractmethod
    def describe(self, name: str) -> str:
        """What a file is called in messages: its path, in a zip with the archive."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Content of a file.

        Raises:
            DatasetError: If it is not there or cannot be read.
        """

    @abstractmethod
    def list_files(self, folder: str, suffix: str) -> list[str]:
        """Sorted paths of the files below `folder` that end in `suffix`, whatever the case; without hidden ones."""

    def read_text(self, name: str) -> str:
        """Content of a text file.

        Raises:
            DatasetError: If it is not there, cannot be read, or is no text.
        """
        try:
            return self.read(name).decode()
        except UnicodeDecodeError as error:
            raise DatasetError(f"{self.describe(name)} is no text ({error}); download the data set again") from error


class FolderStore(FileStore):
    """Files below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def describe(self, name: str) -> str:
        """Its path."""
        return str(self.root / name)

    def read(self, name: str) -> bytes:
        """Content of a file."""
        try:
            return (self.root / name).read_bytes()
        except OSError as error:
            raise DatasetError(
                f"{self.describe(name)} cannot be read ({error.strerror}); the folder is incomplete or not readable: "
                "extract the archive again"
            ) from error

    def list_files(self, folder: str, suffix: str) -> list[str]:
        """Sorted paths of the files below `folder` that end in `suffix`, whatever the case; without hidden ones."""
        place = self.root / folder
        if not place.is_dir():
            return []
        listing = list_files(place, (suffix.lower(),))
        warn_of_broken(place, listing.broken)
        return sorted(f"{folder}/{file}" for file in listing.files)


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

    def describe(self, name: str) -> str:
        """Its name in the archive, and the archive."""
        return f"{self.prefix}{name} in {self.path}"

    def read(self, name: str) -> bytes:
        """Content of a file."""
        try:
            archive = self._archive()
            member = archive.getinfo(self.prefix + name)
            if member.file_size > MAX_MEMBER_BYTES:
                raise DatasetError(
                    f"{self.describe(name)} unpacks to {member.file_size} bytes, more than the {MAX_MEMBER_BYTES} of any "
                    f"image: no archive of a data set; {AGAIN} from where its authors publish it"
                )
            return archive.read(member)
        except DatasetError:
            raise
        except ZIP_ERRORS as error:
            raise DatasetError(_explain(self.describe(name), error)) from error

    def list_files(self, folder: str, suffix: str) -> list[str]:
        """Sorted paths of the files below `folder` that end in `suffix`, whatever the case; without hidden ones."""
        start = f"{self.prefix}{folder}/"
        names = [
            name.removeprefix(self.prefix)
            for name in self._archive().namelist()
            if name.startswith(start) and name.lower().endswith(suffix.lower())
        ]
        return sorted(name for name in names if not any(is_leftover(part) for part in PurePosixPath(name).parts))

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

    Raises:
        DatasetError: If there is a file that is no whole zip, or a zip that is encrypted, unsafe or without the marker.
    """
    if path.is_dir():
        return FolderStore(path) if (path / marker).is_file() else None
    if not path.is_file():
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except ZIP_ERRORS as error:
        raise DatasetError(_explain_archive(path, error)) from error
    _check_members(path, members)
    hits = [name.filename for name in members if PurePosixPath(name.filename).name == marker]
    if not hits:
        raise DatasetError(
            f"{path} holds no {marker}: another archive, or an incomplete one; name the official one, or {AGAIN}"
        )
    return ZipStore(path, min(hits, key=len).removesuffix(marker))


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
    for member in members:
        name = member.filename
        # Nothing is extracted here, but whoever does so by hand would write outside of the folder.
        if name.startswith(("/", "\\")) or name[1:2] == ":" or (".." in name and ".." in re.split(r"[/\\]", name)):
            raise DatasetError(
                f"{path} holds a file with the unsafe name {name!r}, as no official archive does; do not extract it, {AGAIN} "
                "from where its authors publish it"
            )
        if member.flag_bits & ENCRYPTED:
            raise DatasetError(
                f"{path} is encrypted ({name}), and no password can be given here; extract it by hand, and let data.root "
                "name the folder"
            )


def _explain_archive(path: Path, error: Exception) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        return f"{path} cannot be read ({error.strerror}); look at its permissions and its disk"
    size = path.stat().st_size
    if size == 0:
        return f"{path} is empty; {AGAIN}"
    with path.open("rb") as file:
        begins_as_zip = file.read(2) == b"PK"
    if begins_as_zip:
        return f"{path} is no whole zip ({size} bytes): its download was cut off or it is damaged; {AGAIN}"
    return f"{path} is no zip, although it has the place of one; name the official zip, or the folder extracted from it"


def _explain(described: str, error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"{described}: there is no such file in the archive, which is incomplete; {AGAIN}"
    if isinstance(error, NotImplementedError):
        return f"{described} is packed in a way that Python cannot unpack ({error}); extract the archive by hand"
    return f"{described} cannot be unpacked ({error}): the archive is damaged; {AGAIN}"
