"""Draws, the decision to mix, seed, normalization and logged metrics of the callback."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from callback_cases import Recorder, callback, loader, trainer
from torch import Tensor
from torch.utils.data import DataLoader

import lightning_puzzlemix as pm


def fit_and_record(**arguments: Any) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    module = Recorder()
    trainer(callback(**arguments), max_epochs=2).fit(module, loader())
    return module.seen


def test_draws_depend_on_seed_epoch_and_batch_alone() -> None:
    first, again, other = fit_and_record(seed=5), fit_and_record(seed=5), fit_and_record(seed=6)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a[0], b[0]) for a, b in zip(first, other, strict=True))
    mixing, images = callback(), torch.zeros(64, 3, 8, 8)
    one = mixing.draw(images, rank=0, epoch=0, batch_idx=0)
    assert torch.equal(one.permutation, mixing.draw(images, rank=0, epoch=0, batch_idx=0).permutation)
    for key in ({"rank": 1}, {"epoch": 1}, {"batch_idx": 1}):
        assert not torch.equal(one.permutation, mixing.draw(images, **key).permutation)


def test_prob_decides_how_many_batches_are_mixed() -> None:
    assert all(not mixed for mixed in which_were_mixed(prob=0.0))
    assert 0.3 < np.mean(which_were_mixed(prob=0.5)) < 0.7


def which_were_mixed(**arguments: Any) -> list[bool]:
    mixing, last = callback(**arguments), [None]
    keep = pl.callbacks.LambdaCallback(on_train_batch_end=lambda *_: last.append(mixing.last))
    trainer(mixing, keep).fit(Recorder(), loader(count=200, batch_size=2))
    return [after is not before for before, after in pairwise(last)]


def test_clean_regularization_skips_batches_that_are_not_mixed() -> None:
    torch.manual_seed(0)
    module, reference = Recorder(), Recorder()
    reference.load_state_dict(module.state_dict())
    trainer(callback(prob=0.0, clean_weight=5.0)).fit(module, loader())
    trainer().fit(reference, loader())
    for ours, theirs in zip(module.parameters(), reference.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_seed_comes_from_the_argument_the_global_seed_or_the_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "17")
    assert callback(seed=4).state_dict()["seed"] == 4
    assert callback(seed=None).state_dict()["seed"] == 17
    monkeypatch.delenv("PL_GLOBAL_SEED")
    drawn = callback(seed=None)
    resumed = callback(seed=None)
    assert drawn.state_dict() != resumed.state_dict()
    resumed.load_state_dict(drawn.state_dict())
    assert resumed.state_dict() == drawn.state_dict()
    explicit = callback(seed=4)
    explicit.load_state_dict(drawn.state_dict())
    assert explicit.state_dict()["seed"] == 4


def test_takes_the_normalization_from_the_datamodule() -> None:
    class Data(pl.LightningDataModule):
        mean, std = torch.tensor([0.1, 0.2, 0.3]), (0.5, 0.6, 0.7)

        def train_dataloader(self) -> DataLoader:
            return loader()

    mixing = callback()
    trainer(mixing).fit(Recorder(), datamodule=Data())
    assert mixing.config.mean == pytest.approx((0.1, 0.2, 0.3))
    assert mixing.config.std == (0.5, 0.6, 0.7)
    own = callback(config=pm.PuzzleMixConfig(mean=(0, 0, 0), std=(1, 1, 1), grid_sizes=(2,)))
    trainer(own).fit(Recorder(), datamodule=Data())
    assert own.config.std == (1, 1, 1)


def test_a_second_fit_takes_the_normalization_of_its_own_datamodule() -> None:
    class Data(pl.LightningDataModule):
        def __init__(self, std: float | None) -> None:
            super().__init__()
            if std is not None:
                self.mean, self.std = (0.0,) * 3, (std,) * 3

        def train_dataloader(self) -> DataLoader:
            return loader()

    mixing = callback()
    for std in (0.5, 0.25, None):
        trainer(mixing).fit(Recorder(), datamodule=Data(std))
        assert mixing.config.std == (None if std is None else (std,) * 3)


def test_logs_ratio_and_seconds(tmp_path: Any) -> None:
    logger = pl.loggers.CSVLogger(tmp_path)
    mixing = callback()
    run = trainer(mixing, logger=logger, log_every_n_steps=1)
    run.fit(Recorder(), loader())
    assert float(run.callback_metrics["puzzlemix/ratio"]) == pytest.approx(float(mixing.last.ratio.mean()))
    header, *rows = (tmp_path / "lightning_logs/version_0/metrics.csv").read_text().splitlines()
    assert {"puzzlemix/ratio", "puzzlemix/saliency_seconds", "puzzlemix/mixing_seconds"} <= set(header.split(","))
    assert len(rows) == 3
    assert mixing.seconds["saliency"] > 0
    assert mixing.seconds["mixing"] > 0
