"""Both Lightning packages, CLI, Hydra, Fabric and plain PyTorch; and Trainers that fit twice, tune, log and hook."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from distributed_cases import Batches, Classifier, config, make_batch, quiet, small_net
from pytorch_lightning.tuner import Tuner
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lightning_puzzlemix as pm

PACKAGES = ("pytorch_lightning", "lightning.pytorch")
SILENT = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


def fit(module: Any = None, loader: Any = None, *, trainer: dict[str, Any] | None = None, **arguments: Any) -> Any:
    mixing = pm.PuzzleMixCallback(config(), **{"seed": 1, **arguments})
    module = module or Classifier()
    quiet(mixing, **(trainer or {})).fit(module, loader or Batches())
    return module, mixing


def data(count: int) -> TensorDataset:
    return TensorDataset(*make_batch(0, 0, 0, count))


def module_of(package: Any) -> type:
    """Build a classifier on the LightningModule of either package; its steps note the images they get."""

    class Net(package.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = small_net()
            self.seen: list[Tensor] = []

        def forward(self, images: Tensor) -> Tensor:
            return self.net(images)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.seen.append(batch[0].detach())
            return F.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1)

        def train_dataloader(self) -> Batches:
            return Batches()

    return Net


@pytest.mark.parametrize("name", PACKAGES)
@pytest.mark.parametrize("arguments", [{}, {"clean_weight": 0.5, "prob": 0.5}], ids=["plain", "clean"])
def test_trainers_of_both_packages_train_equally(name: str, arguments: dict[str, Any]) -> None:
    package = pytest.importorskip(name)
    expected, _ = fit(**arguments)
    module, mixing = module_of(package)(), pm.PuzzleMixCallback(config(), seed=1, **arguments)
    trainer = package.Trainer(callbacks=[mixing], max_epochs=1, accelerator="cpu", **SILENT)
    trainer.fit(module)
    for ours, (theirs, *_) in zip(module.seen, expected.journal, strict=True):
        assert torch.equal(ours, theirs)
    for name, value in expected.state_dict().items():
        assert torch.equal(module.state_dict()[name], value)
    assert "puzzlemix/ratio" in trainer.callback_metrics


YAML = """
trainer:
  accelerator: cpu
  max_epochs: 1
  logger: false
  enable_checkpointing: false
  enable_progress_bar: false
  callbacks:
    - class_path: lightning_puzzlemix.PuzzleMixCallback
      init_args:
        prob: 0.5
        clean_weight: 0.25
        seed: 3
        image_key: 0
        config:
          mean: [0.5, 0.5, 0.5]
          std: [0.2, 0.2, 0.2]
          grid_sizes: [2, 4]
"""


def check_arguments(mixing: pm.PuzzleMixCallback) -> None:
    assert (mixing.prob, mixing.mixer.clean_weight, mixing.seed, mixing.image_key) == (0.5, 0.25, 3, 0)
    assert mixing.config == pm.PuzzleMixConfig(mean=(0.5,) * 3, std=(0.2,) * 3, grid_sizes=(2, 4))


CLI_PROGRAM = """
import sys
import {name} as pl
from {name}.cli import LightningCLI
import lightning_puzzlemix as pm
from test_trainers import check_arguments, module_of

