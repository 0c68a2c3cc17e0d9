"""The module, the loaders and the Trainer that the tests of the callback share."""

from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lightning_puzzlemix as pm

Pair = namedtuple("Pair", "x y")


@dataclass
class Sample:
    image: Tensor
    label: Tensor
    name: str = "kept"


CONTAINERS = {
    "list": lambda x, y: [x, y],
    "tuple": lambda x, y: (x, y),
    "longer tuple": lambda x, y: (x, y, ["kept"] * len(y)),
    "namedtuple": Pair,
    "dict": lambda x, y: {"image": x, "label": y, "name": "kept"},
    "dataclass": Sample,
}


def fields(batch: Any) -> tuple[Tensor, Tensor]:
    if isinstance(batch, dict):
        return batch["image"], batch["label"]
    return (batch.image, batch.label) if hasattr(batch, "image") else (batch[0], batch[1])


class Recorder(pl.LightningModule):
    """A small classifier that remembers what its steps and hooks were given."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, classes)
        )
        self.seen: list[tuple[Tensor, Tensor]] = []
        self.ends: list[Any] = []
        self.validated: list[tuple[Tensor, Tensor]] = []

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, targets = fields(batch)
        self.seen.append((images, targets))
        self.last_batch = batch
        return F.cross_entropy(self(images), targets)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.ends.append(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.validated.append(fields(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)


def data(count: int = 12) -> TensorDataset:
    generator = torch.Generator().manual_seed(3)
    return TensorDataset(torch.rand(count, 3, 8, 8, generator=generator), torch.arange(count) % 5)


def loader(make: Any = CONTAINERS["list"], count: int = 12, batch_size: int = 4) -> DataLoader:
    def collate(rows: list[tuple[Tensor, Tensor]]) -> Any:
        return make(torch.stack([row[0] for row in rows]), torch.stack([row[1] for row in rows]))

    return DataLoader(data(count), batch_size=batch_size, collate_fn=collate)


def callback(**arguments: Any) -> pm.PuzzleMixCallback:
    arguments.setdefault("config", pm.PuzzleMixConfig(grid_sizes=(2, 4)))
    return pm.PuzzleMixCallback(**{"seed": 1, **arguments})


class Cached:
    """A loader that yields the same objects again in every epoch."""

    def __init__(self, *batches: Any) -> None:
        self.batches = batches

    def __iter__(self) -> Any:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def trainer(*callbacks: pl.Callback, **arguments: Any) -> pl.Trainer:
    settings = {"max_epochs": 1, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return pl.Trainer(
        accelerator="cpu", callbacks=list(callbacks), enable_model_summary=False, **{**settings, **arguments}
    )
