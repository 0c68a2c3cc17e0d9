"""Run folders: their names, and what a folder that is used already means for a run."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from command_line import REPOSITORY
from layouts import write_folders
from omegaconf import DictConfig
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from test_run_lock import Own, own  # noqa: F401  (a fixture)
from test_run_resume import SHORT, set_overrides, taken, write_run

from experiments.common.console import LogFile
from experiments.common.errors import RunFolderError, UnwritableError
from experiments.runs.checkpoints import build_checkpoints
from experiments.runs.hydra_setup import check_folder, take_folder
from experiments.runs.lock import owned, release
from experiments.runs.metrics_file import read_lines
from experiments.runs.resume import check_start, find_start, is_done
from experiments.runs.run_folder import find_unfinished
from experiments.train import run
from experiments.training.module import Classifier

Compose = Callable[..., DictConfig]


class Measured(pl.LightningModule):
    """Trains one number, and validates to what it is told."""

    def __init__(self, accuracies: list[float]) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.accuracies = accuracies

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return (self.weight * batch).sum()

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        if not self.trainer.sanity_checking:
            self.log("val_accuracy", self.accuracies[self.current_epoch])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("accuracies", "settings", "best"),
    [
        ([0.9, 0.1, 0.1, 0.1], {}, 3),
        ([float("nan")] * 4, {}, None),
        ([0.1] * 4, {"check_val_every_n_epoch": 3}, 9),
        ([0.1] * 4, {"limit_val_batches": 0}, None),
        ([0.1, 0.2, 0.1, 0.1], {"val_check_interval": 0.34}, 4),
    ],
    ids=["worse", "nan", "seldom", "never", "within_epochs"],
)
def test_the_last_checkpoint_is_the_last_epoch(
    accuracies: list[float], settings: dict[str, Any], best: int | None, tmp_path: Path
) -> None:
    """Whatever was measured, after every single epoch."""
    seen = []

    class Look(pl.Callback):
        def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            if trainer.current_epoch:
                state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
                seen.append((state["global_step"], torch.equal(state["state_dict"]["weight"], pl_module.weight)))

    loader = torch.utils.data.DataLoader(torch.ones(3, 1))
    trainer = pl.Trainer(
        max_epochs=4, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[*build_checkpoints(tmp_path), Look()], **settings,
    )  # fmt: skip
    trainer.fit(Measured(accuracies), loader, loader)
    assert seen == [(3, True), (6, True), (9, True)]
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 12
    if best is not None:
        assert torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)["global_step"] == best


def test_a_run_without_validation_keeps_its_last_epoch(compose_train: Compose, tmp_path: Path) -> None:
    summary = run(compose_train(*SHORT, "mix=none", "epochs=2", "trainer.limit_val_batches=0"))
    assert summary.val_accuracy is None
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 8


def test_a_name_that_is_taken_means_another_name(compose_train: Compose, tmp_path: Path) -> None:
    compose_train()
    wanted = tmp_path / "runs" / "2026-01-31_12-00-00"
    taken = [take_folder(wanted, None, is_free=True) for _ in range(3)]
    assert [path.name for path in taken] == [wanted.name, f"{wanted.name}_2", f"{wanted.name}_3"]
    for path in taken:
        release(path)


def test_auto_leaves_a_running_run_alone_and_says_so(
    own: Own,  # noqa: F811
    compose_train: Compose,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    compose_train("seed=4", "resume=auto")
    set_overrides("seed=4", "resume=auto")
    write_run(tmp_path / "1", ["seed=4"], finished=False)
    owner = own(tmp_path / "1")
    assert taken(tmp_path) == "new"
    assert f"{tmp_path / '1'} belongs to a run that is still running (process {owner.pid}" in capsys.readouterr().out
    owner.kill()
    owner.wait()
    assert taken(tmp_path) == "1"


def test_other_processes_of_a_run_go_where_the_first_one_does(
    own: Own,  # noqa: F811
    compose_train: Compose,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compose_train("seed=4", "resume=auto")
    set_overrides("seed=4", "resume=auto")
    write_run(tmp_path / "1", ["seed=4"], finished=False)
    own(tmp_path / "1")
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert take_folder(tmp_path / "new", "auto", is_free=True) == tmp_path / "1"
    assert take_folder(tmp_path / "new", None, is_free=True) == tmp_path / "new"
    assert not (tmp_path / "new").exists()


def test_a_folder_of_a_running_run_is_refused(own: Own, compose_train: Compose, tmp_path: Path) -> None:  # noqa: F811
    own(tmp_path / "run")
    with pytest.raises(RunFolderError, match=r"belongs to a run that is still running \(process .* on far"):
        run(compose_train(*SHORT, "mix=none"))


def test_the_newest_run_is_the_one_that_was_started_last(compose_train: Compose, tmp_path: Path) -> None:
    compose_train("seed=4", "resume=auto")
    set_overrides("seed=4", "resume=auto")
    for name in ("2026-01-02", "2026-01-01", "copied"):
        write_run(tmp_path / name, ["seed=4"], finished=False)
        os.utime(tmp_path / name / ".hydra" / "overrides.yaml", (1_000, 1_000))
    os.utime(tmp_path / "2026-01-01" / ".hydra" / "overrides.yaml", (2_000, 2_000))
    assert taken(tmp_path) == "2026-01-01"


@pytest.mark.parametrize(
    "content",
    [b"", b"- seed=", b"\xff\xfe\x00", b"a: [", b"seed: 4", b"null", b"- [1, 2]", b"!!python/object:os.system {}"],
)
def test_a_foreign_or_damaged_sibling_does_not_matter(content: bytes, compose_train: Compose, tmp_path: Path) -> None:
    compose_train("seed=4", "resume=auto")
    set_overrides("seed=4", "resume=auto")
    write_run(tmp_path / "1", ["seed=4"], finished=False)
    write_run(tmp_path / "2", ["seed=4"], finished=False)
    (tmp_path / "2" / ".hydra" / "overrides.yaml").write_bytes(content)
    (tmp_path / "3.txt").touch()
    (tmp_path / "4").symlink_to(tmp_path / "nowhere")
    (tmp_path / "5" / ".hydra" / "overrides.yaml").mkdir(parents=True)
    assert taken(tmp_path) == "1"


def test_a_sibling_that_may_not_be_read_does_not_matter(
    compose_train: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compose_train("seed=4", "resume=auto")
    set_overrides("seed=4", "resume=auto")
    for name in ("1", "2"):
        write_run(tmp_path / name, ["seed=4"], finished=False)
    stat, read_text = Path.stat, Path.read_text

    def refuse(method: Any) -> Any:
        def refusing(path: Path, *arguments: Any, **options: Any) -> Any:
            if tmp_path / "2" in path.parents:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return method(path, *arguments, **options)

        return refusing

    monkeypatch.setattr(Path, "stat", refuse(stat))
    monkeypatch.setattr(Path, "read_text", refuse(read_text))
    assert {path.name for path in find_unfinished(tmp_path, ["seed=4"])} >= {"1"}


def test_a_torn_summary_is_no_finished_run(compose_train: Compose, tmp_path: Path) -> None:
    cfg = compose_train("seed=4", "resume=auto")
    set_overrides("seed=4", "resume=auto")
    write_run(tmp_path / "1", ["seed=4"], finished=True)
    for content in ("", "{", '{"seed": 4', "4", "\x00\x00"):
        (tmp_path / "1" / "summary.json").write_text(content)
        assert not is_done(cfg, tmp_path / "1")


@pytest.fixture
def dead_run(compose_train: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that has died in its third epoch."""
    step = Classifier.training_step

    def failing_step(self: Classifier, data: Any, batch_idx: int) -> torch.Tensor:
        if (self.current_epoch, batch_idx) == (2, 1):
            raise RuntimeError("power cut")
        return step(self, data, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "training_step", failing_step)
        with pytest.raises(RuntimeError, match="power cut"):
            run(compose_train(*SHORT, "mix=none"))
    return tmp_path / "run"


