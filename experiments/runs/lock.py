"""One process owns a run folder: it holds a lock on `run.lock`, which the system releases however the process ends."""

import os
import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pytorch_lightning.utilities.rank_zero import rank_zero_only

from experiments.common import RunFolderError, explained, remove_drafts
from experiments.runs.run_folder import CHECKPOINTS

LOCK = "run.lock"
# Bytes that a run writes before it trains; without them Hydra would end with a traceback.
ROOM = 1 << 16
# Where the file is locked on Windows, behind its text: what is locked there cannot be read by others.
LOCKED_BYTE = 1 << 20
# Open lock files of this process, by folder. With its number, as a forked process inherits this table, but not the locks.
_owned: dict[tuple[int, Path], IO[bytes]] = {}


class RunningError(RunFolderError):
    """A run folder belongs to another process, which the message names."""


def claim(folder: Path) -> None:
    """Make this process the owner of a folder until `release`, or its end in any way; only that of rank 0.

    A RunningError if another process owns it: on a file system without locks nobody is refused.
    """
    if rank_zero_only.rank != 0 or (os.getpid(), folder.resolve()) in _owned:
        return
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("a+b", buffering=0)
        try:
            _lock(file)
        except (BlockingIOError, PermissionError) as error:
            owner = (folder / LOCK).read_text("utf-8", "replace").strip()
            raise RunningError(
                f"{folder} belongs to a run that is still running ({owner}): wait for it or stop it, or name another folder"
            ) from error
        except OSError:
            pass
        _owned[os.getpid(), folder.resolve()] = file
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode())
        for each in (folder, folder / CHECKPOINTS):
            remove_drafts(each)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(ROOM))


def _lock(file: IO[bytes]) -> None:
    try:
        import fcntl
    except ImportError:
        import msvcrt

        file.seek(LOCKED_BYTE)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        # Not flock: processes of data loaders would inherit the lock, and may outlive a killed owner.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def release(folder: Path) -> None:
    """Give up a folder that this process owns; nothing happens if it does not."""
    if file := _owned.pop((os.getpid(), folder.resolve()), None):
        file.close()


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Own a run folder inside; the process may own it already."""
    claim(folder)
    try:
        yield
    finally:
        release(folder)
