"""Runs in phases: each epoch on the images and batches of its phase, also when resumed."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from layouts import write_folders
from torch import Tensor, nn

from experiments.data import FolderDataModule, Phase, PhasedDataModule, build_imagenet_phases

SHAPES = {0: (3, 3, 16, 16), 1: (2, 3, 24, 24), 2: (2, 3, 24, 24), 3: (6, 3, 32, 32)}


class ShapeRecorder(pl.LightningModule):
    def __init__(self, dies_at: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.dies_at = dies_at
        self.scale = nn.Parameter(torch.ones(()))
        self.train_shapes: list[tuple[int, tuple[int, ...]]] = []
        self.val_shapes: list[tuple[int, tuple[int, ...]]] = []
        self.seen: list[Tensor] = []

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        if (self.current_epoch, batch_idx) == self.dies_at:
            raise RuntimeError("power cut")
        self.seen.append(batch[0].clone())
        self.train_shapes.append((self.current_epoch, tuple(batch[0].shape)))
        return self.scale * batch[0].mean()

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.val_shapes.append((self.current_epoch, tuple(batch[0].shape[1:])))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)


def make_data(root: Path, workers: int = 0) -> PhasedDataModule:
    for side in (16, 24, 32):
        if not (root / str(side)).exists():
            write_folders(root / str(side), ("train", "val"), size=(side + 4, side + 8))
    phases = [
        Phase(
            until=until,
            data=FolderDataModule(root=root / str(side), image_size=side, batch_size=batch, num_workers=workers),
        )
        for until, side, batch in ((1, 16, 3), (3, 24, 2), (4, 32, 6))
    ]
    return PhasedDataModule(phases)


class SaveOnError(pl.Callback):
    def __init__(self, path: Path) -> None:
        self.path = path

    def on_exception(self, trainer: pl.Trainer, *_: Any) -> None:
        trainer.save_checkpoint(self.path)


def fit(
    module: ShapeRecorder, data: PhasedDataModule, *, epochs: int, checkpoint: Path | None = None, **settings: Any
) -> pl.Trainer:
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, reload_dataloaders_every_n_epochs=1, num_sanity_val_steps=0,
        **settings,
    )  # fmt: skip
    trainer.fit(module, datamodule=data, ckpt_path=None if checkpoint is None else str(checkpoint))
    return trainer


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("workers", [0, 1])
def test_each_epoch_has_the_batches_of_its_phase(workers: int, tmp_path: Path) -> None:
    module = ShapeRecorder()
    trainer = fit(module, make_data(tmp_path, workers), epochs=5)
    expected = [(epoch, SHAPES[min(epoch, 3)]) for epoch in range(5) for _ in range(6 // SHAPES[min(epoch, 3)][0])]
    assert module.train_shapes == expected
    assert sorted(set(module.val_shapes)) == [(epoch, SHAPES[min(epoch, 3)][1:]) for epoch in range(5)]
    assert trainer.global_step == len(expected)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("done", [1, 2, 3])
def test_a_run_is_resumed_in_any_phase(done: int, tmp_path: Path) -> None:
    trainer = fit(ShapeRecorder(), make_data(tmp_path), epochs=done)
    trainer.save_checkpoint(tmp_path / "done.ckpt")
    module = ShapeRecorder()
    fit(module, make_data(tmp_path), epochs=4, checkpoint=tmp_path / "done.ckpt")
    assert sorted(set(module.train_shapes)) == [(epoch, SHAPES[epoch]) for epoch in range(done, 4)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("dies_at", [(0, 1), (1, 2), (2, 1), (3, 0)], ids=str)
def test_a_run_resumed_in_mid_epoch_sees_what_it_would_have_seen(
    dies_at: tuple[int, int], workers: int, tmp_path: Path
) -> None:
    whole, first, second = ShapeRecorder(), ShapeRecorder(dies_at), ShapeRecorder()
    fit(whole, make_data(tmp_path), epochs=4)
    with pytest.raises(RuntimeError, match="power cut"):
        fit(first, make_data(tmp_path, workers), epochs=4, callbacks=[SaveOnError(tmp_path / "dead.ckpt")])
    fit(second, make_data(tmp_path, workers), epochs=4, checkpoint=tmp_path / "dead.ckpt")
    seen = first.seen + second.seen
    assert len(seen) == len(whole.seen)
    assert all(torch.equal(one, other) for one, other in zip(seen, whole.seen, strict=True))


def test_other_questions_are_answered_by_the_last_phase(tmp_path: Path) -> None:
    data = make_data(tmp_path)
    data.setup()
    assert (data.image_size, data.batch_size, data.num_classes, data.class_names) == (32, 6, 2, ["cat", "dog"])
    assert data.split("test") is data.last.split("test")
    assert data.validates_on_test
    with pytest.raises(AttributeError, match="wings"):
        _ = data.wings
    assert pickle.loads(pickle.dumps(data)).batch_size == copy.deepcopy(data).batch_size == 6


def test_phases_that_do_not_fit_each_other_are_refused(tmp_path: Path) -> None:
    first, other = FolderDataModule(root=tmp_path / "a"), FolderDataModule(root=tmp_path / "b", mean=(0, 0, 0))
    with pytest.raises(ValueError, match=r"data\.phases must be at least one"):
        PhasedDataModule([])
    with pytest.raises(ValueError, match=r"increasing `until` of at least 1, got \[3, 3\]"):
        PhasedDataModule([Phase(until=3, data=first), Phase(until=3, data=first)])
    with pytest.raises(ValueError, match=r"data\.phases must have the same mean"):
        PhasedDataModule([Phase(until=1, data=first), Phase(until=2, data=other)])
    with pytest.raises(ValueError, match=r"increasing `until` of at least 1, got \[0\]"):
        build_imagenet_phases(root=tmp_path, phases={"early": {"image_size": 32}})


@pytest.mark.filterwarnings("ignore")
def test_a_trainer_that_would_stay_in_the_first_phase_is_refused(tmp_path: Path) -> None:
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    with pytest.raises(ValueError, match=r"needs trainer\.reload_dataloaders_every_n_epochs=1, got 0"):
        trainer.fit(ShapeRecorder(), datamodule=make_data(tmp_path))


def test_imagenet_phases_share_settings_and_have_their_own(tmp_path: Path) -> None:
    phases = {
        "early": {"until": 2, "image_size": 32, "root": tmp_path / "small"},
        "late": {"until": 4, "batch_size": 8},
    }
    data = build_imagenet_phases(root=tmp_path, phases=phases, jitter=0, batch_size=4)
    early, late = (phase.data for phase in data.phases)
    assert (early.image_size, early.root, early.batch_size, early.jitter) == (32, tmp_path / "small", 4, 0)
    assert (late.image_size, late.root, late.batch_size, late.jitter) == (224, tmp_path, 8, 0)
