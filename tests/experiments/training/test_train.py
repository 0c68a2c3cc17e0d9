"""Whole runs on the digits, a few batches long."""

import csv
import json
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command_line import REPOSITORY, TINY, launch, without_other_extras
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from experiments.common import UserError
from experiments.test_results.results import TestResults
from experiments.train import run
from experiments.training.builders import build_components
from experiments.training.module import Classifier

Compose = Callable[..., DictConfig]


def read_metrics(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "logs" / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("mix", ["none", "puzzlemix"])
def test_a_run_leaves_everything_behind(mix: str, compose_train: Compose, tmp_path: Path) -> None:
    cfg = compose_train(*TINY, f"mix={mix}")
    summary = run(cfg)
    run_dir = tmp_path / "run"
    saved = json.loads((run_dir / "summary.json").read_text())
    assert saved["test"] == summary.test
    assert saved["choices"]["mix"] == mix
    assert (saved["epochs"], saved["test_images"]) == (2, 128)
    assert 0 <= saved["test"]["accuracy"] <= 1
    assert OmegaConf.load(run_dir / "config.yaml") == OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))
    with Image.open(run_dir / "images.png") as picture:
        assert min(picture.size) > 200
    outcome = TestResults.load(run_dir / "test_results.json")
    assert outcome.class_names == tuple("0123456789")
    assert (outcome.images, outcome.calibration.count.sum()) == (128, 128)
    assert outcome.accuracy == pytest.approx(summary.test["accuracy"])
    assert outcome.calibration.expected_error == pytest.approx(summary.test["calibration_error"], rel=1e-4)
    rows = read_metrics(run_dir)
    for column in ("train_loss", "train_accuracy", "val_accuracy", "val_nll", "epoch_seconds", "lr"):
        assert sum(bool(row[column]) for row in rows) == 2, column
    # After both epochs, beside the validation images, and at the end.
    scores = [float(row["test_accuracy"]) for row in rows if row["test_accuracy"]]
    assert len(scores) == 3
    by_epoch = saved["test_accuracy_by_epoch"]
    assert (by_epoch["best"], by_epoch["last"]) == pytest.approx((max(scores[:2]), scores[1]))
    versions = json.loads((run_dir / "versions.json").read_text())
    assert versions["torch"] == torch.__version__.split("+")[0] or versions["torch"] == torch.__version__
    for name in ("best.ckpt", "last.ckpt"):
        checkpoint = torch.load(run_dir / "checkpoints" / name, weights_only=False)
        assert any(key.startswith("net.") for key in checkpoint["state_dict"])
    seconds = saved["epoch_seconds"]
    assert (seconds["saliency"] > 0) == (seconds["mixing"] > 0) == (mix == "puzzlemix")
    assert seconds["saliency"] + seconds["mixing"] < seconds["total"]


def test_same_seed_same_result_other_seed_another(compose_train: Compose) -> None:
    first, second = (run(compose_train(*TINY, "mix=none")).test for _ in range(2))
    assert first == second
    assert first["nll"] != run(compose_train(*TINY, "mix=none", "seed=1")).test["nll"]


def test_logger_none_writes_no_csv_but_the_summary(compose_train: Compose, tmp_path: Path) -> None:
    run(compose_train(*TINY, "mix=none", "logger=none"))
    assert not (tmp_path / "run" / "logs").exists()
    assert (tmp_path / "run" / "summary.json").exists()


