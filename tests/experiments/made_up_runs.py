"""Folders of runs that never ran, with the files that a run leaves behind."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from experiments.runs.summary import AccuracyByEpoch, EpochSeconds, Summary

CHOICES = {
    "data": "digits", "model": "small", "optimizer": "sgd", "mix": "puzzlemix", "trainer": "cpu", "strategy": "single",
    "logger": "csv", "experiment": None,
}  # fmt: skip
# What the option of a group brings into the config.
FOLLOWS = {"none": None, "cutmix": "pm.CutMixCallback", "puzzlemix": "pm.PuzzleMixCallback"}


def make_run(
    folder: Path, *, seed: int = 0, accuracy: float = 0.9, choices: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None, by_epoch: AccuracyByEpoch | None = None, **scores: float,
) -> Path:  # fmt: skip
    """A finished run; `choices` and `settings` (by dotted key) are those of its command line."""
    folder.mkdir(parents=True)
    chosen = {**CHOICES, **(choices or {})}
    given = {"seed": seed, **(choices or {}), **(settings or {})}
    summary = Summary(
        name=f"digits_{chosen['mix']}",
        choices=chosen,
        overrides=[f"{key}={value}" for key, value in given.items()],
        seed=seed,
        epochs=20,
        parameters=1000,
        train_images=1200,
        test_images=128,
        val_accuracy=0.8,
        test={"accuracy": accuracy, "calibration_error": 0.02, "nll": 0.25, **scores},
        test_accuracy_by_epoch=by_epoch,
        epoch_seconds=EpochSeconds(total=1.5, saliency=0.0, mixing=0.0),
        total_seconds=30.0,
    )
    summary.save(folder / "summary.json")
    config = OmegaConf.create(
        {
            "seed": seed,
            "name": summary.name,
            "epochs": 20,
            "data": {"seed": seed, "split_seed": 0},
            "mix": {"_target_": FOLLOWS[chosen["mix"]], "seed": seed, "config": {}},
            "trainer": {"default_root_dir": str(folder), "max_epochs": 20},
            "paths": {"run_dir": str(folder)},
        }
    )
    for key, value in (settings or {}).items():
        OmegaConf.update(config, key, value)
    OmegaConf.save(config, folder / "config.yaml")
    return folder


def make_unfinished(folder: Path, *overrides: str, log: str = "", error: str = "", job: str = "train") -> None:
    """A run that Hydra has started and that has no outcome."""
    (folder / ".hydra").mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(list(overrides)), folder / ".hydra" / "overrides.yaml")
    OmegaConf.save(OmegaConf.create({"hydra": {"job": {"name": job}}}), folder / ".hydra" / "hydra.yaml")
    for name, text in (("train.log", log), ("error.txt", error)):
        if text:
            (folder / name).write_text(text)


def make_evaluation(folder: Path, *, accuracy: float, eps: float = 4 / 255, images: int = 128) -> None:
    """What an evaluation under FGSM leaves in `folder`."""
    folder.mkdir()
    attack = {"kind": "fgsm", "eps": eps, "accuracy": accuracy, "images": images, "seconds": 1.0}
    (folder / "evaluation.json").write_text(json.dumps({"test_images": 128, "attacks": {"a": attack}}))
