"""Runs that a signal ends, wherever they are; and results that stand whatever fails after them."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from command_line import REPOSITORY
from omegaconf import DictConfig

from experiments import html_report
from experiments.data import DigitsDataModule
from experiments.loggers import builders as loggers
from experiments.runs.stopping import RunStopped, interruptible
from experiments.train import run
from experiments.training.callbacks import EpochRecord
from experiments.training.module import Classifier

Compose = Callable[..., DictConfig]
TINY = (
    "epochs=1", "model.width=4", "scheduler.warmup_epochs=0", "trainer=cpu", "trainer.limit_train_batches=2", "mix=none",
    "trainer.limit_val_batches=1", "trainer.limit_test_batches=1", "trainer.log_every_n_steps=1",
)  # fmt: skip
# Where a run is when the signal comes, as the method that sends it.
PLACES: dict[str, tuple[type, str]] = {
    "download": (DigitsDataModule, "prepare_data"),
    "setup": (DigitsDataModule, "open_sources"),
    "sanity check": (Classifier, "validation_step"),
    "test": (Classifier, "test_step"),
}


def signal_from(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, signum: int) -> None:
    """Have a method send a signal to its own process before it does its work."""
    method = getattr(owner, name)

    def signalling(*arguments: Any, **options: Any) -> Any:
        signal.raise_signal(signum)
        return method(*arguments, **options)

    monkeypatch.setattr(owner, name, signalling)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("place", PLACES)
def test_wherever_a_signal_comes_it_is_said_and_the_command_goes_on(
    place: str, signum: int, compose_train: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patched:
        signal_from(patched, *PLACES[place], signum)
        with pytest.raises(RunStopped) as stopped:
            run(compose_train(*TINY, "resume=auto"))
    assert stopped.value.code == 128 + signum
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
    said = capsys.readouterr().out
    name = "Ctrl-C" if signum == signal.SIGINT else "SIGTERM"
    kept = "has a checkpoint" if place == "test" else "has no checkpoint yet"
    assert f"Stopped by {name}" in said
    assert kept in said
    assert "resume=auto hydra.run.dir=" in said
    assert not (tmp_path / "run" / "summary.json").exists()


def test_a_signal_after_the_last_batch_is_not_forgotten(
    compose_train: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nothing left to stop in training; the test is not begun all the same."""
    signal_from(monkeypatch, EpochRecord, "on_train_end", signal.SIGTERM)
    monkeypatch.setattr(pl.Trainer, "test", lambda *_, **__: pytest.fail("tested"))
    with pytest.raises(RunStopped) as stopped:
        run(compose_train(*TINY))
    assert stopped.value.code == 143


def test_a_signal_whose_exception_is_swallowed_still_counts() -> None:
    with pytest.raises(RunStopped, match="SIGTERM"), interruptible(), contextlib.suppress(BaseException):
        signal.raise_signal(signal.SIGTERM)


def test_a_loader_process_leaves_signals_to_its_parent() -> None:
    with interruptible():
        child = os.fork()
        if child == 0:
            try:
                signal.raise_signal(signal.SIGINT)
            finally:
                os._exit(0 if sys.exc_info()[0] is None else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("module", ["train", "evaluate"])
def test_while_importing_ctrl_c_ends_at_once_without_a_traceback(module: str) -> None:
    """Sent as soon as the package is there: torch takes seconds from then on."""
    hook = "import experiments, os, signal; os.kill(os.getpid(), signal.SIGINT)"
    # A stand-in for the first heavy import.
    program = f"import sys; sys.orig_argv = ['python', '-m', 'experiments.{module}']; {hook}"
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert result.returncode == -signal.SIGINT
    assert result.stderr == ""


def full_disk(*arguments: Any, **options: Any) -> Any:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("name", "missing", "remedy"),
    [
        ("training.save_training_images", "the picture images.png", "experiments.show_mixing --examples --checkpoint"),
        ("html_report.write_report", "the report", "experiments.report"),
        ("loggers.log_test_results", "the result in the loggers", "experiments.evaluate checkpoint="),
        ("runs.print_final_summary", "the final summary", "experiments.summarize"),
    ],
)
def test_what_fails_after_the_result_leaves_a_warning_and_a_finished_run(
    name: str, missing: str, remedy: str, compose_train: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(f"experiments.{name}", full_disk)
    summary = run(compose_train(*TINY))
    assert summary.epochs == 1
    assert (tmp_path / "run" / "summary.json").is_file()
    said = capsys.readouterr().out
    warning = f"Warning: {missing} is missing (OSError: [Errno 28] No space left on device); the result is saved."
    assert warning in caplog.text
    assert remedy in said


def test_wandb_that_cannot_end_leaves_a_finished_run(
    compose_train: Compose, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    class Wandb:
        finish = staticmethod(full_disk)

        class run:
            dir = str(tmp_path / "wandb" / "offline-run-1" / "files")

    monkeypatch.setitem(sys.modules, "wandb", Wandb)
    with loggers.ended_wandb_run():
        pass
    assert "Warning: the end of the run in W&B is missing" in caplog.text
    assert "wandb sync" in capsys.readouterr().out
    with pytest.raises(KeyError, match="first"), loggers.ended_wandb_run():
        raise KeyError("first")


def test_stopped_after_the_result_a_run_is_said_to_be_finished(
    compose_train: Compose, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    signal_from(monkeypatch, html_report, "write_report", signal.SIGINT)
    with pytest.raises(RunStopped, match="Ctrl-C"):
        run(compose_train(*TINY))
    said = capsys.readouterr().out
    assert "Stopped by Ctrl-C, but the run is finished and its result is saved" in said
    assert "-m experiments.report" in said


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("line", ["million parameters", "epoch   1/", "Trained the network"])
def test_a_real_process_ends_with_a_sentence(line: str, signum: int, tmp_path: Path) -> None:
    command = [sys.executable, "-u", "-m", "experiments.train", *TINY, f"paths.runs={tmp_path}"]
    process = subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    assert process.stdout is not None
    said = ""
    for text in process.stdout:
        if line in text and line not in said:
            process.send_signal(signum)
        said += text
    assert process.wait() == 128 + signum
    assert "Stopped by" in said
    assert "Traceback" not in said
