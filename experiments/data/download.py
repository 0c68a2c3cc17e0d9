"""Download an archive once, even if several processes want it at the same time: verified, resumed after an interruption."""

import logging
import os
import shutil
import tarfile
import time
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

from filelock import FileLock, Timeout
from rich import filesize, get_console
from rich.progress import DownloadColumn, Progress, TransferSpeedColumn
from torchvision.datasets.utils import calculate_md5, check_integrity

from experiments.data.errors import ELSEWHERE, DownloadError

CHUNK = 1 << 16
TIMEOUT_SECONDS = 30.0
# Official servers break connections. Reconnecting ends after MAX_IDLE connections in a row that bring nothing.
MAX_IDLE = 3
RETRY_SECONDS = 2.0
LOG_EVERY_SECONDS = 15.0

log = logging.getLogger(__name__)


class TransferError(Exception):
    """The transfer failed for good; the message is half a sentence for `DownloadError`."""


class _BrokenConnectionError(TransferError):
    """Another connection may bring the rest."""


@dataclass(frozen=True)
class Archive:
    """A file to download to `path`, called `partial` until it is complete and its MD5 checksum is verified."""

    title: str
    url: str
    path: Path
    md5: str

    @property
    def partial(self) -> Path:
        """The file while it is incomplete."""
        return self.path.with_name(f"{self.path.name}.part")

    def is_verified(self) -> bool:
        """Whether the file is there with its checksum."""
        return check_integrity(self.path, self.md5)

    def failed(self, reason: object) -> DownloadError:
        """The error to raise: the URL, the path, the reason and the way out."""
        path, size = self.path.expanduser().absolute(), _size(self.partial)
        kept = f" The {_bytes(size)} that arrived are kept: the next start resumes there." if size else ""
        return DownloadError(
            f"{self.title} is not in {path.parent}. Downloading it failed: {self.url}: {reason}.{kept} Start again, or put "
            f"that file by hand at {path}, or name the place of the data: {ELSEWHERE}."
        )


def provide(
    archive: Archive, *, is_there: Callable[[], bool], unpack: Callable[[], None] | None = None, download: bool = True
) -> None:
    """Make sure that a data set is there; any process may call this at any time, and the first one does the work.

    Args:
        archive: The file that the data set comes in.
        is_there: Whether the data set is there, complete.
        unpack: Extracts the verified archive; None: it is read as it is.
        download: Whether to download the archive; otherwise an existing one is unpacked, or nothing happens.

    Raises:
        DownloadError: If the archive cannot be downloaded or unpacked.
    """
    if is_there() or not (download or archive.is_verified()):
        return
    with _lock(archive):
        # Another process may have done it in the meantime.
        if is_there():
            return
        if not archive.is_verified():
            _fetch(archive)
        try:
            if unpack is not None:
                log.info(f"extracting {archive.path}")
                unpack()
        # What tarfile and its decompressors raise.
        except (OSError, EOFError, RuntimeError, tarfile.TarError, zlib.error) as error:
            raise archive.failed(f"the downloaded archive cannot be extracted ({error})") from error
        if not is_there():
            raise archive.failed("the archive has its checksum, and does not hold the expected data set")


