"""What W&B and TensorBoard are told of a run and of its evaluation, read back from the files that they would show."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_line import launch
from hydra.core.hydra_config import HydraConfig
from logged import panels, read_tensorboard, run_record, table
from omegaconf import DictConfig, OmegaConf, read_write
from PIL import Image
from wandb_files import read_run

from experiments.loggers.builders import WANDB_ID, seedless_group
from experiments.test_results.results import TEST_RESULTS, TestResults
from experiments.train import run

Compose = Callable[..., DictConfig]
TINY = (
    "model.width=4", "scheduler.warmup_epochs=0", "trainer=cpu", "trainer.limit_train_batches=3",
    "trainer.limit_val_batches=1", "trainer.limit_test_batches=2", "trainer.log_every_n_steps=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs in one process, told apart by their seeds, and an evaluation of the second."""
    folder = tmp_path_factory.mktemp("wandb")
    settings = [*TINY, "epochs=1", "logger=wandb", "logger.project=digits", "mix.config.beta=0.8"]
    done = launch("train", "--multirun", "seed=0,1", *settings, f"hydra.sweep.dir={folder}", WANDB_MODE="offline")
    assert done.returncode == 0, done.stderr
    done = launch(
        "evaluate", f"checkpoint={folder}/1_digits_puzzlemix/checkpoints/last.ckpt", "attacks=[fgsm_8]", "limit=40",
        "device=cpu", "logger=wandb", WANDB_MODE="offline",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def test_wandb_knows_settings_scores_and_metrics(sweep: Path) -> None:
    folder = sweep / "0_digits_puzzlemix"
    told, summary = read_run(folder), json.loads((folder / "summary.json").read_text())
    stored = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
    del stored["logger"]
    assert {key: told.config[key] for key in stored} == stored
    assert told.config["choices"] == summary["choices"]
    assert (told.config["choices"]["mix"], told.config["seed"]) == ("puzzlemix", 0)
    assert "logger" not in told.config
    for name, value in summary["test"].items():
        assert told.summary[f"test_{name}"] == pytest.approx(value), name
    for name in ("best", "median_last_10"):
        assert told.summary[f"test_accuracy_{name}"] == pytest.approx(summary["test_accuracy_by_epoch"][name])
    # Each number that the CSV has, W&B has too.
    with (folder / "logs" / "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            metrics = {key: float(value) for key, value in row.items() if value and key not in ("step", "epoch")}
            assert any(
                line.get("trainer/global_step") == int(row["step"])
                and all(line.get(key) == pytest.approx(value, rel=1e-4) for key, value in metrics.items())
                for line in told.history
            ), row
    assert sum("val_accuracy" in line for line in told.history) == 1


def test_wandb_gets_the_outcome_as_charts_and_tables(sweep: Path) -> None:
    folder = sweep / "0_digits_puzzlemix"
    told, outcome = read_run(folder), TestResults.load(folder / TEST_RESULTS)
    assert panels(folder) == {
        "test/confusion_matrix": "wandb/confusion_matrix/v1",
        "test/calibration": "wandb/lineseries/v0",
        "test/per_class_accuracy": "wandb/bar/v0",
    }
    names = outcome.class_names
    assert names == tuple("0123456789")
    rows = table(told, "test/confusion_matrix_table")
    cells = {(names.index(true), names.index(predicted)): count for true, predicted, count in rows}
    assert cells == dict(np.ndenumerate(outcome.confusion))
    assert outcome.images == json.loads((folder / "summary.json").read_text())["test_images"] == 128
    accuracy = outcome.per_class_accuracy().tolist()
    assert table(told, "test/per_class_accuracy_table") == [list(row) for row in zip(names, accuracy, strict=True)]
    counts = outcome.per_class_count().tolist()
    assert table(told, "test/classes") == [list(row) for row in zip(names, accuracy, counts, strict=True)]
    pairs = outcome.most_confused(100)
    assert table(told, "test/most_confused") == [[each.true, each.predicted, each.count, each.share] for each in pairs]
    curve = outcome.calibration
    drawn = [[x, y] for x, line, y in table(told, "test/calibration_table") if line == "model"]
    filled = curve.count > 0
    assert drawn == np.stack([curve.confidence, curve.accuracy], axis=1)[filled].tolist()
    bins = table(told, "test/calibration_bins")
    assert [row[-1] for row in bins] == curve.count.tolist()
    assert [row[2] is None for row in bins] == (~filled).tolist()


def test_wandb_gets_what_the_callback_shows(sweep: Path) -> None:
    told = read_run(sweep / "0_digits_puzzlemix")
    for name in ("ratio", "mask_entropy", "moved_blocks", "retained_saliency", "retained_saliency_cutmix"):
        values = [line[f"puzzlemix/{name}"] for line in told.history if f"puzzlemix/{name}" in line]
        assert len(values) == 3, name
        assert all(0 <= value <= 1 for value in values), name
    pictures = list((told.files / "media" / "images" / "puzzlemix").glob("mix_*.png"))
    assert pictures
    for path in pictures:
        with Image.open(path) as picture:
            assert min(picture.size) > 200


def test_runs_of_a_sweep_are_told_apart_and_grouped(sweep: Path) -> None:
    first = run_record(sweep / "0_digits_puzzlemix")
    assert first.run_id == (sweep / "0_digits_puzzlemix" / WANDB_ID).read_text()
    assert first.run_id != (sweep / "1_digits_puzzlemix" / WANDB_ID).read_text()
    assert (first.project, first.display_name, first.job_type) == ("digits", "digits_puzzlemix", "train")
    # The training of the other seed is of the same group.
    logs = sorted((sweep / "1_digits_puzzlemix").glob("wandb/offline-run-*/run-*.wandb"))
    assert len(logs) == 2
    group = first.run_group.encode()
    assert group.startswith(b"digits_puzzlemix ")
    assert group in logs[0].read_bytes()


def test_an_evaluation_goes_on_with_the_run_of_the_training(sweep: Path) -> None:
    folder = sweep / "1_digits_puzzlemix"
    told, record = read_run(folder), run_record(folder)
    assert record.run_id == (folder / WANDB_ID).read_text()
    # Neither renamed nor regrouped, and in its own project.
    assert (record.project, record.display_name, record.run_group, record.job_type) == ("digits", "", "", "")
    saved = json.loads((folder / "evaluation_last" / "evaluation.json").read_text())
    clean, attacked = saved["clean"]["accuracy"], saved["attacks"]["fgsm_8"]["accuracy"]
    assert told.summary["robustness/clean"] == pytest.approx(clean)
    assert told.summary["robustness/fgsm_8"] == pytest.approx(attacked)
    assert table(told, "robustness/attacks_table") == [["clean", clean, 0], ["fgsm_8", attacked, 8 / 255]]
    assert panels(folder) == {"robustness/attacks": "wandb/bar/v0"}
    assert told.history[-1]["trainer/global_step"] == 3
    assert told.config["evaluation"]["settings"]["limit"] == 40
    with Image.open(told.files / told.summary["robustness/picture"]["path"]) as picture:
        assert min(picture.size) > 200


def test_tensorboard_gets_a_run(compose_train: Compose, tmp_path: Path) -> None:
    summary = run(compose_train(*TINY, "epochs=2", "mix=mixup", "logger=tensorboard"))
    events = read_tensorboard(tmp_path / "run" / "tensorboard")
    tags = events.Tags()
    pictures = {"test/confusion_matrix", "test/calibration", "test/per_class_accuracy", "mixup/mix"}
    assert pictures <= set(tags["images"])
    for tag in pictures:
        assert min(events.Images(tag)[-1].width, events.Images(tag)[-1].height) > 200
    assert {"val_nll", "val_accuracy", "mixup/ratio", "mixup/mixing_seconds"} <= set(tags["scalars"])
    for name, value in summary.test.items():
        (score,) = events.Scalars(f"hp/test_{name}")
        assert (score.step, score.value) == (6, pytest.approx(value))
    (config,) = events.Tensors("config/text_summary")
    text = config.tensor_proto.string_val[0].decode()
    assert "      _target_: lightning_puzzlemix.MixUpCallback" in text.splitlines()
    assert "mix: mixup" in text
    # The parameters that the table of TensorBoard's HParams shows.
    assert {"_hparams_/session_start_info", "_hparams_/experiment"} <= set(tags["tensors"]) | set(
        events.summary_metadata
    )


def set_overrides(*overrides: str) -> None:
    with read_write(HydraConfig.get()):
        HydraConfig.get().overrides.task = list(overrides)


def test_the_group_leaves_out_the_seed_and_where_things_go(compose_train: Compose) -> None:
    compose_train()
    set_overrides(
        "seed=3", "mix=none", "logger=wandb", "logger.project=x", "resume=auto", "paths.runs=/x", "data.seed=1"
    )
    assert seedless_group("name") == "name data.seed=1 mix=none"
    groups = set()
    for last in "ab":
        set_overrides(*(f"model.setting_{index}=1" for index in range(20)), f"zzz={last}")
        groups.add(seedless_group("name"))
    assert len(groups) == 2
    assert all(len(group) <= 128 for group in groups)
