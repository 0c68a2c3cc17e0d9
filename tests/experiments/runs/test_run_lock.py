"""Who owns a run folder."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.runs import lock as run_lock
from experiments.runs.lock import LOCK, SILENCE, Owner, RunningError, claim, find_owner, release, this_process


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """Another process that is running."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"]) as process:
        yield process
        process.kill()


def write_lock(folder: Path, **changed: object) -> Owner:
    owner = dataclasses.replace(this_process(), **changed)  # type: ignore[arg-type]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / LOCK).write_text(json.dumps(dataclasses.asdict(owner)))
    return owner


def lock_of(process: subprocess.Popen[bytes], folder: Path) -> Owner:
    return write_lock(folder, pid=process.pid, started=run_lock._start_of(process.pid))


def test_a_folder_is_owned_until_it_is_released(tmp_path: Path) -> None:
    assert claim(tmp_path / "run") is None
    content = json.loads((tmp_path / "run" / LOCK).read_text())
    assert (content["pid"], content["host"]) == (os.getpid(), os.uname().nodename)
    # It is our own, as often as we ask.
    assert claim(tmp_path / "run") is None
    assert find_owner(tmp_path / "run") is None
    release(tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []
    release(tmp_path / "run")


def test_a_running_process_keeps_its_folder(sleeper: subprocess.Popen[bytes], tmp_path: Path) -> None:
    owner = lock_of(sleeper, tmp_path)
    assert find_owner(tmp_path) == owner
    with pytest.raises(
        RunningError, match=rf"{tmp_path} belongs to a run that is still running \(process {sleeper.pid} on"
    ):
        claim(tmp_path)
    # Killed, and not yet waited for by the process that started it.
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert find_owner(tmp_path) is None
    assert claim(tmp_path) == owner
    release(tmp_path)


def test_a_number_that_was_given_to_another_process_is_recognized(
    sleeper: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    owner = write_lock(tmp_path, pid=sleeper.pid, started="1")
    assert find_owner(tmp_path) is None
    assert claim(tmp_path) == owner
    release(tmp_path)


def test_another_machine_is_believed_as_long_as_it_shows_life(tmp_path: Path) -> None:
    owner = write_lock(tmp_path, host="far", pid=1)
    with pytest.raises(RunningError, match=rf"if that machine is gone, remove {tmp_path / LOCK}"):
        claim(tmp_path)
    past = time.time() - SILENCE - 5
    os.utime(tmp_path / LOCK, (past, past))
    assert claim(tmp_path) == owner
    release(tmp_path)


def test_an_owner_shows_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "BEAT", 0.01)
    claim(tmp_path)
    os.utime(tmp_path / LOCK, (1, 1))
    limit = time.monotonic() + 30
    while (tmp_path / LOCK).stat().st_mtime < 2:
        assert time.monotonic() < limit
        time.sleep(0.01)
    release(tmp_path)


def test_slurm_has_ended_a_job_before_it_queues_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    owner = write_lock(tmp_path, host="far")
    with pytest.raises(RunningError):
        claim(tmp_path)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert claim(tmp_path) == owner
    release(tmp_path)


def test_a_lock_that_is_cut_off_is_nobody_s(tmp_path: Path) -> None:
    """A process writes it before it does anything else."""
    write_lock(tmp_path)
    whole = (tmp_path / LOCK).read_bytes()
    for content in (b"", whole[:1], whole[:40], b"[]", b'{"pid": "x"}', b"\xff\x00"):
        (tmp_path / LOCK).write_bytes(content)
        assert claim(tmp_path) is None
        release(tmp_path)


def test_of_many_processes_one_gets_the_folder(tmp_path: Path) -> None:
    """They take it over from one that is dead, which is where two could both believe that they did."""
    write_lock(tmp_path, pid=2**22 + 1)
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
                time.sleep(1)
            except RunningError:
                code = 0
            finally:
                os._exit(code)
        gone.append(process)
    go.touch()
    codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in gone]
    assert sorted(codes) == [0] * 7 + [1]


def test_other_processes_of_a_run_own_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lock(tmp_path, host="far")
    monkeypatch.setattr(run_lock.rank_zero_only, "rank", 1)
    assert find_owner(tmp_path) is None
    assert claim(tmp_path) is None
