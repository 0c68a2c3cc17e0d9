"""One process owns a run folder: it holds a lock on `run.lock`, which the system releases however the process ends."""

import atexit
import os
import platform
import time
from contextlib import suppress
from pathlib import Path

from pytorch_lightning.utilities.rank_zero import rank_zero_only

from experiments.common import RunFolderError, explained

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = "run.lock"
# Seconds until a locked folder is taken for owned: others hold the lock for a moment, to see whether somebody does.
PATIENCE = 0.5
# Open lock files of this process, by folder. With its number, as a forked process inherits this table, but not the locks.
_owned: dict[tuple[int, Path], int] = {}


class RunningError(RunFolderError):
    """A run folder belongs to another process, which the message names."""

    def __init__(self, folder: Path, owner: str) -> None:
        self.reason = f"{folder} belongs to a run that is still running ({owner})"
        super().__init__(f"{self.reason}: wait for it or stop it first, or name another folder")


def find_owner(folder: Path) -> str | None:
    """The other process that owns a run folder, in words; None: there is none, or the file system knows of no locks."""
    # The other processes of a run belong to the same run as its owner.
    if rank_zero_only.rank != 0 or (os.getpid(), folder.resolve()) in _owned:
        return None
    with suppress(OSError), (folder / LOCK).open("rb") as file:
        return None if _lock(file.fileno(), exclusive=False) else _read(folder)
    return None


def claim(folder: Path) -> str | None:
    """Make this process the owner of a folder, until `release` or its end. Only for the process of rank 0; others do nothing.

    Returns:
        The process that owned the folder and has ended without releasing it; None: there was none.

    Raises:
        RunningError: If another process owns it.
        UnwritableError: If the folder cannot be written to.
    """
    if rank_zero_only.rank != 0 or (os.getpid(), folder.resolve()) in _owned:
        return None
    with explained(folder / LOCK):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _open_locked(folder)
        # Through this descriptor: to close another one of the file would release the lock.
        former = os.pread(descriptor, 1000, 0).decode(errors="replace").strip() or None
        os.ftruncate(descriptor, 0)
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        os.pwrite(descriptor, f"process {os.getpid()} on {platform.node()}, since {now}\n".encode(), 0)
    _owned[os.getpid(), folder.resolve()] = descriptor
    return former


def _open_locked(folder: Path) -> int:
    end = time.monotonic() + PATIENCE
    while True:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        is_locked = _lock(descriptor, exclusive=True)
        with suppress(FileNotFoundError):
            # Else its owner has removed the file meanwhile.
            if is_locked and os.fstat(descriptor).st_ino == (folder / LOCK).stat().st_ino:
                return descriptor
        os.close(descriptor)
        if not is_locked and time.monotonic() > end:
            raise RunningError(folder, _read(folder))
        time.sleep(0.01)


def _lock(descriptor: int, *, exclusive: bool) -> bool:
    """Try to lock; True also where the file system knows of no locks."""
    try:
        if fcntl is not None:
            # Not flock: processes of data loaders would inherit the lock, and may outlive a killed owner.
            fcntl.lockf(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        pass
    return True


def _read(folder: Path) -> str:
    with suppress(OSError):
        return (folder / LOCK).read_text(errors="replace").strip() or "another process"
    return "another process"


def release(folder: Path) -> None:
    """Give up a folder that this process owns; nothing happens if it does not."""
    descriptor = _owned.pop((os.getpid(), folder.resolve()), None)
    if descriptor is not None:
        with suppress(OSError):
            (folder / LOCK).unlink(missing_ok=True)
        os.close(descriptor)


@atexit.register
def _release_all() -> None:
    for process, folder in list(_owned):
        if process == os.getpid():
            release(folder)
