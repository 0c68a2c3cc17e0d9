"""One process owns a run folder: `run.lock` in it says which, for as long as that process lives.

The lock names host, process and the moment that the process was started, as numbers of processes are given out again. What
another machine says cannot be looked up: its owner touches the file every some seconds, and counts as gone when it has not
for minutes.
"""

import atexit
import contextlib
import json
import os
import platform
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from pytorch_lightning.utilities.rank_zero import rank_zero_only

from experiments.common.atomic_files import explained
from experiments.runs.errors import RunFolderError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = "run.lock"
# Seconds between two signs of life, and from the last one on after which an owner on another machine is gone.
BEAT, SILENCE = 20.0, 300.0


@dataclass(frozen=True, kw_only=True)
class Owner:
    """A process.

    Args:
        host: Name of its machine.
        system: The machine's boot and the namespace in which the number of the process counts; empty where not known.
        pid: Number of the process.
        started: When the process was started, as the system says it.
        since: When it took the folder, for people.
        job: Slurm's job and how often that was queued again; None: it is no such job.
    """

    host: str
    system: str
    pid: int
    started: str
    since: str
    job: tuple[str, int] | None = None

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


class RunningError(RunFolderError):
    """A run folder belongs to a process that is running; the message says to which."""

    def __init__(self, folder: Path, owner: Owner) -> None:
        there = "" if owner.host == platform.node() else f"; if that machine is gone, remove {folder / LOCK}"
        super().__init__(
            f"{folder} belongs to a run that is still running ({owner}): wait for it or stop it first, or name another "
            f"folder{there}"
        )


# Folders of this process, and what ends their signs of life. With its number, as a forked process inherits this table.
_owned: dict[tuple[int, Path], threading.Event] = {}


def this_process() -> Owner:
    """This process, as an owner from now on."""
    job = os.environ.get("SLURM_JOB_ID")
    return Owner(
        host=platform.node(),
        system=_system(),
        pid=os.getpid(),
        started=_start_of(os.getpid()) or "",
        since=time.strftime("%Y-%m-%d %H:%M:%S"),
        job=None if job is None else (job, int(os.environ.get("SLURM_RESTART_COUNT", "0"))),
    )


@cache
def _system() -> str:
    parts = []
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        # Two containers may have the same name and the same number for two processes.
        parts.append(os.readlink("/proc/self/ns/pid"))  # noqa: PTH115  (it leads to no path)
    return " ".join(parts)


def _start_of(pid: int) -> str | None:
    """When a process of this machine was started; None: there is no such process, or it is dead and not yet cleared away."""
    try:
        # Behind the name, which may hold spaces and brackets.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        if Path("/proc/self/stat").exists():
            return None
    command = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
    with contextlib.suppress(OSError):
        said = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        return None if not said or said.startswith("Z") else said.partition(" ")[2].strip()
    return None


def find_owner(folder: Path) -> Owner | None:
    """The other process that owns a run folder and is running; None: none does, as far as can be known."""
    # The other processes of a run are of the same run as its owner.
    if rank_zero_only.rank != 0 or _key(folder) in _owned:
        return None
    owner = _read(folder / LOCK)
    return owner if owner is not None and _is_running(owner, folder / LOCK) else None


def _read(path: Path) -> Owner | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        job = content.pop("job", None)
        owner = Owner(**content, job=None if job is None else (str(job[0]), int(job[1])))
        return owner if isinstance(owner.pid, int) else None
    # Not there, or its writer was killed before it owned anything.
    except (OSError, ValueError, TypeError, AttributeError, LookupError):
        return None


def _is_running(owner: Owner, path: Path) -> bool:
    here = this_process()
    if (owner.host, owner.system) == (here.host, here.system):
        return _start_of(owner.pid) == owner.started
    if owner.job is not None and here.job is not None and owner.job[0] == here.job[0] and owner.job[1] < here.job[1]:
        # Slurm has ended this very job before it queued it again.
        return False
    try:
        return _now(path.parent) - path.stat().st_mtime < SILENCE
    except OSError:
        return False


def _now(folder: Path) -> float:
    """The time by the clock that stamps the files in a folder, which may be that of a file server."""
    probe = folder / f".{LOCK}.{uuid.uuid4().hex[:8]}.part"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def claim(folder: Path) -> Owner | None:
    """Make this process the owner of a folder, until `release` or its end. Only for the process of rank 0; others do nothing.

    Returns:
        The process that owned the folder and is gone without having left it; None: there was none.

    Raises:
        RunningError: If another process owns it and is running.
        UnwritableError: If the folder cannot be written to.
    """
    if rank_zero_only.rank != 0 or _key(folder) in _owned:
        return None
    with explained(folder / LOCK):
        folder.mkdir(parents=True, exist_ok=True)
        former = _take(folder)
    stop = _owned[_key(folder)] = threading.Event()
    threading.Thread(target=_show_life, args=(folder / LOCK, stop), daemon=True, name=LOCK).start()
    return former


def _take(folder: Path) -> Owner | None:
    with _alone(folder / LOCK) as descriptor:
        former = _read(folder / LOCK)
        if former is not None and _is_running(former, folder / LOCK):
            raise RunningError(folder, former)
        content = json.dumps(asdict(this_process()), indent=2) + "\n"
        # Not through a draft: others wait for this very file.
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, content.encode(), 0)
        os.fsync(descriptor)
    return former


def release(folder: Path) -> None:
    """Give a folder up that this process owns; nothing happens if it does not."""
    stop = _owned.pop(_key(folder), None)
    if stop is None:
        return
    stop.set()
    with contextlib.suppress(OSError), _alone(folder / LOCK):
        if _is_this(_read(folder / LOCK)):
            (folder / LOCK).unlink(missing_ok=True)


def _is_this(owner: Owner | None) -> bool:
    here = this_process()
    return owner is not None and (owner.host, owner.system, owner.pid, owner.started) == (
        here.host, here.system, here.pid, here.started,
    )  # fmt: skip


def _key(folder: Path) -> tuple[int, Path]:
    return os.getpid(), folder.resolve()


@contextmanager
def _alone(path: Path) -> Iterator[int]:
    """Yield the open lock file while no other process reads or writes it, as far as the file system knows of locks."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if fcntl is not None:
                with contextlib.suppress(OSError):
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
            try:
                same = os.fstat(descriptor).st_ino == path.stat().st_ino
            except FileNotFoundError:
                same = False
            # Else its owner has removed it meanwhile, and it is nobody's.
            if same:
                yield descriptor
                return
        finally:
            os.close(descriptor)


def _show_life(path: Path, stop: threading.Event) -> None:
    while not stop.wait(BEAT):
        with contextlib.suppress(OSError):
            os.utime(path)


def _release_all() -> None:
    for process, folder in list(_owned):
        if process == os.getpid():
            release(folder)


atexit.register(_release_all)