def test_a_used_folder_is_not_written_over(dead_run: Path, compose_train: Compose) -> None:
    config = (dead_run / "config.yaml").read_text()
    with pytest.raises(
        RunFolderError, match=r"holds another run \(checkpoints/last\.ckpt.*resume=auto, name another folder"
    ):
        check_folder(compose_train(*SHORT, "mix=none", "seed=1"), dead_run)
    assert (dead_run / "config.yaml").read_text() == config
    finished = run(compose_train(*SHORT, "mix=none", "resume=auto"))
    with pytest.raises(RunFolderError, match=r"holds another run \(summary\.json"):
        check_folder(compose_train(*SHORT, "mix=none"), dead_run)
    # Named in so many words, a finished run is trained further, and its old outcome goes.
    longer = run(compose_train(*SHORT, "mix=none", "epochs=4", f"resume={dead_run}"))
    assert (finished.epochs, longer.epochs) == (3, 4)


def test_what_a_resumed_run_may_do_otherwise(dead_run: Path, compose_train: Compose, tmp_path: Path) -> None:
    for override, said in (
        ("seed=1", r": data\.seed=1 \(trained with 0\), seed=1 \(trained with 0\)\. A resumed run keeps"),
        ("model.width=8", r": model\.width=8 \(trained with 4\)\."),
        ("mix=cutmix", r": mix\._target_=.*CutMixCallback \(trained with null\)"),
        ("data.split_seed=3", r": data\.split_seed=3 \(trained with null\)\."),
        ("optimizer.lr=0.5", r": optimizer\.lr=0\.5 \(trained with 0\.1\)\."),
        ("loss=bce_softmax", r": loss=bce_softmax \(trained with ce\)\."),
        ("trainer.limit_train_batches=3", r": trainer\.limit_train_batches=3 \(trained with 4\)\."),
        ("epochs=1", r"^epochs=1 is less than the 2 epochs that"),
    ):
        mix = [] if override.startswith("mix=") else ["mix=none"]
        for resume in ("auto", str(dead_run), str(dead_run / "checkpoints" / "last.ckpt")):
            cfg = compose_train(*SHORT, *mix, override, f"resume={resume}")
            with pytest.raises(RunFolderError, match=said):
                check_start(cfg, find_start(cfg.resume, dead_run))
    for overrides, notes in (
        (["logger=tensorboard", "name=other", "data.num_workers=1", "paths.data_dir=/elsewhere"], []),
        (["epochs=5"], ["resumed with other settings: epochs=5 (trained with 3)"]),
        (["trainer.precision=64"], ["resumed with other settings: trainer.precision=64 (trained with null)"]),
    ):
        cfg = compose_train(*SHORT, "mix=none", "resume=auto", *overrides)
        assert check_start(cfg, find_start("auto", dead_run)) == notes


