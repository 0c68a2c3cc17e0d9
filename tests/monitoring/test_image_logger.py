"""Images and metrics of a mix reach the loggers at the right steps, and never stop a training."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from callback_cases import Recorder, loader

import lightning_puzzlemix as pm
from lightning_puzzlemix.monitoring import plots
from lightning_puzzlemix.monitoring.image_logger import log_image

pytest.importorskip("matplotlib")
from matplotlib.image import imread

CONFIG = pm.PuzzleMixConfig(grid_sizes=(2, 4), mean=(0.5,) * 3, std=(0.3,) * 3)
SCALARS = ("ratio", "mask_entropy", "moved_blocks", "retained_saliency", "retained_saliency_cutmix")


def fit(logger: Any, callback: pm.MixCallback | None = None, *, trainer: Any = pl.Trainer, **options: Any) -> Any:
    """Three epochs of three steps, of which every second is logged."""
    mixing = pm.PuzzleMixCallback(CONFIG, seed=1, log_images_every_n_steps=4) if callback is None else callback
    settings = {"max_epochs": 3, "log_every_n_steps": 2, "logger": logger, "callbacks": [mixing]} | options
    run = trainer(
        accelerator="cpu", enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, **settings
    )
    run.fit(Recorder(), loader())
    return run


def csv_logger(folder: Path) -> Any:
    return pl.loggers.CSVLogger(folder, name=None, version="log")


def images_in(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "log" / "images").glob("*"))


def test_csv_logger_gets_metrics_and_image_files(tmp_path: Path) -> None:
    fit(csv_logger(tmp_path))
    steps = (0, 4, 8)
    assert images_in(tmp_path) == [f"puzzlemix_step_{step:08d}.png" for step in steps]
    for name in images_in(tmp_path):
        pixels = imread(tmp_path / "log" / "images" / name)
        assert pixels.shape[1] > 1000
        assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 50
    with (tmp_path / "log" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["puzzlemix/ratio"]]
    assert [int(row["step"]) for row in rows] == [1, 3, 5, 7]
    for row in rows:
        assert all(0 <= float(row[f"puzzlemix/{name}"]) <= 1 for name in SCALARS)


def test_the_image_shows_the_current_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[pm.MixedBatch, dict[str, Any]]] = []
    real = plots.plot_mixes

    def record(mixed: pm.MixedBatch, **options: Any) -> Any:
        drawn.append((mixed, options))
        return real(mixed, **options)

    monkeypatch.setattr(plots, "plot_mixes", record)
    callback = pm.PuzzleMixCallback(CONFIG, seed=1, log_images_every_n_steps=100)
    run = fit(csv_logger(tmp_path), callback)
    assert images_in(tmp_path) == ["puzzlemix_step_00000000.png", "puzzlemix_step_00000008.png"]
    batches = list(loader())
    seen = run.lightning_module.seen
    for (mixed, options), images, original in zip(
        drawn, (seen[0][0], seen[-1][0]), (batches[0], batches[2]), strict=True
    ):
        assert torch.equal(mixed.images, images)
        assert torch.equal(mixed.originals, original[0])
        assert torch.equal(options["targets"], original[1])
        assert (mixed.mean, mixed.std) == (CONFIG.mean, CONFIG.std)
        assert not {"mean", "std"} & set(options)


def test_files_are_written_through_lightnings_file_system() -> None:
    fsspec = pytest.importorskip("fsspec")
    pixels = np.random.default_rng(0).integers(256, size=(6, 9, 3), dtype=np.uint8)
    logger = pl.loggers.CSVLogger("memory://runs", name=None, version="log")
    log_image(logger, "cutmix", pixels, 30)
    with fsspec.open("memory://runs/log/images/cutmix_step_00000030.png", "rb") as file:
        np.testing.assert_array_equal(np.round(255 * imread(file)[..., :3]), pixels)


def test_none_logs_metrics_without_images(tmp_path: Path) -> None:
    fit(csv_logger(tmp_path), pm.PuzzleMixCallback(CONFIG, log_images_every_n_steps=None))
    assert images_in(tmp_path) == []
    assert "puzzlemix/retained_saliency" in (tmp_path / "log" / "metrics.csv").read_text()


@pytest.mark.parametrize("every", [0, -1, 2.5, True])
def test_refuses_invalid_periods(every: Any) -> None:
    with pytest.raises(ValueError, match="log_images_every_n_steps must be an integer of at least 1, or None"):
        pm.CutMixCallback(log_images_every_n_steps=every)


def test_without_a_logger_nothing_is_measured_or_plotted(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("called without a logger")

    monkeypatch.setattr(plots, "plot_mixes", never)
    monkeypatch.setattr("lightning_puzzlemix.callbacks.base.mix_metrics", never)
    run = fit(False)
    assert "puzzlemix/ratio" in run.callback_metrics
    fit(None, fast_dev_run=True)


def test_accumulated_batches_share_a_step_and_an_image(tmp_path: Path) -> None:
    fit(csv_logger(tmp_path), pm.PuzzleMixCallback(CONFIG, log_images_every_n_steps=1), accumulate_grad_batches=3)
    assert images_in(tmp_path) == [f"puzzlemix_step_{step:08d}.png" for step in (0, 1, 2)]


@pytest.mark.parametrize("kind", [pm.MixUpCallback, pm.CutMixCallback])
def test_baselines_log_images(kind: type[pm.MixCallback], tmp_path: Path) -> None:
    fit(csv_logger(tmp_path), kind(seed=1))
    assert images_in(tmp_path) == [f"{kind.name}_step_{step:08d}.png" for step in (0, 8)]


def test_an_image_that_fails_stops_only_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no ink")

    monkeypatch.setattr(plots, "plot_mixes", fail)
    with pytest.warns(UserWarning, match="puzzlemix: no more images, since one failed: RuntimeError: no ink") as said:
        run = fit(csv_logger(tmp_path))
    assert run.global_step == 9
    assert sum("no ink" in str(each.message) for each in said) == 1


def test_a_datamodule_whose_mean_fails_stops_only_the_images(tmp_path: Path) -> None:
    class Data(pl.LightningDataModule):
        std = (0.5,) * 3

        @property
        def mean(self) -> Any:
            raise RuntimeError("not measured yet")

        def train_dataloader(self) -> Any:
            return loader()

    callback = pm.CutMixCallback(seed=1)
    run = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=csv_logger(tmp_path), callbacks=[callback], log_every_n_steps=1,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    with pytest.warns(UserWarning, match="cutmix: no more images, since one failed: RuntimeError: not measured yet"):
        run.fit(Recorder(), datamodule=Data())
    assert run.global_step == 3


def test_without_matplotlib_the_training_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with caplog.at_level("INFO"):
        run = fit(csv_logger(tmp_path))
    assert run.global_step == 9
    assert images_in(tmp_path) == []
    said = caplog.text + capfd.readouterr().err
    assert "pip install matplotlib, or pass log_images_every_n_steps=None" in said


def test_a_logger_without_images_is_named(capfd: pytest.CaptureFixture[str], caplog: Any) -> None:
    class Silent(pl.loggers.CSVLogger.__mro__[1]):  # type: ignore[misc]
        name, version = "silent", 0

        def log_metrics(self, metrics: Any, step: int | None = None) -> None: ...

        def log_hyperparams(self, *args: Any) -> None: ...

    with caplog.at_level("INFO"):
        run = fit(Silent())
    assert run.global_step == 9
    assert "go to W&B, TensorBoard and CSV loggers and not to Silent" in caplog.text + capfd.readouterr().err


def test_a_second_fit_begins_with_an_image(tmp_path: Path) -> None:
    callback = pm.PuzzleMixCallback(CONFIG, seed=1, log_images_every_n_steps=100)
    for number in (1, 2):
        fit(csv_logger(tmp_path / str(number)), callback, max_epochs=1)
        assert len(images_in(tmp_path / str(number))) == 2


def test_tensorboard_gets_metrics_and_images(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(pl.loggers.TensorBoardLogger(tmp_path, name=None, version="log"))
    events = EventAccumulator(str(tmp_path / "log"))
    events.Reload()
    assert [image.step for image in events.Images("puzzlemix/mix")] == [0, 4, 8]
    assert all(image.width > 1000 for image in events.Images("puzzlemix/mix"))
    for name in SCALARS:
        assert [scalar.step for scalar in events.Scalars(f"puzzlemix/{name}")] == [1, 3, 5, 7]


@pytest.mark.usefixtures("offline_wandb")
@pytest.mark.parametrize("package", ["pytorch_lightning", "lightning.pytorch"])
def test_wandb_gets_metrics_and_images(package: str, tmp_path: Path) -> None:
    lightning = pytest.importorskip(package)
    from wandb_files import read_run

    loggers = pytest.importorskip(f"{package}.loggers")
    logger = loggers.WandbLogger(project="mine", save_dir=tmp_path)
    if package == "pytorch_lightning":
        fit(logger, trainer=lightning.Trainer)
    else:
        fit([logger], trainer=pl.Trainer)
    logger.experiment.finish()
    run = read_run(tmp_path)
    drawn = [row for row in run.history if "puzzlemix/mix" in row]
    assert [row["trainer/global_step"] for row in drawn] == [0, 4, 8], run.history
    for row in drawn:
        for name in row["puzzlemix/mix"]["filenames"]:
            assert imread(run.files / name).shape[1] > 1000
    measured = [row for row in run.history if "puzzlemix/mask_entropy" in row]
    assert [row["trainer/global_step"] for row in measured] == [1, 3, 5, 7]
    assert all(0 <= row[f"puzzlemix/{name}"] <= 1 for row in measured for name in SCALARS)
    assert all(row[f"puzzlemix/{name}_seconds"] > 0 for row in measured for name in ("saliency", "mixing"))
