"""Mean and std of a datamodule, in every form that people keep them in; wrong ones are refused by its name."""

from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from callback_cases import Recorder, callback, loader, trainer

import lightning_puzzlemix as pm
from lightning_puzzlemix.normalization import datamodule_normalization


class Digits(pl.LightningDataModule):
    def __init__(self, mean: Any, std: Any) -> None:
        super().__init__()
        self.mean, self.std = mean, std

    def train_dataloader(self) -> Any:
        return loader()


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        (0.1307, 0.3081),
        (torch.tensor(0.1307), torch.tensor(0.3081)),
        (np.float32(0.1307), np.asarray(0.3081)),
        (torch.full((3, 1, 1), 0.1307), torch.full((1, 3, 1, 1), 0.3081, dtype=torch.float64)),
        (np.full((3, 1, 1), 0.1307), [0.3081] * 3),
        ((0.1307,), [torch.tensor(0.3081)] * 3),
        (range(1), 1),
    ],
)
def test_takes_numbers_sequences_arrays_and_tensors(mean: Any, std: Any) -> None:
    mixing = callback()
    trainer(mixing).fit(Recorder(), datamodule=Digits(mean, std))
    first = (0.0, 1.0) if isinstance(mean, range) else (0.1307, 0.3081)
    assert (mixing.config.mean, mixing.config.std) == ((first[0],) * 3, (first[1],) * 3)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ([33.3], [78.6], r"datamodule's Digits.mean must lie in \[0, 1\] pixel units, got \(33.3,\)"),
        ([0.5], [78.6], r"datamodule's Digits.std must be > 0 and at most 1"),
        ([0.5] * 3, [0.2, 0.0, 0.2], r"datamodule's Digits.std must be > 0"),
        ("imagenet", 0.5, "datamodule's Digits.mean must be one number for each channel.*'imagenet'"),
        ({"train": 0.5}, 0.5, "datamodule's Digits.mean must be one number for each channel"),
        (torch.zeros(2, 3), 0.5, r"datamodule's Digits.mean must be one number.*its shape is \(2, 3\)"),
        (0.5, [], "datamodule's Digits.std must be one number"),
        (lambda: 0.5, 0.5, "datamodule's Digits.mean must be one number"),
        (float("nan"), 0.5, "datamodule's Digits.mean must be finite"),
        ([0.5] * 4, 0.5, r"datamodule's Digits.mean holds 4 numbers.*but the images have 3 channels"),
        ([0.5] * 3, [0.5] * 2, r"datamodule's Digits.std holds 2 numbers"),
    ],
)
def test_refuses_others_by_the_name_of_the_datamodule(mean: Any, std: Any, message: str) -> None:
    with pytest.raises(ValueError, match="(?s)" + message + ".*pass mean and std in PuzzleMixConfig"):
        trainer(callback()).fit(Recorder(), datamodule=Digits(mean, std))


def test_the_config_wins_whatever_the_datamodule_has() -> None:
    mixing = callback(config=pm.PuzzleMixConfig(mean=[0.1] * 3, std=[0.2] * 3, grid_sizes=(2,)))
    trainer(mixing).fit(Recorder(), datamodule=Digits("imagenet", None))
    assert mixing.config.mean == (0.1,) * 3


def test_only_one_of_them_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        assert datamodule_normalization(Digits(0.5, None)) is None
    assert "Digits has mean but not both of mean and std" in caplog.text
    assert datamodule_normalization(None) is None