@pytest.mark.parametrize("mix", ["none", "puzzlemix"])
def test_a_dead_run_keeps_checkpoint_and_metrics_and_resumes(
    mix: str, compose_train: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped by an error in the second epoch, then resumed: the same result as a run that was not stopped."""
    overrides = (*TINY, f"mix={mix}")
    whole = run(compose_train(*overrides)).test
    step = Classifier.training_step

    def failing_step(self: Classifier, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        if self.current_epoch == 1 and batch_idx == 2:
            raise RuntimeError("power cut")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Classifier, "training_step", failing_step)
    with pytest.raises(RuntimeError, match="power cut"):
        run(compose_train(*overrides))
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=False)["epoch"] == 0
    assert sum(bool(row["val_accuracy"]) for row in read_metrics(tmp_path / "run")) == 1
    monkeypatch.setattr(Classifier, "training_step", step)
    kept = last.rename(tmp_path / "kept.ckpt")
    resumed = run(compose_train(*overrides, f"resume={kept}"))
    assert resumed.epochs == 2
    assert resumed.test == pytest.approx(whole, rel=1e-4)


def check_commands(lines: list[str]) -> None:
    """Each command and what it is for, in turn; all of them must be understood when pasted into a shell."""
    commands = [shlex.split(line) for line in lines[::2]]
    assert [words[2] for words in commands] == [f"experiments.{name}" for name in ("train", "evaluate", "show_mixing")]
    for python, _, module, *arguments in commands:
        option = "--help" if module.endswith("show_mixing") else "--cfg=job"
        done = subprocess.run(
            [python, "-m", module, *arguments, option], cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


def test_command_line_ends_with_what_was_done_and_what_to_do_next(tmp_path: Path) -> None:
    result = launch("train", *TINY, "mix=none", f"paths.runs={tmp_path}", "logger=tensorboard")
    assert result.returncode == 0, result.stderr
    for text in ("test accuracy", "test calibration error", "seconds per epoch", "epoch   2/2"):
        assert text in result.stdout
    (run_dir,) = (tmp_path / "digits_none").iterdir()
    accuracy = json.loads((run_dir / "summary.json").read_text())["test"]["accuracy"]
    assert f"Test accuracy: {accuracy:.2%} of 128 images" in result.stdout
    lines = result.stdout.split("Trained the network small")[1].splitlines()
    assert lines[0].endswith("images of digits, without mixing: 2 epochs, seed 0.")
    paths = {line.rsplit("  ", 1)[0].strip(): Path(line.rsplit("  ", 1)[1]) for line in lines[3:8]}
    assert paths == {
        "picture of training images, not mixed": run_dir / "images.png",
        "report, for a browser": run_dir / "report.html",
        "best checkpoint": run_dir / "checkpoints" / "best.ckpt",
        "last checkpoint": run_dir / "checkpoints" / "last.ckpt",
        "all files": run_dir,
    }
    assert all(path.exists() for path in paths.values())
    check_commands(lines[lines.index("Next steps:") + 1 :])
    assert "epoch   2/2" in (run_dir / "train.log").read_text()
    assert list((run_dir / "tensorboard").glob("events*"))


def test_a_sweep_gives_each_job_its_own_folder(tmp_path: Path) -> None:
    # Nothing is needed that [experiments] does not install.
    blocked = without_other_extras(tmp_path / "blocked")
    result = launch("train", "--multirun", "seed=0,1", *TINY, "mix=none", f"paths.runs={tmp_path}", **blocked)
    assert result.returncode == 0, result.stderr
    summaries = {path.parent.name: json.loads(path.read_text()) for path in tmp_path.rglob("summary.json")}
    assert {name: summary["seed"] for name, summary in summaries.items()} == {"0_digits_none": 0, "1_digits_none": 1}


def test_command_line_without_data_ends_in_a_message(tmp_path: Path) -> None:
    result = launch(
        "train", "data=tiny_imagenet", "mix=none", f"paths.runs={tmp_path}", PUZZLEMIX_DATA=str(tmp_path / "absent")
    )
    assert result.returncode == 1
    assert "Traceback" not in result.stdout + result.stderr
    for hint in (str(tmp_path / "absent"), "data.root=", "tiny-imagenet-200.zip"):
        assert hint in result.stdout


def test_command_line_without_a_required_setting_names_it(tmp_path: Path) -> None:
    result = launch("train", "data=imagefolder", "mix=none", f"paths.runs={tmp_path}")
    assert result.returncode == 1
    assert "Traceback" not in result.stdout + result.stderr
    assert "data.root=..." in result.stdout


@pytest.mark.parametrize("mix", [pytest.param("none", marks=pytest.mark.slow), "puzzlemix"])
def test_two_processes(mix: str, tmp_path: Path) -> None:
    result = launch("train", *TINY, "strategy=ddp", "trainer.devices=2", f"mix={mix}", f"paths.runs={tmp_path}")
    assert result.returncode == 0, result.stderr
    (summary,) = tmp_path.rglob("summary.json")
    saved = json.loads(summary.read_text())
    assert saved["epochs"] == 2
    # Of both processes.
    outcome = TestResults.load(summary.with_name("test_results.json"))
    assert (outcome.images, outcome.calibration.count.sum()) == (128, 128)
    assert outcome.accuracy == pytest.approx(saved["test"]["accuracy"])
    assert outcome.calibration.expected_error == pytest.approx(saved["test"]["calibration_error"], rel=1e-4)
    assert result.stdout.count("epoch   2/2") == 1
    assert "effective batch 64 = 2 x 32 images, learning rate 0.1" in result.stdout
    # Lightning's hint at a value that would be logged from one process as if it were of all.
    assert "sync_dist" not in result.stdout + result.stderr


@pytest.mark.slow
def test_two_processes_in_each_job_of_a_sweep(tmp_path: Path) -> None:
    """The second process of a job must join that job, not start the sweep again."""
    overrides = [*TINY, "strategy=ddp", "trainer.devices=2", "mix=none", f"paths.runs={tmp_path}"]
    result = launch("train", "--multirun", "seed=0,1", *overrides)
    assert result.returncode == 0, result.stderr
    summaries = [json.loads(path.read_text()) for path in tmp_path.rglob("summary.json")]
    assert sorted(summary["seed"] for summary in summaries) == [0, 1]


@pytest.mark.slow
def test_main_job_learns_the_digits(tmp_path: Path) -> None:
    result = launch("train", f"paths.runs={tmp_path}")
    assert result.returncode == 0, result.stderr
    (summary,) = tmp_path.rglob("summary.json")
    saved = json.loads(summary.read_text())
    assert saved["test"]["accuracy"] > 0.97
    assert saved["total_seconds"] < 180


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["data.augment={AugMix: {}}", "data.views=clean"],
            "consistency_weight=0 and data.views=clean must be set together",
        ),
        (["consistency_weight=12"], "consistency_weight=12 and data.views=None must be set together"),
        (
            ["data.augment={AugMix: {}}", "data.views=clean", "consistency_weight=12", "mix=manifold"],
            "mix=manifold .* set data.views=null",
        ),
    ],
)
def test_a_consistency_loss_needs_views_that_are_not_mixed(
    settings: list[str], message: str, compose_train: Callable[..., DictConfig]
) -> None:
    with pytest.raises(UserError, match=message):
        build_components(compose_train("trainer=cpu", *settings))