@pytest.mark.filterwarnings("ignore")
def test_other_data_are_told_from_the_same_data_elsewhere(
    compose_train: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_folders(tmp_path / "here", ("train", "val"))
    overrides = (
        "data=imagefolder", "data.image_size=16", "data.batch_size=2", "data.num_workers=0", "model.width=4", "trainer=cpu",
        "mix=none", "resume=auto",
    )  # fmt: skip
    run(compose_train(*overrides, f"data.root={tmp_path / 'here'}", "epochs=1"))
    (tmp_path / "run" / "summary.json").unlink()
    shutil.copytree(tmp_path / "here", tmp_path / "moved")
    summary = run(compose_train(*overrides, f"data.root={tmp_path / 'moved'}", "epochs=2"))
    assert summary.epochs == 2
    assert f"data.root={tmp_path / 'moved'} (trained with {tmp_path / 'here'})" in caplog.text
    (tmp_path / "run" / "summary.json").unlink()
    next((tmp_path / "moved" / "train").rglob("*.jpg")).unlink()
    with pytest.raises(RunFolderError, match=r"is of a run with train_images=\d; data has \d"):
        run(compose_train(*overrides, f"data.root={tmp_path / 'moved'}", "epochs=3"))
    for part in ("train", "val"):
        (tmp_path / "here" / part / "cat").rename(tmp_path / "here" / part / "horse")
    with pytest.raises(
        RunFolderError, match=r"is of a run with class_names=\['cat', 'dog'\]; data has \['dog', 'horse'\]"
    ):
        run(compose_train(*overrides, f"data.root={tmp_path / 'here'}", "epochs=3"))


def test_a_checkpoint_that_is_not_whole(dead_run: Path) -> None:
    """Of any length, and with a single byte changed: it is refused, and the best one can be named."""
    last, best = (dead_run / "checkpoints" / name for name in ("last.ckpt", "best.ckpt"))
    whole = last.read_bytes()
    assert find_start("auto", dead_run).checkpoint == last
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 1
    torn = [whole[:size] for size in (0, 1, 100, len(whole) // 2, len(whole) - 1)] + [bytes(len(whole)), bytes(changed)]
    for content in torn:
        last.write_bytes(content)
        for resume in ("auto", str(dead_run), str(last)):
            with pytest.raises(RunFolderError, match=rf"^{last} is missing, damaged.*such as best\.ckpt beside it"):
                find_start(resume, dead_run)
    torch.save({"state_dict": {}}, last)
    with pytest.raises(RunFolderError, match=r"nothing that a training can resume from"):
        find_start(str(last), dead_run)
    assert find_start(str(best), dead_run).epochs in {1, 2}
    # As after a kill in the first epoch, between the two.
    last.unlink()
    assert find_start("auto", dead_run).checkpoint == best
    best.unlink()
    assert find_start("auto", dead_run).checkpoint is None


def test_metrics_that_are_cut_off(dead_run: Path) -> None:
    path = dead_run / "logs" / "metrics.csv"
    whole = path.read_bytes()
    lines = read_lines(path)
    assert len(lines) == 4
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        assert read_lines(path) == lines[: len(read_lines(path))]
    path.write_bytes(whole + b"\x00" * 50)
    assert read_lines(path) == lines
    path.write_bytes(b"\xff\xfe" + whole)
    assert all("step" in line for line in read_lines(path))


def test_a_full_disk_keeps_the_last_whole_checkpoint(
    dead_run: Path, compose_train: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = dead_run / "checkpoints" / "last.ckpt"
    before = last.read_bytes()
    replace = Path.replace

    def full(path: Path, target: Path) -> Path:
        if ".ckpt" in path.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(UnwritableError, match=r"\.ckpt cannot be written: No space left on device"):
            run(compose_train(*SHORT, "mix=none", "resume=auto"))
    assert last.read_bytes() == before
    assert not list(last.parent.glob(".*"))
    assert run(compose_train(*SHORT, "mix=none", "resume=auto")).epochs == 3


def test_the_log_on_a_full_disk_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import logging

    handler = LogFile(tmp_path / "train.log")

    class Full:
        def write(self, _: str) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    stream, handler.stream = handler.stream, Full()  # type: ignore[assignment]
    for _ in range(3):
        handler.handle(logging.LogRecord("x", logging.INFO, "", 1, "line", None, None))
    handler.stream = stream
    handler.close()
    said = capsys.readouterr()
    assert said.out.count("cannot be written: No space left on device") == 1
    assert "Traceback" not in said.err


def test_what_killed_writers_left_goes_when_the_folder_is_taken(compose_train: Compose, tmp_path: Path) -> None:
    compose_train()
    draft = tmp_path / "run" / "checkpoints" / ".last.ckpt.0123abcd.part"
    draft.parent.mkdir(parents=True)
    draft.touch()
    with owned(tmp_path / "run"):
        assert not draft.exists()


# As if the clock stood still: Hydra names the folders by it.
SAME_SECOND = """
import datetime, runpy, sys
import hydra.core.utils as utils
class Fixed(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.datetime(2026, 1, 31, 12, 0, 0)
utils.datetime = Fixed
sys.argv = ["experiments.train", *sys.argv[1:]]
runpy.run_module("experiments.train", run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
def test_three_runs_in_the_same_second_have_a_folder_each(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SAME_SECOND, *SHORT, "mix=none", "epochs=1", f"paths.runs={tmp_path}"]
    started = [
        subprocess.Popen([*command, f"seed={seed}"], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for seed in range(3)
    ]
    said = [process.communicate(timeout=240)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], said
    seeds = {path.parent.name: json.loads(path.read_text())["seed"] for path in tmp_path.rglob("summary.json")}
    assert sorted(seeds) == ["2026-01-31_12-00-00", "2026-01-31_12-00-00_2", "2026-01-31_12-00-00_3"]
    assert sorted(seeds.values()) == [0, 1, 2]
    for name, seed in seeds.items():
        assert f"seed: {seed}\n" in (tmp_path / "digits_none" / name / "config.yaml").read_text()


def test_a_moved_run_knows_its_best_epoch(tmp_path: Path) -> None:
    """Lightning would begin to compare anew, and a worse epoch would take the place of the best."""
    old, new = (build_checkpoints(tmp_path / name)[0] for name in ("old", "new"))
    kept = str(tmp_path / "old" / "checkpoints" / "best.ckpt")
    state = {
        **old.state_dict(), "dirpath": old.dirpath, "best_model_path": kept, "kth_best_model_path": kept,
        "best_model_score": torch.tensor(0.9), "kth_value": torch.tensor(0.9), "best_k_models": {kept: torch.tensor(0.9)},
    }  # fmt: skip
    assert old.state_key == new.state_key
    assert old.state_key.startswith("ModelCheckpoint")
    (tmp_path / "new" / "checkpoints").mkdir(parents=True)
    (tmp_path / "new" / "checkpoints" / "best.ckpt").touch()
    new.load_state_dict(state)
    assert new.best_model_path == str(tmp_path / "new" / "checkpoints" / "best.ckpt")
    assert new.best_model_score == torch.tensor(0.9)
