"""Runs that are killed, whose disk is full, or whose files are cut off, from the command line, and what becomes of them."""

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from killing import Left
from test_run_lock import Own, own  # noqa: F401  (a fixture)

HERE = Path(__file__).parents[1]
TINY = (
    "epochs=3", "model.width=4", "scheduler.warmup_epochs=0", "trainer=cpu", "trainer.limit_train_batches=4",
    "trainer.limit_val_batches=1", "trainer.limit_test_batches=2", "trainer.log_every_n_steps=1", "resume=auto",
)  # fmt: skip


class Runs:
    """A process that runs the command in processes forked from it, in folders below one.

    Attributes:
        whole: What an uninterrupted run leaves.
    """

    def __init__(self, top: Path, process: subprocess.Popen[str]) -> None:
        self.top, self.process = top, process
        self.whole = self._answer()

    def _answer(self) -> Left:
        assert self.process.stdout is not None
        return Left(**json.loads(self.process.stdout.readline()))

    def run(self, name: str, **order: Any) -> Left:
        """Run once into a folder, see `killing`."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"run": name, **order}) + "\n")
        self.process.stdin.flush()
        left = self._answer()
        assert "Traceback" not in left.said, left.said
        return left

    def go_on(self, name: str) -> Left:
        """Resume, and compare with the uninterrupted run."""
        left = self.run(name)
        assert left.code == 0, left.said
        assert left.weights == self.whole.weights, left.said
        assert left.summary == self.whole.summary
        return left


@contextmanager
def open_runs(top: Path, *overrides: str) -> Iterator[Runs]:
    root = str(HERE.parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, str(HERE / "killing.py"), str(top), *TINY, *overrides]
    with subprocess.Popen(
        command, cwd=root, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Runs(top, process)
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    with open_runs(tmp_path_factory.mktemp("runs"), "mix=none") as opened:
        assert opened.whole.code == 0, opened.whole.said
        yield opened


def kill_and_resume(runs: Runs, name: str, **moment: Any) -> None:
    killed = runs.run(name, **moment)
    if killed.code != 0:
        assert killed.code == -9
    # Every epoch is there once, whichever process has trained it.
    assert runs.go_on(name).trained == runs.whole.trained == [0, 1, 2]


def test_a_killed_run_goes_on_to_the_weights_of_one_that_was_not(runs: Runs) -> None:
    """Killed somewhere, and while the last checkpoint of the second epoch is being written."""
    for number, moment in enumerate(({"after": random.Random(0).uniform(0.1, 0.6)}, {"at": 9})):
        kill_and_resume(runs, f"few_{number}", **moment)


@pytest.mark.slow
@pytest.mark.parametrize("mix", ["none", "puzzlemix"])
def test_twenty_kills_at_random(mix: str, tmp_path: Path) -> None:
    """Each run is killed twice."""
    moments = random.Random(1)
    with open_runs(tmp_path, f"mix={mix}") as runs:
        for number in range(10):
            runs.run(f"random_{number}", after=moments.uniform(0.02, 0.6))
            kill_and_resume(runs, f"random_{number}", after=moments.uniform(0.02, 0.6))


@pytest.mark.slow
def test_a_kill_at_every_write(runs: Runs) -> None:
    for number in range(1, runs.whole.syncs + 1):
        kill_and_resume(runs, f"write_{number}", at=number)


def fill_and_resume(runs: Runs, name: str, number: int) -> None:
    full = runs.run(name, full=number)
    said = " ".join(full.said.split())
    assert full.code == 1, said
    assert "cannot be written: No space left on device" in said
    runs.go_on(name)


def test_a_full_disk_ends_a_run_with_a_sentence_and_it_goes_on_with_room(runs: Runs) -> None:
    fill_and_resume(runs, "full", 12)


@pytest.mark.slow
def test_a_full_disk_at_every_file_of_the_result(runs: Runs) -> None:
    # Config, versions; best and last of two epochs, last of the third; test results, summary. Images and report come after it.
    for number in (1, 2, 4, 6, 8, 10, 11, 12):
        fill_and_resume(runs, f"every_full_{number}", number)


def test_a_folder_of_another_run_is_refused_before_anything_is_written(runs: Runs, own: Own) -> None:  # noqa: F811
    """Used, of other settings, or of a process that is running; and moved, it is still the same run."""
    folder = runs.top / "used"
    shutil.copytree(runs.top / "whole", folder)

    def content() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "run.lock"}

    before = content()
    owner = own(runs.top / "other")
    for overrides, sentence in (
        (["resume=null"], "holds another run (summary.json"),
        (["seed=1"], "holds a finished run with other settings: data.seed=1 (trained with 0), seed=1 (trained"),
    ):
        refused = runs.run("used", **{"with": overrides})
        assert (refused.code, sentence in " ".join(refused.said.split())) == (1, True), refused.said
    assert content() == before
    assert "is finished" in runs.go_on("used").said
    refused = runs.run("other")
    assert refused.code == 1
    assert f"still running (process {owner.pid} on" in " ".join(refused.said.split())
    assert [path.name for path in (runs.top / "other").iterdir()] == ["run.lock"]


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_a_disk_that_is_really_full(runs: Runs) -> None:
    """Of several sizes, so that it is full at several files; and resumed once the disk is larger."""
    sentences = 0
    for kilobytes in (8, 64, 260, 420, 640):
        name = f"disk_{kilobytes}"
        with small_disk(runs.top / name, f"{kilobytes}k"):
            full = runs.run(name)
            if full.code != 0:
                said = " ".join(full.said.split())
                assert full.code == 1, said
                assert "No space left on device" in said
                sentences += 1
            subprocess.run(["mount", "-o", "remount,size=100m", str(runs.top / name)], check=True)
            runs.go_on(name)
    assert sentences >= 3


FILES = (
    "checkpoints/last.ckpt", "checkpoints/best.ckpt", "logs/metrics.csv", "config.yaml", "versions.json", "train.log",
    "run.lock", ".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml",
)  # fmt: skip


def cut(path: Path, share: float) -> None:
    os.truncate(path, int(share * path.stat().st_size) if share < 1 else path.stat().st_size - 1)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0, None], ids=["empty", "start", "half", "last_byte", "missing"])
def test_a_run_goes_on_without_the_rest_of_a_file(share: float | None, runs: Runs) -> None:
    if not (runs.top / "dead").is_dir():
        # While the last checkpoint of the third epoch is written.
        assert runs.run("dead", at=10).code == -9
        assert [path.name.startswith(".last.ckpt") for path in (runs.top / "dead" / "checkpoints").glob(".*")] == [True]
    for number, file in enumerate(FILES):
        name = f"cut_{share}_{number}"
        shutil.copytree(runs.top / "dead", runs.top / name)
        path = runs.top / name / file
        path.unlink() if share is None else cut(path, share)
        if file.endswith("last.ckpt") and share is not None:
            refused = runs.run(name)
            assert (refused.code, "last.ckpt is missing, damaged" in " ".join(refused.said.split())) == (1, True), (
                refused.said
            )
            runs.run(name, **{"with": [f"resume={path.with_name('best.ckpt')}"]})
        runs.go_on(name)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0, None], ids=["empty", "half", "last_byte", "missing"])
def test_a_finished_run_survives_the_loss_of_a_file(share: float | None, runs: Runs) -> None:
    for number, file in enumerate(("summary.json", "test_results.json", *FILES[:5])):
        name = f"finished_{share}_{number}"
        shutil.copytree(runs.top / "whole", runs.top / name)
        path = runs.top / name / file
        path.unlink() if share is None else cut(path, share)
        left = runs.run(name)
        assert left.code == 0, left.said
        assert left.summary == runs.whole.summary
