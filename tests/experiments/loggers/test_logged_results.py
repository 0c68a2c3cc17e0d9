"""What made-up results become in W&B and TensorBoard: of many classes, of corrupted images, of runs from elsewhere."""

from pathlib import Path

import numpy as np
import pytest
import torch
import wandb
from logged import panels, read_tensorboard, table
from omegaconf import OmegaConf
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger
from wandb_files import read_run

from experiments.checkpoints.location import CheckpointLocation
from experiments.loggers.builders import WANDB_ID, build_wandb_logger, ended_wandb_run
from experiments.loggers.results import log_test_results
from experiments.robustness import (
    AttackScores,
    CleanScores,
    CorruptionScores,
    EvaluationResults,
    build_loggers,
    log_evaluation,
)
from experiments.runs.summary import AccuracyByEpoch, EpochSeconds, Summary
from experiments.test_results import TestResultCounts, TestResults

SCORES = {"test_accuracy": 0.5, "test_top5": 0.75, "test_accuracy_best": 0.625, "test_accuracy_median_last_10": 0.375}


def made_up_report() -> EvaluationResults:
    """An attack, and two types of corruption: one of the published 15 and one more."""
    facts = {"checkpoint": "a.ckpt", "epoch": 3, "device": "cpu", "settings": {"limit": None}}
    report = EvaluationResults(facts=facts)
    report.clean = CleanScores(accuracy=0.75, top5=None, calibration_error=0.1, nll=1.0, images=8, seconds=1.0)
    report.attacks["pgd"] = AttackScores(eps=4 / 255, accuracy=0.25, images=8, seconds=1.0)
    accuracy = {
        "fog": {severity: 1 - severity / 8 for severity in range(1, 6)},
        "spatter": dict.fromkeys(range(1, 6), 0.5),
    }
    report.corruptions = CorruptionScores(root="/c", images=8, accuracy=accuracy)
    return report


SCALARS = {
    "robustness/clean": 0.75, "robustness/pgd": 0.25, "robustness/corrupted": 0.625,
    "robustness/corrupted/fog": 0.625, "robustness/corrupted/spatter": 0.5,
}  # fmt: skip


def made_up_summary() -> Summary:
    return Summary(
        name="made_up", choices={"mix": "none"}, overrides=[], seed=0, epochs=4, parameters=1, train_images=1,
        test_images=300, val_accuracy=None, test={"accuracy": 0.5, "top5": 0.75},
        test_accuracy_by_epoch=AccuracyByEpoch(best=0.625, last=0.5, median_last_10=0.375),
        epoch_seconds=EpochSeconds(1.0, 0.0, 0.0), total_seconds=4.0,
    )  # fmt: skip


def made_up_outcome(classes: int) -> TestResults:
    generator = torch.Generator().manual_seed(0)
    counts = TestResultCounts(classes)
    counts.update(torch.randn(300, classes, generator=generator), torch.randint(classes, (300,), generator=generator))
    return counts.results()


@pytest.mark.usefixtures("offline_wandb")
def test_many_classes_and_corruptions_in_wandb(tmp_path: Path) -> None:
    outcome, cfg = made_up_outcome(120), OmegaConf.create({"seed": 0, "logger": {"api_key": "secret"}})
    with ended_wandb_run():
        logger = build_wandb_logger(str(tmp_path), project="many", name="made_up")
        log_test_results([logger], outcome, made_up_summary(), cfg, step=40)
        log_evaluation([logger], made_up_report(), "made up", step=40)
        assert wandb.run is not None
    assert wandb.run is None
    told = read_run(tmp_path)
    # 120 x 120 rows would be more than a chart of W&B holds.
    for key in ("test/confusion_matrix", "test/per_class_accuracy"):
        with Image.open(told.files / told.summary[key]["path"]) as picture:
            assert min(picture.size) > 400
    accuracies = [np.nan if row[1] is None else row[1] for row in table(told, "test/classes")]
    assert np.isnan(accuracies).any()
    assert accuracies == pytest.approx(outcome.per_class_accuracy().tolist(), nan_ok=True)
    assert len(table(told, "test/most_confused")) == 100
    assert {key: told.summary[key] for key in SCALARS} == SCALARS
    assert {key: told.summary[key] for key in SCORES} == SCORES
    lines = table(told, "robustness/corruptions_table")
    assert [[severity, value] for severity, name, value in lines if name == "fog"] == [
        [severity, 1 - severity / 8] for severity in range(1, 6)
    ]
    rows = {name: values for name, *values in table(told, "robustness/corruptions_by_type")}
    assert rows == {"fog": [0.875, 0.75, 0.625, 0.5, 0.375, 0.625], "spatter": [0.5] * 6}
    assert "robustness/corruptions" in panels(tmp_path)
    assert b"secret" not in next(tmp_path.glob("wandb/offline-run-*/run-*.wandb")).read_bytes()


def test_tensorboard_gets_an_evaluation(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, name="tensorboard", version="")
    log_evaluation([logger], made_up_report(), "made up", step=40)
    events = read_tensorboard(tmp_path / "tensorboard")
    assert {tag: (events.Scalars(tag)[0].step, events.Scalars(tag)[0].value) for tag in SCALARS} == {
        tag: (40, value) for tag, value in SCALARS.items()
    }
    (picture,) = events.Images("robustness/plot")
    assert (picture.step, picture.width > 400) == (40, True)


@pytest.mark.usefixtures("offline_wandb")
def test_an_evaluation_without_a_run_in_wandb_begins_one(tmp_path: Path) -> None:
    target = {"_target_": "experiments.loggers.builders.build_wandb_logger", "run_dir": str(tmp_path / "evaluation")}
    for node, expected in (({"project": "p", "name": None}, "a/b, best"), ({"project": "p", "name": "mine"}, "mine")):
        cfg = OmegaConf.create({"logger": {**target, **node}})
        with ended_wandb_run():
            (logger,) = build_loggers(cfg, CheckpointLocation(tmp_path / "a.ckpt", None), "a/b, best")
            assert (logger.experiment.name, logger.experiment.job_type) == (expected, "evaluate")
            (tmp_path / "evaluation" / WANDB_ID).unlink()
    off = OmegaConf.create({"logger": {"_target_": None}})
    assert build_loggers(off, CheckpointLocation(tmp_path / "a.ckpt", None), "x") == []


@pytest.mark.usefixtures("offline_wandb")
def test_a_run_that_dies_ends_its_wandb_run_and_goes_on_with_it(tmp_path: Path) -> None:
    ids = []

    def begin(folder: str) -> None:
        ids.append(build_wandb_logger(str(tmp_path / folder), project="p", name="dead").experiment.id)
        raise RuntimeError("power cut")

    for folder in ("a", "b", "a"):
        with pytest.raises(RuntimeError, match="power cut"), ended_wandb_run():
            begin(folder)
        assert wandb.run is None
    assert ids[0] == ids[2] != ids[1]
    assert (tmp_path / "a" / WANDB_ID).read_text() == ids[0]
