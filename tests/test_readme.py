"""The README's Python code runs as it stands, given a model and data."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lightning_puzzlemix as pm

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()
YAML_BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


class Classifier(pl.LightningModule):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.soft: list[bool] = []

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        self.soft.append(batch[1].ndim == 2)
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def test_python_blocks_run_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(BLOCKS) >= 4
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    loader = DataLoader(TensorDataset(torch.rand(8, 3, 32, 32), torch.arange(8) % 5), batch_size=4)
    real = pl.Trainer

    def short_trainer(**arguments: Any) -> pl.Trainer:
        return real(**arguments, fast_dev_run=2, accelerator="cpu", enable_progress_bar=False)

    monkeypatch.setattr(pl, "Trainer", short_trainer)
    model = Classifier(net)
    names: dict[str, Any] = {
        "model": model,
        "net": net,
        "train_loader": loader,
        "optimizer": torch.optim.SGD(net.parameters(), 0.1),
    }
    for block in BLOCKS:
        exec(compile(block, "README.md", "exec"), names)
    assert model.soft == [True, True]
    assert names["mixed"].targets.shape == (4, 5)
    draw = names["FixedGrid"]().draw(torch.zeros(4, 3, 32, 32))
    assert draw.blocks_per_side == 4
    trainer = short_trainer(callbacks=[names["callback"]])
    trainer.fit(Classifier(net), loader)
    assert names["callback"].last.saliency.shape == (4, 32, 32)


def check_callback(callback: pm.PuzzleMixCallback) -> None:
    assert isinstance(callback, pm.PuzzleMixCallback)
    assert callback.prob == 0.5
    assert callback.config.std == (0.267, 0.256, 0.276)


CLI_PROGRAM = """
import sys
from {package} import LightningModule
from {package}.cli import LightningCLI
import lightning_puzzlemix as pm

made = LightningCLI(LightningModule, run=False, save_config_callback=None)
(callback,) = (each for each in made.trainer.callbacks if isinstance(each, pm.PuzzleMixCallback))
assert callback.prob == 0.5 and callback.config.std == (0.267, 0.256, 0.276)
"""


@pytest.mark.parametrize("package", ["pytorch_lightning", "lightning.pytorch"])
def test_the_command_lines_yaml_makes_the_callback(package: str, tmp_path: Path) -> None:
    pytest.importorskip("jsonargparse")
    pytest.importorskip(package)
    (tmp_path / "config.yaml").write_text(YAML_BLOCKS[0])
    (tmp_path / "program.py").write_text(CLI_PROGRAM.format(package=package))
    command = [
        sys.executable,
        "program.py",
        "--config=config.yaml",
        "--trainer.logger=false",
        "--trainer.accelerator=cpu",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr


def test_hydras_yaml_makes_the_callback() -> None:
    hydra, omegaconf = pytest.importorskip("hydra.utils"), pytest.importorskip("omegaconf")
    check_callback(hydra.instantiate(omegaconf.OmegaConf.create(YAML_BLOCKS[1])).callback)