cli = LightningCLI(module_of(pl), args=["--config", sys.argv[1]], run=False, save_config_callback=None)
(mixing,) = (each for each in cli.trainer.callbacks if isinstance(each, pm.PuzzleMixCallback))
check_arguments(mixing)
cli.trainer.fit(cli.model)
assert len(cli.model.seen) == 4
"""


@pytest.mark.parametrize("name", PACKAGES)
def test_lightning_cli_builds_the_callback_from_yaml(name: str, tmp_path: Path) -> None:
    """In a program of its own, which imports its Lightning first."""
    pytest.importorskip("jsonargparse")
    pytest.importorskip(name)
    (tmp_path / "config.yaml").write_text(YAML)
    (tmp_path / "program.py").write_text(CLI_PROGRAM.format(name=name))
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, str(tmp_path / "program.py"), str(tmp_path / "config.yaml")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [here, here.parent, here.parents[1]]))},
        cwd=tmp_path, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_hydra_builds_the_callback_from_yaml() -> None:
    hydra, omegaconf = pytest.importorskip("hydra"), pytest.importorskip("omegaconf")
    written = """
    {_target_: lightning_puzzlemix.PuzzleMixCallback, prob: 0.5, clean_weight: 0.25, seed: 3, image_key: 0, config: {
      _target_: lightning_puzzlemix.PuzzleMixConfig, mean: [0.5, 0.5, 0.5], std: [0.2, 0.2, 0.2], grid_sizes: [2, 4]}}
    """
    mixing = hydra.utils.instantiate(omegaconf.OmegaConf.create(written))
    check_arguments(mixing)
    module = Classifier()
    quiet(mixing).fit(module, Batches())
    assert any(targets.ndim == 2 for _, targets, *_ in module.journal)


def gradients_by_hand(
    net: nn.Module, mixed: pm.MixedBatch, classes: Tensor, forward: Any = nullcontext
) -> list[Tensor]:
    with forward():
        loss = F.cross_entropy(net(mixed.images), mixed.targets)
    with forward():
        clean = F.cross_entropy(net(mixed.originals), classes)
    parts = [torch.autograd.grad(each, list(net.parameters())) for each in (loss, clean)]
    return [one + 0.5 * other for one, other in zip(*parts, strict=True)]


@pytest.mark.parametrize("name", ["lightning_fabric", "lightning.fabric"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_fabric_with_clean_regularization(name: str, precision: str) -> None:
    fabric = pytest.importorskip(name).Fabric(accelerator="cpu", devices=1, precision=precision)
    mixer, net = pm.PuzzleMix(config(), clean_weight=0.5), small_net()
    model, optimizer = fabric.setup(net, torch.optim.SGD(net.parameters(), 0.1))
    images, targets = make_batch(0, 0, 0)
    mixed = mixer(net, images, targets, forward_context=fabric.autocast)
    expected = gradients_by_hand(net, mixed, targets, fabric.autocast)
    optimizer.zero_grad()
    fabric.backward(F.cross_entropy(model(mixed.images), mixed.targets) + mixed.clean.surrogate_loss())
    for parameter, by_hand in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, by_hand, atol=1e-5, rtol=0)
    if precision == "32-true":
        # In mixed precision Fabric lets no one but fabric.backward differentiate what the wrapped module returns.
        wrapped = mixer(model, images, targets, mixed.draw)
        torch.testing.assert_close(wrapped.saliency, mixed.saliency)


def test_a_plain_loop() -> None:
    mixer, net = pm.PuzzleMix(config(), clean_weight=0.5), small_net()
    images, targets = make_batch(0, 0, 0)
    mixed = mixer(net, images, targets)
    assert all(parameter.grad is None for parameter in net.parameters())
    (F.cross_entropy(net(mixed.images), mixed.targets) + mixed.clean.surrogate_loss()).backward()
    for parameter, by_hand in zip(net.parameters(), gradients_by_hand(net, mixed, targets), strict=True):
        torch.testing.assert_close(parameter.grad, by_hand, atol=1e-6, rtol=1e-5)


def digests(module: Classifier) -> list[bytes]:
    return [images.numpy().tobytes() for images, *_ in module.journal]


def test_fit_twice() -> None:
    mixing, module = pm.PuzzleMixCallback(config(), seed=1), Classifier()
    trainer = quiet(mixing)
    trainer.fit(module, Batches())
    first = digests(module)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, Batches())
    second = digests(module)[4:]
    assert len(second) == 4
    assert not set(first) & set(second), "a second epoch draws anew"
    again = Classifier()
    quiet(mixing).fit(again, Batches())
    assert digests(again) == first, "a new Trainer draws from the beginning"
    assert all(targets.ndim == 2 for _, targets, *_ in module.journal + again.journal)
    through, _ = fit(trainer={"max_epochs": 2})
    assert digests(through) == first + second


def test_overfit_and_limited_batches() -> None:
    loader = DataLoader(data(20), batch_size=4)
    module, _ = fit(loader=loader, trainer={"overfit_batches": 1, "max_epochs": 3})
    assert len(set(digests(module))) == 3, "each epoch mixes the one batch anew"
    assert all(torch.equal(originals, data(20).tensors[0][:4]) for _, _, originals, _ in module.journal)
    module, _ = fit(loader=loader, trainer={"limit_train_batches": 2})
    assert [targets.ndim for _, targets, *_ in module.journal] == [2, 2]


@pytest.mark.parametrize(("count", "sizes"), [(10, [4, 4, 2]), (9, [4, 4, 1]), (1, [1])])
def test_small_and_single_batches(count: int, sizes: list[int]) -> None:
    module, _ = fit(loader=DataLoader(data(count), batch_size=4), clean_weight=0.5)
    assert [len(images) for images, *_ in module.journal] == sizes
    images, targets, originals, classes = module.journal[-1]
    if sizes[-1] == 1:
        assert torch.equal(targets, F.one_hot(classes, 5).float()), "an image alone is its own partner"
        torch.testing.assert_close(images, originals)


def test_log_every_n_steps(tmp_path: Path) -> None:
    logger = pl.loggers.CSVLogger(tmp_path, name=None, version="log")
    fit(loader=Batches(count=7), trainer={"logger": logger, "log_every_n_steps": 3})
    with (tmp_path / "log" / "metrics.csv").open() as file:
        assert [int(row["step"]) for row in csv.DictReader(file) if row["puzzlemix/ratio"]] == [2, 5]


def test_tuners_run_without_mixing_and_restore_the_callback() -> None:
    class Tuned(Classifier):
        batch_size = 2

        def train_dataloader(self) -> DataLoader:
            return DataLoader(data(32), batch_size=self.batch_size)

    mixing, module = pm.PuzzleMixCallback(config(), seed=1), Tuned()
    trainer = quiet(mixing)
    Tuner(trainer).lr_find(module, num_training=4, update_attr=False)
    Tuner(trainer).scale_batch_size(module, steps_per_trial=1, max_trials=2)
    assert all(targets.ndim == 1 for _, targets, *_ in module.journal)
    assert mixing in trainer.callbacks
    module.journal.clear()
    trainer.fit(module)
    assert module.journal
    assert all(targets.ndim == 2 for _, targets, *_ in module.journal)


def test_the_sanity_check_is_not_mixed() -> None:
    class Checked(Classifier):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            if self.trainer.sanity_checking:
                assert mixing.last is None
            assert "training_step" not in self.__dict__
            assert torch.equal(batch[0], make_batch(0, 0, batch_idx)[0])
            assert batch[1].ndim == 1

    mixing, module = pm.PuzzleMixCallback(config(), seed=1), Checked()
    quiet(mixing, num_sanity_val_steps=2).fit(module, Batches(), Batches(count=2))
    assert mixing.last is not None


class Transfers:
    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch[0] * 0.5, batch[1]

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        return tuple(value.to(device).clone() for value in batch)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch[0] + 0.25, batch[1]


@pytest.mark.parametrize("owner", ["module", "datamodule"])
def test_overridden_transfer_hooks_run_before_the_mixing(owner: str) -> None:
    class Data(Transfers, pl.LightningDataModule):
        def train_dataloader(self) -> Batches:
            return Batches()

    class Transferring(Transfers, Classifier):
        pass

    module = Transferring() if owner == "module" else Classifier()
    module, mixing = fit(module, Batches() if owner == "module" else Data())
    transferred = [make_batch(0, 0, index)[0] * 0.5 + 0.25 for index in range(4)]
    for (_, targets, originals, _), expected in zip(module.journal, transferred, strict=True):
        assert torch.equal(originals, expected)
        assert targets.ndim == 2
    assert torch.equal(mixing.last.originals, transferred[-1])
    assert digests(module) != [expected.numpy().tobytes() for expected in transferred]


def test_manual_optimization_without_clean_regularization() -> None:
    class Manual(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            optimizer.step()

    manual, _ = fit(Manual())
    automatic, _ = fit()
    assert digests(manual) == digests(automatic)
    for ours, theirs in zip(manual.parameters(), automatic.parameters(), strict=True):
        assert torch.equal(ours, theirs)
