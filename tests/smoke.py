"""Trains one step with the package that is installed, not with the checkout's: ``python -I tests/smoke.py``."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import pytorch_lightning as pl
import torch

import lightning_puzzlemix as pm

CHECKOUT = Path(__file__).resolve().parents[1]


class Module(pl.LightningModule):
    """A linear classifier that expects soft targets."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.net(images)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        images, targets = batch
        assert targets.shape == (4, 3), targets.shape
        return torch.nn.functional.cross_entropy(self(images), targets)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def main() -> None:
    """Train, and print what was mixed and by which versions."""
    package = Path(pm.__file__).resolve().parent
    assert package != CHECKOUT / "lightning_puzzlemix", f"{package} belongs to the checkout"
    assert not [path for path in sys.path if not path or Path(path).resolve() == CHECKOUT], sys.path
    data = list(zip(torch.rand(4, 3, 8, 8), torch.arange(4) % 3, strict=True))
    callback = pm.PuzzleMixCallback(pm.PuzzleMixConfig(grid_sizes=(2,)))
    trainer = pl.Trainer(fast_dev_run=True, accelerator="cpu", callbacks=[callback], enable_model_summary=False)
    trainer.fit(Module(), torch.utils.data.DataLoader(data, batch_size=4))
    print(f"mixed {tuple(callback.last.mask.shape)} with {version('lightning-puzzlemix')}, torch {torch.__version__}")  # noqa: T201


if __name__ == "__main__":
    main()
