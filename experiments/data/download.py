"""Download an archive once, whoever else wants it at the same time: verified, resumed where it was interrupted."""

import logging
import os
import shutil
import tarfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torchvision.datasets.utils import calculate_md5, check_integrity

from experiments.data.missing import DownloadError
from experiments.data.transfer import TransferError, transfer
from experiments.data.transfer_bar import megabytes

# A process that holds the lock and writes nothing for so long is hung: its own timeouts are far shorter.
HUNG_SECONDS = 600.0
POLL_SECONDS = 1.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Archive:
    """A file to download.

    Args:
        title: The data set, for messages.
        url: Where it is.
        path: Where it goes. Until it is complete and verified, it is called `partial`.
        md5: Its checksum.
    """

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

    def failed(self, reason: str) -> DownloadError:
        """The error to raise: what was wanted, from where, to where, and what to do."""
        kept = ""
        if self.partial.is_file():
            kept = (
                f" The {megabytes(self.partial.stat().st_size)} that arrived are kept: the next start continues there."
            )
        return DownloadError(self.title, url=self.url, path=self.path, reason=reason, kept=kept)


def provide(
    archive: Archive, *, is_there: Callable[[], bool], unpack: Callable[[], None] | None = None, download: bool = True
) -> None:
    """Make sure that a data set is there; any process may ask for it at any time, and the first one does the work.

    Args:
        archive: The file that the data set comes in.
        is_there: Whether the data set is there, whole.
        unpack: Extracts the verified archive; None: it is read as it is.
        download: Whether to download the archive; otherwise one that is there is unpacked, or nothing happens.

    Raises:
        DownloadError: If the archive cannot be downloaded or unpacked.
    """
    if is_there() or not (download or archive.is_verified()):
        return
    with download_lock(archive):
        # Another process may have done it in the meantime.
        if is_there():
            return
        if not archive.is_verified():
            fetch(archive)
        try:
            if unpack is not None:
                log.info(f"extracting {archive.path}")
                unpack()
        # What tarfile and its decompressors raise.
        except (OSError, EOFError, RuntimeError, tarfile.TarError, zlib.error) as error:
            raise archive.failed(f"the downloaded archive cannot be extracted ({error})") from error
        if not is_there():
            raise archive.failed("the archive has its checksum, and does not hold the data set that is expected")


@contextmanager
def download_lock(archive: Archive) -> Iterator[None]:
    """Hold the lock on an archive, so that one process at a time downloads and extracts it; others wait and say so.

    The operating system frees the lock when its process ends, however it ends: none is ever left over.

    Raises:
        DownloadError: If the folder cannot be written to, or the process that holds the lock has been idle for long.
    """
    folder = archive.path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise archive.failed(f"the folder cannot be made ({error})") from error
    lock = FileLock(folder / f".{archive.path.name}.lock")
    try:
        _acquire(lock, archive)
    except DownloadError:
        raise
    except (OSError, NotImplementedError) as error:
        if not os.access(folder, os.W_OK):
            raise archive.failed(f"the folder cannot be written to ({error})") from error
        # What is downloaded is verified all the same.
        log.warning(f"{folder} cannot be locked ({error}); do not start two runs at once that download into it")
    try:
        yield
    finally:
        lock.release()


def _acquire(lock: Any, archive: Archive) -> None:
    seen, since = None, time.monotonic()
    while True:
        try:
            lock.acquire(timeout=POLL_SECONDS if seen else 0)
            return
        except Timeout:
            if seen is None:
                log.info(f"waiting for another process that is downloading {archive.title} into {archive.path.parent}")
        found = [_traces(path) for path in (archive.partial, archive.path)]
        if found != seen:
            seen, since = found, time.monotonic()
        elif time.monotonic() - since > HUNG_SECONDS:
            raise archive.failed(
                f"another process holds {lock.lock_file} and has written nothing for {HUNG_SECONDS / 60:.0f} minutes; end "
                "that process first"
            ) from None


def _traces(path: Path) -> tuple[int, float] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime


def fetch(archive: Archive) -> None:
    """Download a file that is not there, or continue with what an interrupted download left; verify and rename it.

    The lock must be held. A file of that name with another checksum is taken for an interrupted download, and is set aside if
    it turns out to be none.

    Raises:
        DownloadError: If the server, the file or the disk fails; says what is kept.
    """
    partial = archive.partial
    try:
        if archive.path.is_file() and not partial.is_file():
            log.warning(f"{archive.path} is incomplete or another file: its MD5 checksum is not {archive.md5}")
            shutil.copyfile(archive.path, partial)
        resumed = partial.is_file() and partial.stat().st_size > 0
        if not (resumed and check_integrity(partial, archive.md5)):
            transfer(archive.url, partial, title=archive.title)
            if resumed and not check_integrity(partial, archive.md5):
                log.warning(f"what was there of {archive.path.name} does not belong to this file: begun again")
                partial.unlink()
                transfer(archive.url, partial, title=archive.title)
        _put_in_place(archive)
    except TransferError as error:
        raise archive.failed(str(error)) from error
    except OSError as error:
        raise archive.failed(f"it cannot be written ({error})") from error
    # Ctrl-C, or a signal that ends the command.
    except (KeyboardInterrupt, SystemExit):
        if partial.is_file():
            size = megabytes(partial.stat().st_size)
            log.warning(f"interrupted: {partial} keeps {size}, and the next start continues there")
        raise


def _put_in_place(archive: Archive) -> None:
    partial, found = archive.partial, calculate_md5(archive.partial)
    size = megabytes(partial.stat().st_size)
    if found != archive.md5:
        partial.unlink()
        raise TransferError(
            f"the {size} that arrived have the MD5 checksum {found} instead of {archive.md5}: another file, or damaged on "
            "the way; they are removed again"
        )
    if archive.path.is_file() and not _begins_with(partial, archive.path):
        aside = archive.path.with_name(f"{archive.path.name}.other")
        archive.path.replace(aside)
        log.warning(f"what had the name {archive.path.name} is now {aside}")
    partial.replace(archive.path)
    log.info(f"{archive.title} downloaded: {archive.path}, {size}, checksum verified")


def _begins_with(path: Path, beginning: Path) -> bool:
    with path.open("rb") as whole, beginning.open("rb") as part:
        while chunk := part.read(1 << 20):
            if whole.read(len(chunk)) != chunk:
                return False
    return True
