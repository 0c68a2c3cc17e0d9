"""When batches are mixed, and nested batches in a Trainer."""

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.utilities import CombinedLoader
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lightning_puzzlemix as pm

CONFIG = pm.PuzzleMixConfig(grid_sizes=(2, 4))


class Module(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
        self.batches: list[Any] = []
        self.epochs: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.batches.append(batch)
        self.epochs.append(self.current_epoch)
        images, targets = self.labeled(batch)
        return F.cross_entropy(self(images), targets)

    def labeled(self, batch: Any) -> tuple[Tensor, Tensor]:
        return batch[0], batch[1]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)


def data(count: int = 8, start: float = 0.0) -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    return TensorDataset(start + 0.5 * torch.rand(count, 3, 8, 8, generator=generator), torch.arange(count) % 5)


def fit(module: Module, loader: Any, epochs: int = 1, **arguments: Any) -> pm.PuzzleMixCallback:
    callback = pm.PuzzleMixCallback(arguments.pop("config", CONFIG), seed=2, **arguments)
    trainer = pl.Trainer(
        accelerator="cpu", callbacks=[callback], max_epochs=epochs, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, loader)
    return callback


@pytest.mark.parametrize(
    ("start", "stop", "mixed"), [(0, None, [0, 1, 2, 3]), (2, None, [2, 3]), (0, 1, [0]), (1, 3, [1, 2]), (9, None, [])]
)
def test_mixes_from_start_epoch_to_before_stop_epoch(start: int, stop: int | None, mixed: list[int]) -> None:
    module = Module()
    fit(module, DataLoader(data(), batch_size=4), epochs=4, start_epoch=start, stop_epoch=stop)
    images, classes = data().tensors
    seen = set()
    for index, (epoch, batch) in enumerate(zip(module.epochs, module.batches, strict=True)):
        part = slice(4 * (index % 2), 4 * (index % 2) + 4)
        unmixed = torch.equal(batch[0], images[part]) and torch.equal(batch[1], F.one_hot(classes[part], 5).float())
        seen |= set() if unmixed else {epoch}
    assert sorted(seen) == mixed
    assert len(module.batches) == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start_epoch": -1}, "start_epoch must be an integer of at least 0, got -1"),
        ({"start_epoch": 1.5}, "start_epoch must be an integer of at least 0, got 1.5"),
        ({"stop_epoch": True}, "stop_epoch must be an integer of at least 0, got True"),
        ({"start_epoch": 3, "stop_epoch": 3}, "stop_epoch must be greater than start_epoch=3, got 3"),
        ({"targets": "hard"}, r"targets must be one of \('soft', 'pair'\), got 'hard'"),
    ],
)
def test_refuses_schedules_that_mix_nothing(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pm.PuzzleMixCallback(**arguments)


def test_per_sample_lam_draws_one_share_each() -> None:
    callback = pm.PuzzleMixCallback(pm.PuzzleMixConfig(grid_sizes=(4,), per_sample_lam=True), seed=0)
    draw = callback.draw(torch.zeros(500, 3, 8, 8))
    assert draw.lam.shape == (500,)
    assert 0.4 < float(draw.lam.mean()) < 0.6
    assert float(draw.lam.min()) < 0.05 < 0.95 < float(draw.lam.max())
    # A heavy prior ties each sample's ratio to its own lam.
    strict = pm.PuzzleMixConfig(grid_sizes=(4,), per_sample_lam=True, eta=100.0, num_labels=11)
    mixed = fit(Module(), DataLoader(data(), batch_size=8), config=strict).last
    torch.testing.assert_close(mixed.ratio.double(), mixed.draw.lam, atol=0.1, rtol=0)


def test_batches_with_targets_of_combined_loaders_are_mixed() -> None:
    class Two(Module):
        def labeled(self, batch: Any) -> tuple[Tensor, Tensor]:
            return batch["a"][0], batch["a"][1]

    unlabeled = DataLoader(TensorDataset(torch.rand(8, 3, 8, 8)), batch_size=4)
    second = DataLoader(data(start=0.5), batch_size=4)
    loaders = CombinedLoader({"a": DataLoader(data(), batch_size=4), "b": second, "c": unlabeled}, "min_size")
    module = Two()
    fit(module, loaders)
    for index, batch in enumerate(module.batches):
        part = slice(4 * index, 4 * index + 4)
        assert batch["a"][1].shape == batch["b"][1].shape == (4, 5)
        assert torch.equal(batch["c"][0], unlabeled.dataset.tensors[0][part])
        # The two loaders' images lie in different ranges: they must not be mixed with each other.
        assert float(batch["a"][0].max()) <= 0.5 <= float(batch["b"][0].min())
