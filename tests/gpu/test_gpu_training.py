"""Training with the callbacks on a CUDA device: every precision and layout, without waiting, as on the CPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lightning_puzzlemix as pm

pytestmark = pytest.mark.gpu
# A dry run without a device, see experiments/gpu_check.sh.
EMULATED = "PUZZLEMIX_EMULATE" in os.environ
ACCELERATOR = "cpu" if EMULATED else "gpu"
CALLBACKS = {
    "device": lambda: pm.PuzzleMixCallback(pm.PuzzleMixConfig(solve_on="host" if EMULATED else "device"), seed=1),
    "host": lambda: pm.PuzzleMixCallback(pm.PuzzleMixConfig(solve_on="host"), seed=1),
    "clean": lambda: pm.PuzzleMixCallback(pm.PuzzleMixConfig(solve_on="host"), seed=1, clean_weight=0.5),
    "adversarial": lambda: pm.PuzzleMixCallback(adversarial_prob=1.0, seed=1),
    "feature": lambda: pm.PuzzleMixCallback(saliency="feature", seed=1),
    "mixup": lambda: pm.MixUpCallback(seed=1),
    "cutmix": lambda: pm.CutMixCallback(seed=1),
    "manifold": lambda: pm.ManifoldMixCallback(layers=["input", "net.0"], seed=1),
}


@pytest.fixture(autouse=True)
def _device() -> Iterator[None]:
    if not EMULATED and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    yield
    if torch.cuda.is_available():
        torch.cuda.set_sync_debug_mode("default")


class Module(pl.LightningModule):
    """A small network; ``strict`` lets nothing wait from the mixing of a batch to the end of training_step."""

    def __init__(self, *, recurrent: bool = False, channels_last: bool = False, strict: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.AvgPool2d(4))
        self.recurrent = nn.LSTM(16, 16, batch_first=True) if recurrent else None
        self.head = nn.Linear(16, 10)
        self.channels_last, self.strict = channels_last, strict
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, images: Tensor) -> Tensor:
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        features = self.net(images).flatten(2).transpose(1, 2)
        if self.recurrent is not None:
            features = self.recurrent(features)[0]
        return self.head(features.mean(1))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # The first batches compile kernels and fill caches.
        if self.strict and batch_idx >= 4 and torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("error")

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, targets = batch
        self.seen.append((images.detach().clone(), targets.detach().clone()))
        loss = F.cross_entropy(self(images), targets)
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("default")
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.05, momentum=0.9)


def loader(batches: int = 6) -> torch.utils.data.DataLoader:
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(16 * batches, 3, 32, 32, generator=generator)
    data = torch.utils.data.TensorDataset(images, torch.randint(10, (16 * batches,), generator=generator))
    return torch.utils.data.DataLoader(data, batch_size=16)


def fit(module: pl.LightningModule, callback: pl.Callback, precision: str = "32-true") -> None:
    trainer = pl.Trainer(
        accelerator=ACCELERATOR, devices=1, max_epochs=1, precision=precision, callbacks=[callback], logger=False,  # type: ignore[arg-type]
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, loader())


def check(module: Module) -> None:
    assert len(module.seen) == 6
    for images, targets in module.seen:
        assert torch.isfinite(images).all()
        assert targets.shape == (16, 10)
        torch.testing.assert_close(targets.sum(1), torch.ones_like(targets[:, 0]))
    # In some batches the masks may show one image alone.
    assert any((targets.max(1).values < 1).any() for _, targets in module.seen)
    assert all(torch.isfinite(parameter).all() for parameter in module.parameters())


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("name", CALLBACKS)
def test_every_precision(name: str, precision: str) -> None:
    if EMULATED and precision == "16-mixed":
        pytest.skip("the CPU has no 16-mixed")
    module = Module()
    fit(module, CALLBACKS[name](), precision)
    check(module)


@pytest.mark.parametrize("kind", ["channels_last", "recurrent"])
@pytest.mark.parametrize("name", ["device", "host"])
def test_layouts_and_layers(name: str, kind: str) -> None:
    module = Module(**{kind: True})
    fit(module, CALLBACKS[name]())
    check(module)


def test_compiled_module() -> None:
    module = Module()
    module.net.compile()
    fit(module, CALLBACKS["device"]())
    check(module)


def test_both_backends_train_alike() -> None:
    """The masks are the same to the bit as long as the saliency is: the first batch has seen the same weights."""
    modules = []
    for name in ("device", "host"):
        modules.append(Module())
        fit(modules[-1], CALLBACKS[name]())
    (images, targets), (others, other_targets) = (module.seen[0] for module in modules)
    assert torch.equal(targets, other_targets)
    assert torch.equal(images, others)


@pytest.mark.parametrize("name", ["device", "mixup", "cutmix", "manifold"])
def test_nothing_waits_for_the_device(name: str) -> None:
    module = Module(strict=True)
    fit(module, CALLBACKS[name]())
    check(module)


def test_a_batch_of_the_device_is_mixed_as_on_the_cpu() -> None:
    images, saliency = torch.rand(8, 3, 32, 32), torch.rand(8, 32, 32)
    permutation = torch.randperm(8)
    target = torch.device("cpu" if EMULATED else "cuda")
    for n in (2, 4, 8, 16):
        expected = pm.puzzle_mix(images, saliency, permutation=permutation, lam=0.4, blocks_per_side=n)
        for solve_on in ("host",) if EMULATED else ("host", "device"):
            found = pm.puzzle_mix(
                images.to(target), saliency.to(target), permutation=permutation.to(target), lam=0.4, blocks_per_side=n,
                config=pm.PuzzleMixConfig(solve_on=solve_on),
            )  # fmt: skip
            # Sums of the energies may round otherwise on the device: a block in a thousand may lie on a tie.
            assert (found.mask.cpu() != expected.mask).float().mean() < 1e-3
            torch.testing.assert_close(found.ratio.cpu(), found.mask.mean((1, 2)).cpu())


def test_wrong_values_are_raised_by_the_end_of_the_epoch() -> None:
    callback = CALLBACKS["device"]()
    images = torch.rand(16, 3, 32, 32)
    images[3] = torch.nan
    data = torch.utils.data.TensorDataset(images, torch.zeros(16, dtype=torch.int64))
    trainer = pl.Trainer(
        accelerator=ACCELERATOR, devices=1, max_epochs=1, callbacks=[callback], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    with pytest.raises(ValueError, match="images hold NaN or infinity"):
        trainer.fit(Module(), torch.utils.data.DataLoader(data, batch_size=16))