@contextmanager
def _lock(archive: Archive) -> Iterator[None]:
    """Hold the lock on an archive; the operating system frees it when its process ends, however it ends."""
    folder = archive.path.parent
    lock = FileLock(folder / f".{archive.path.name}.lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.info(f"waiting for another process that downloads {archive.title} and holds {lock.lock_file}")
            lock.acquire()
    except (OSError, NotImplementedError) as error:
        if not os.access(folder, os.W_OK):
            raise archive.failed(f"the folder cannot be written to ({error})") from error
        # The checksum is verified all the same.
        log.warning(f"{folder} cannot be locked ({error}); do not start two runs at once that download into it")
    try:
        yield
    finally:
        lock.release()


def _fetch(archive: Archive) -> None:
    """Download a file, resuming what an interrupted download left; verify and rename it.

    A file of that name with another checksum is taken for an interrupted download, and moved aside if it is not one.
    """
    path, partial = archive.path, archive.partial
    try:
        if path.is_file() and not partial.is_file():
            log.warning(f"{path} is incomplete or another file: its MD5 checksum is not {archive.md5}")
            shutil.copyfile(path, partial)
        while not check_integrity(partial, archive.md5):
            resumed = _size(partial)
            _transfer(archive)
            found, size = calculate_md5(partial), _bytes(_size(partial))
            if found == archive.md5:
                break
            partial.unlink()
            if not resumed:
                raise TransferError(
                    f"the {size} that arrived have the MD5 checksum {found} instead of {archive.md5}: another file, or "
                    "damaged on the way; they are removed"
                )
            log.warning(f"what was there of {path.name} does not belong to this file: started over")
        if path.is_file() and not _begins_with(partial, path):
            aside = path.with_name(f"{path.name}.other")
            path.replace(aside)
            log.warning(f"{path} was another file, which is now {aside}")
        partial.replace(path)
    except TransferError as error:
        raise archive.failed(error) from error
    except OSError as error:
        raise archive.failed(f"it cannot be written ({error})") from error
    # Ctrl-C, or a signal that ends the command.
    except (KeyboardInterrupt, SystemExit):
        if partial.is_file():
            log.warning(f"interrupted: {partial} keeps {_bytes(_size(partial))}, and the next start resumes there")
        raise
    log.info(f"{archive.title} downloaded: {path}, {_bytes(_size(path))}, checksum verified")


def _transfer(archive: Archive) -> None:
    """Bring the partial file to its full length, reconnecting where a connection that brought something breaks."""
    idle = 0
    while True:
        before = _size(archive.partial)
        try:
            return _receive(archive, before)
        except _BrokenConnectionError as error:
            after = _size(archive.partial)
            idle = 0 if after > before else idle + 1
            if not after or idle > MAX_IDLE:
                raise
            log.warning(f"{archive.url}: {error}; reconnecting")
            time.sleep(RETRY_SECONDS * (idle + 1))


def _receive(archive: Archive, offset: int) -> None:
    """Append to the partial file what one connection brings, from `offset` on."""
    response, done = _connect(archive.url, offset)
    length = response.headers.get("Content-Length")
    total = None if length is None else done + int(length)
    size = "unknown size" if total is None else _bytes(total)
    start = (
        f"resuming at {_bytes(done)}"
        if done
        else "the server cannot resume: starting over"
        if offset
        else "downloading"
    )
    log.info(f"{start}: {archive.title} ({size}) from {archive.url} to {archive.partial}")
    columns = (*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn())
    bar = Progress(*columns, console=get_console(), disable=not get_console().is_terminal)
    task = bar.add_task(archive.title, completed=done, total=total)
    logged = time.monotonic()
    with response, archive.partial.open("ab" if done else "wb") as file, bar:
        while chunk := _read(response, done):
            file.write(chunk)
            # At once, so that a killed process leaves all that has arrived.
            file.flush()
            done += len(chunk)
            bar.update(task, completed=done)
            if bar.disable and time.monotonic() - logged >= LOG_EVERY_SECONDS:
                logged = time.monotonic()
                log.info(f"{archive.title}: {_bytes(done)} of {size}")
        os.fsync(file.fileno())
    if total is not None and done < total:
        raise _BrokenConnectionError(f"the connection ended after {_bytes(done)} of {size}")


def _connect(url: str, offset: int) -> tuple[Any, int]:
    """Open a connection from byte `offset` on; return it and the byte that it really starts from, `offset` or 0."""
    headers = {"User-Agent": "pytorch/vision", **({"Range": f"bytes={offset}-"} if offset else {})}
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_SECONDS)
    except HTTPError as error:
        error.close()
        # What is there is no shorter than the file.
        if offset and error.code == 416:
            return _connect(url, 0)
        kind = _BrokenConnectionError if error.code >= 500 else TransferError
        raise kind(f"the server answers {error.code} {error.reason}") from error
    except (OSError, HTTPException) as error:
        raise _BrokenConnectionError(f"the server cannot be reached ({_describe(error)})") from error
    resumed = (response.headers.get("Content-Range") or "").startswith(f"bytes {offset}-")
    return response, offset if offset and resumed else 0


def _read(response: Any, done: int) -> bytes:
    try:
        # What is there: reading a whole chunk would wait for a slow server.
        return bytes(response.read1(CHUNK))
    except (OSError, HTTPException) as error:
        raise _BrokenConnectionError(f"the connection broke at {_bytes(done)} ({_describe(error)})") from error


def _describe(error: Exception) -> str:
    cause = error.reason if isinstance(error, URLError) else error
    return (
        f"nothing for {TIMEOUT_SECONDS:g} s" if isinstance(cause, TimeoutError) else str(cause) or type(cause).__name__
    )


def _begins_with(path: Path, beginning: Path) -> bool:
    with path.open("rb") as whole, beginning.open("rb") as part:
        return all(chunk == whole.read(len(chunk)) for chunk in iter(lambda: part.read(CHUNK), b""))


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _bytes(size: int) -> str:
    return filesize.decimal(size)
