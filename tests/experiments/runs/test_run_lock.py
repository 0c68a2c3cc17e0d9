"""Who owns a run folder."""

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments.runs import lock as run_lock
from experiments.runs.lock import LOCK, RunningError, claim, release

OWN = """
import fcntl, os, sys, time
file = open(sys.argv[1], "w")
fcntl.lockf(file, fcntl.LOCK_EX)
print(f"process {os.getpid()} on far, since noon", file=file, flush=True)
print("owned", flush=True)
time.sleep(100)
"""
Own = Callable[[Path], subprocess.Popen[str]]


@pytest.fixture
def own() -> Iterator[Own]:
    """Starts another process that owns a folder, until it is killed."""
    processes = []

    def start(folder: Path) -> subprocess.Popen[str]:
        folder.mkdir(parents=True, exist_ok=True)
        process = subprocess.Popen([sys.executable, "-c", OWN, folder / LOCK], stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "owned\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def can_be_taken(folder: Path) -> bool:
    """Whether another process can take the folder."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            claim(folder)
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0


def test_a_folder_is_owned_until_it_is_released(tmp_path: Path) -> None:
    claim(tmp_path / "run")
    # It is our own, as often as we ask.
    claim(tmp_path / "run")
    assert not can_be_taken(tmp_path / "run")
    release(tmp_path / "run")
    content = (tmp_path / "run" / LOCK).read_text()
    assert content.startswith(f"process {os.getpid()} on {os.uname().nodename}, since ")
    assert can_be_taken(tmp_path / "run")
    release(tmp_path / "run")


def test_on_windows_a_byte_behind_the_text_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for Windows' module, which locks bytes from the file's position on."""
    lockf = fcntl.lockf

    def locking(descriptor: int, mode: int, count: int) -> None:
        position = os.lseek(descriptor, 0, os.SEEK_CUR)
        assert (mode, count) == (2, 1)
        assert position > len((tmp_path / LOCK).read_bytes())
        try:
            lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, count, position)
        except BlockingIOError as error:
            raise PermissionError(13, "Permission denied") from error

    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(locking=locking, LK_NBLCK=2))
    claim(tmp_path)
    assert not can_be_taken(tmp_path)
    assert (tmp_path / LOCK).read_text().startswith(f"process {os.getpid()} on ")
    release(tmp_path)
    assert can_be_taken(tmp_path)


def test_a_running_process_keeps_its_folder(own: Own, tmp_path: Path) -> None:
    process = own(tmp_path)
    owner = f"process {process.pid} on far, since noon"
    with pytest.raises(RunningError, match=rf"{tmp_path} belongs to a run that is still running \({owner}\)"):
        claim(tmp_path)
    # Killed, and not yet waited for by the process that started it.
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    claim(tmp_path)
    release(tmp_path)


def test_a_process_that_has_only_been_forked_from_the_owner_owns_nothing(tmp_path: Path) -> None:
    """As the processes of data loaders, which may outlive a killed owner."""
    owner = os.fork()
    if owner == 0:
        claim(tmp_path)
        if os.fork() == 0:
            time.sleep(20)
        os._exit(0)
    os.waitpid(owner, 0)
    claim(tmp_path)
    release(tmp_path)


def test_a_lock_that_is_cut_off_is_nobody_s(tmp_path: Path) -> None:
    for content in (b"", b"process", b"\xff\x00"):
        (tmp_path / LOCK).write_bytes(content)
        claim(tmp_path)
        release(tmp_path)


def test_of_many_processes_one_gets_the_folder(tmp_path: Path) -> None:
    """They take it over from one that is gone, which is where two could both believe that they did."""
    (tmp_path / LOCK).write_text("process 1 on far, since noon")
    go, gone = tmp_path / "go", []
    for _ in range(8):
        process = os.fork()
        if process == 0:
            code = 3
            try:
                while not go.exists():
                    time.sleep(0.001)
                claim(tmp_path)
                code = 1
                # As long as the others ask.
                time.sleep(2)
            except RunningError:
                code = 0
            finally:
                os._exit(code)
        gone.append(process)
    go.touch()
    codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in gone]
    assert sorted(codes) == [0] * 7 + [1]


def test_a_file_system_without_locks_refuses_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "lockf", unsupported)
    claim(tmp_path)
    release(tmp_path)


def test_other_processes_of_a_run_own_nothing(own: Own, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own(tmp_path)
    monkeypatch.setattr(run_lock.rank_zero_only, "rank", 1)
    claim(tmp_path)
