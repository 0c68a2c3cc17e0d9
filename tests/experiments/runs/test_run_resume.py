"""Runs that are stopped, resumed, found again or skipped."""

import csv
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, read_write

import lightning_puzzlemix as pm
from experiments.common.commands import as_typed_here, resume_command
from experiments.common.errors import RunFolderError
from experiments.runs import build_metrics_logger
from experiments.runs.hydra_setup import make_command_repeatable, take_folder
from experiments.runs.lock import release
from experiments.runs.resume import find_start, is_done
from experiments.runs.run_folder import comparable_overrides
from experiments.runs.stopping import RunStopped
from experiments.train import run
from experiments.training.module import Classifier

Compose = Callable[..., DictConfig]
# Four batches of 64 an epoch, shuffled and shifted at random.
SHORT = (
    "epochs=3", "model.width=4", "scheduler.warmup_epochs=0", "trainer=cpu", "trainer.limit_train_batches=4",
    "trainer.limit_val_batches=1", "trainer.limit_test_batches=2", "trainer.log_every_n_steps=1",
)  # fmt: skip


def read_metrics(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "logs" / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def stop_at(monkeypatch: pytest.MonkeyPatch, epoch: int, batch: int, *signals: int) -> None:
    """Have the training step send signals to its own process, once."""
    step, left = Classifier.training_step, list(signals)

    def signalling_step(self: Classifier, data: Any, batch_idx: int) -> torch.Tensor:
        if (self.current_epoch, batch_idx) == (epoch, batch):
            while left:
                signal.raise_signal(left.pop(0))
        return step(self, data, batch_idx)

    monkeypatch.setattr(Classifier, "training_step", signalling_step)


@pytest.mark.parametrize("mix", ["none", "puzzlemix"])
@pytest.mark.parametrize(
    ("signum", "batch"),
    [
        pytest.param(signal.SIGINT, 1, id="ctrl_c-mid_epoch"),
        pytest.param(signal.SIGTERM, 3, id="sigterm-last_batch"),
        pytest.param(signal.SIGINT, 3, id="ctrl_c-last_batch", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 1, id="sigterm-mid_epoch", marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_goes_on_as_if_nothing_had_happened(
    signum: int, batch: int, mix: str, compose_train: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = compose_train(*SHORT, f"mix={mix}", "resume=auto")
    run_dir = tmp_path / "run"
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    stop_at(monkeypatch, 1, batch, signum)
    with pytest.raises(RunStopped) as stopped:
        run(cfg)
    assert stopped.value.code == 128 + signum
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    last = run_dir / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 4 + batch + 1
    assert not (run_dir / "summary.json").exists()

    start = time.perf_counter()
    resumed = run(cfg)
    elapsed = time.perf_counter() - start
    lines = read_metrics(run_dir)
    if batch == 1:
        # The seconds of the part that was left of the epoch, not those since the machine was started.
        (seconds,) = (line["epoch_seconds"] for line in lines if line["epoch_seconds"] and line["epoch"] == "1")
        assert float(seconds) < elapsed
    (run_dir / "summary.json").unlink()
    for path in (run_dir / "checkpoints").iterdir():
        path.unlink()
    whole = run(cfg)
    assert resumed.test == pytest.approx(whole.test, rel=1e-5)
    assert resumed.test_accuracy_by_epoch == whole.test_accuracy_by_epoch
    assert resumed.epochs == 3
    for column in ("val_accuracy", "train_loss"):
        values = [line[column] for line in lines if line[column]]
        assert len(values) == 3, column
    steps = [int(line["step"]) for line in lines]
    assert steps == sorted(steps)


def test_clean_regularization_stays_ended_in_an_epoch_that_is_gone_on_with(
    compose_train: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = compose_train(*SHORT, "resume=auto", "mix.clean_weight=1.0", "clean_stop_epoch=1")
    stop_at(monkeypatch, 1, 1, signal.SIGTERM)
    with pytest.raises(RunStopped):
        run(cfg)
    weights: dict[int, set[float]] = {}
    step = Classifier.training_step

    def recording_step(self: Classifier, *arguments: Any) -> torch.Tensor:
        (mix,) = (each for each in self.trainer.callbacks if isinstance(each, pm.PuzzleMixCallback))
        weights.setdefault(self.current_epoch, set()).add(mix.mixer.clean_weight)
        return step(self, *arguments)

    monkeypatch.setattr(Classifier, "training_step", recording_step)
    run(cfg)
    assert weights == {1: {0.0}, 2: {0.0}}


def test_a_second_ctrl_c_stops_at_once(
    compose_train: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a new checkpoint, as a batch is cut in two; that of the last epoch is there."""
    stop_at(monkeypatch, 1, 2, signal.SIGINT, signal.SIGINT)
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit) as stopped:
            run(compose_train(*SHORT, "mix=none"))
    finally:
        # Lightning ignores the signal from here on, as the program is about to end.
        signal.signal(signal.SIGINT, interrupt)
    assert stopped.value.code == 130
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4
    assert "resume=auto" in capsys.readouterr().out


def test_a_run_that_dies_of_an_error_says_how_to_go_on(
    compose_train: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = Classifier.training_step

    def failing_step(self: Classifier, data: Any, batch_idx: int) -> torch.Tensor:
        if (self.current_epoch, batch_idx) == (1, 2):
            raise RuntimeError("power cut")
        return step(self, data, batch_idx)

    monkeypatch.setattr(Classifier, "training_step", failing_step)
    with pytest.raises(RuntimeError, match="power cut"):
        run(compose_train(*SHORT, "mix=none"))
    command = next(line for line in capsys.readouterr().out.splitlines() if "-m experiments.train" in line)
    words = shlex.split(command)
    # Found by the shell, and the one that has just run.
    assert Path(shutil.which(words[0]) or "").absolute().parent == Path(sys.executable).absolute().parent
    assert words[3 : 3 + len(SHORT)] == list(SHORT)
    assert {"resume=auto", "mix=none", "hydra.mode=RUN"} <= set(words)


def test_a_finished_run_is_left_alone_and_another_config_is_refused(
    compose_train: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = (*SHORT, "epochs=1", "mix=none", "resume=auto")
    first = run(compose_train(*overrides))
    monkeypatch.setattr(pl.Trainer, "fit", lambda *_, **__: pytest.fail("trained again"))
    assert run(compose_train(*overrides)) == first
    with pytest.raises(RunFolderError, match=r"other settings: .*optimizer\.lr=0\.01 \(trained with 0\.1\), seed=1"):
        run(compose_train(*overrides, "seed=1", "optimizer.lr=0.01"))


def test_without_resume_a_finished_folder_is_not_looked_at(compose_train: Compose, tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text("{}")
    (tmp_path / "config.yaml").write_text("seed: 5")
    assert not is_done(compose_train(), tmp_path)


def write_run(folder: Path, overrides: list[str], *, finished: bool) -> None:
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(overrides)))
    if finished:
        (folder / "summary.json").write_text("{}")


def taken(parent: Path, resume: str | None = "auto") -> str:
    """The name of the folder that a run takes below a folder, for a moment."""
    folder = take_folder(parent / "new", resume, is_free=True)
    release(folder)
    assert folder.parent == parent
    return folder.name


def set_overrides(*overrides: str) -> None:
    with read_write(HydraConfig.get()) as hydra:
        hydra.overrides.task = list(overrides)


def test_auto_finds_the_newest_unfinished_run_of_the_same_command(compose_train: Compose, tmp_path: Path) -> None:
    compose_train("seed=4", "resume=auto")
    for name, overrides, finished in (
        ("1", ["seed=4"], False),
        ("2", ["resume=auto", "seed=4"], False),
        ("3", ["seed=5"], False),
        ("4", ["seed=4"], True),
    ):
        write_run(tmp_path / name, overrides, finished=finished)
    set_overrides("seed=4", "resume=auto")
    assert taken(tmp_path) == "2"
    assert taken(tmp_path, None) == "new"
    set_overrides("seed=6", "resume=auto")
    assert taken(tmp_path) == "new_2"
    assert taken(tmp_path / "absent") == "new"


def test_where_a_run_goes_is_not_compared() -> None:
    overrides = ["seed=1", "resume=auto", "+paths.x=1", "paths.runs=/elsewhere", "mix=none"]
    assert comparable_overrides(overrides) == ["mix=none", "seed=1"]


def test_what_cannot_be_resumed_is_said(tmp_path: Path) -> None:
    assert find_start(None, tmp_path).checkpoint is None
    assert find_start("auto", tmp_path).checkpoint is None
    with pytest.raises(RunFolderError, match=r"last\.ckpt is missing, damaged"):
        find_start(str(tmp_path), tmp_path)
    with pytest.raises(RunFolderError, match=r"absent\.ckpt is missing"):
        find_start(str(tmp_path / "absent.ckpt"), tmp_path)


def test_metrics_after_the_checkpoint_are_dropped_and_those_before_kept(tmp_path: Path) -> None:
    first = build_metrics_logger(str(tmp_path), kept_steps=0)
    for step in range(4):
        first.log_metrics({"a": step / 2}, step)
    first.log_metrics({"b": 7.0}, 3)
    first.save()
    second = build_metrics_logger(str(tmp_path), kept_steps=2)
    second.log_metrics({"c": 1.0}, 2)
    second.save()
    found = [{key: value for key, value in line.items() if value} for line in read_metrics(tmp_path)]
    assert found == [{"a": "0.0", "step": "0"}, {"a": "0.5", "step": "1"}, {"c": "1.0", "step": "2"}]


def test_the_command_that_goes_on_survives_a_shell() -> None:
    command = resume_command(["mix=none", "mix.layers=[input, net.stages.0]", "resume=x"], Path("runs/a b"))
    assert shlex.split(command) == [
        "python", "-m", "experiments.train", "mix=none", "mix.layers=[input, net.stages.0]", "resume=auto",
        "hydra.run.dir=runs/a b", "hydra.mode=RUN",
    ]  # fmt: skip


def test_commands_name_this_python_where_the_shell_would_find_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command, python = "python -m experiments.train seed=1", Path(sys.executable)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(python.parent)
    assert as_typed_here(command) == f"./{python.name} -m experiments.train seed=1"
    monkeypatch.chdir(tmp_path)
    assert shlex.split(as_typed_here(command)) == [str(python.absolute()), *command.split()[1:]]
    (tmp_path / "python").write_text("#!/bin/sh")
    (tmp_path / "python").chmod(0o755)
    assert as_typed_here(command) != command
    monkeypatch.setenv("PATH", str(python.parent))
    assert as_typed_here(command) == command


def test_the_command_that_goes_on_survives_hydra(compose_train: Compose) -> None:
    """A folder named by a swept list is read back as it is."""
    folder = "runs/sweeps/x/mix.config.grid_sizes-[2,4]_seed-0"
    words = shlex.split(resume_command(["seed=3"], Path(folder)))
    compose_train(*words[3:])
    assert HydraConfig.get().run.dir == folder


def test_in_a_sweep_other_processes_repeat_the_job_and_not_the_sweep(
    compose_train: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["train", "--multirun", "seed=1,2"])
    compose_train("seed=2", "hydra.mode=RUN")
    make_command_repeatable()
    assert sys.argv == ["train", "--multirun", "seed=1,2"]
    compose_train("seed=2", "hydra.mode=MULTIRUN")
    with read_write(HydraConfig.get()) as hydra:
        hydra.runtime.output_dir = str(tmp_path)
    make_command_repeatable()
    assert sys.argv == ["train", "seed=2", f"paths.run_dir={tmp_path / 'run'}", "hydra.mode=RUN"]
    assert HydraConfig.get().run.dir == str(tmp_path)
