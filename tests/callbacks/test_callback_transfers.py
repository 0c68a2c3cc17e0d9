"""Copies between host and device for each batch of a Trainer, counted on a device that does not exist."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import emulated
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from callback_cases import Recorder, data, trainer
from fake_device import DeviceTensor, FakeDevice
from torch import Tensor, nn
from torch.utils.data import DataLoader

import lightning_puzzlemix as pm

CONFIG = pm.PuzzleMixConfig(grid_sizes=(2, 4), mean=(0.5,) * 3, std=(0.3,) * 3)


class Event:
    """In place of ``torch.cuda.Event``, which needs a driver."""

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None: ...

    def query(self) -> bool:
        return True

    def synchronize(self) -> None: ...

    def elapsed_time(self, end: Event) -> float:
        return 2.0


class HostGenerator(torch.Generator):
    """A generator of the host for any device."""

    def __new__(cls, device: Any = "cpu") -> HostGenerator:
        return super().__new__(cls, "cpu")


@pytest.fixture(autouse=True)
def _no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: torch.zeros(16, dtype=torch.uint8))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: None)
    monkeypatch.setattr(torch, "Generator", HostGenerator)


def move_to_device(module: nn.Module) -> None:
    """Move the tensors of a module in place; ``module.to`` would look for a driver."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            part._parameters[name] = nn.Parameter(DeviceTensor(parameter.detach()))
        for name, buffer in part._buffers.items():
            part._buffers[name] = DeviceTensor(buffer)


class Counter(pl.Callback):
    """Counts the copies of each batch, from the first hook on_train_batch_start to the end of the forward pass."""

    def __init__(self) -> None:
        self.device: FakeDevice | None = None
        self.copies: list[tuple[int, int]] = []
        self.waits: list[int] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.device = FakeDevice()
        self.device.__enter__()

    def stop(self) -> None:
        assert self.device is not None
        self.device.__exit__(None, None, None)
        self.copies.append((self.device.out, self.device.back))
        self.waits.append(self.device.waits)
        self.device = None

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        if self.device is not None:
            self.stop()
        # Lightning moves the module to the host, which would hide the exception.
        del pl_module.net


class OnDevice(Recorder):
    """Runs its network on the device; Lightning trains only a parameter on the host."""

    def __init__(self, counter: Counter) -> None:
        super().__init__()
        self.counter, self.anchor = counter, nn.Parameter(torch.zeros(()))
        self.logged: list[set[str]] = []

    def on_train_start(self) -> None:
        with FakeDevice():
            move_to_device(self.net)

    def on_train_end(self) -> None:
        # Lightning moves the module to the host afterwards.
        del self.net

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        return [DeviceTensor(value) for value in batch]

    def log_dict(self, dictionary: Any, **options: Any) -> None:
        # Lightning would copy numbers to the device. It reads the values of logging steps itself, which is not counted.
        assert all(isinstance(value, DeviceTensor) for value in dictionary.values())
        self.logged.append(set(dictionary))
        super().log_dict({name: value.inner for name, value in dictionary.items()}, **options)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, targets = batch
        loss = F.cross_entropy(self(images), targets)
        self.counter.stop()
        assert isinstance(loss, DeviceTensor)
        self.seen.append((images.inner, targets.inner))
        return self.anchor * 1.0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.anchor], 0.01)


class Clean(pm.PuzzleMixCallback):
    """Adds clean regularization to a loss on the device."""

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        with FakeDevice() as counter:
            super().on_before_backward(trainer, pl_module, DeviceTensor(torch.zeros(())))
        assert (counter.out, counter.back) == (0, 0)


METHODS = {
    "puzzlemix": (lambda **options: pm.PuzzleMixCallback(CONFIG, **options), (1, 1)),
    "adversarial": (lambda **options: pm.PuzzleMixCallback(CONFIG, adversarial_prob=1.0, **options), (1, 1)),
    "clean": (lambda **options: Clean(CONFIG, clean_weight=0.5, **options), (1, 1)),
    "feature": (lambda **options: pm.PuzzleMixCallback(CONFIG, saliency="feature", **options), (1, 1)),
    "spectral": (lambda **options: pm.PuzzleMixCallback(CONFIG, saliency="spectral", **options), (1, 1)),
    "mixup": (pm.MixUpCallback, (0, 0)),
    "cutmix": (pm.CutMixCallback, (0, 0)),
    "manifoldmix": (lambda **options: pm.ManifoldMixCallback(layers=["net.0"], **options), (0, 0)),
    "some samples": (lambda **options: pm.PuzzleMixCallback(CONFIG, sample_prob=0.5, **options), (1, 2)),
    "some of mixup": (lambda **options: pm.MixUpCallback(sample_prob=0.5, **options), (0, 1)),
    "some of cutmix": (lambda **options: pm.CutMixCallback(sample_prob=0.5, **options), (0, 1)),
    "not mixed": (lambda **options: pm.PuzzleMixCallback(CONFIG, prob=0.0, **options), (0, 0)),
}


@pytest.mark.parametrize("method", METHODS)
def test_copies_of_each_batch(method: str, tmp_path: Path) -> None:
    make, expected = METHODS[method]
    counter, mixing = Counter(), make(seed=1, log_images_every_n_steps=None)
    logger = pl.loggers.CSVLogger(tmp_path)
    module = OnDevice(counter)
    trainer(counter, mixing, logger=logger, log_every_n_steps=2).fit(module, DataLoader(data(20), batch_size=4))
    assert counter.copies == [expected] * 5
    # For its one copy to the host, and for nothing else.
    assert counter.waits == [expected[0]] * 5
    if method != "not mixed":
        seconds = f"{mixing.name}/mixing_seconds"
        assert [seconds in names for names in module.logged] == [False, True, False, True, False]


ON_DEVICE = {name: METHODS[name] for name in ("puzzlemix", "adversarial", "clean", "feature", "spectral")}


@pytest.mark.parametrize("method", ON_DEVICE)
def test_nothing_waits_where_the_device_solves(
    method: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulated.build(tmp_path_factory.mktemp("emulator")).install(monkeypatch)
    counter, mixing = Counter(), ON_DEVICE[method][0](seed=1, log_images_every_n_steps=None)
    # As on a device: the Trainer of this test is on the host, where setup would refuse it.
    monkeypatch.setattr("lightning_puzzlemix.callbacks.puzzlemix.warm_up", lambda *_: 0.0)
    mixing._given_config = dataclasses.replace(mixing._given_config, solve_on="device")
    finish = mixing.mixer.checks.finish

    def finish_on_device() -> None:
        with FakeDevice():
            finish()

    monkeypatch.setattr(mixing.mixer.checks, "finish", finish_on_device)
    module = OnDevice(counter)
    trainer(counter, mixing, logger=False).fit(module, DataLoader(data(20), batch_size=4))
    assert counter.waits == [0] * 5
    # Of values that are checked when they have arrived.
    assert [out for out, _ in counter.copies] == [1] * 5
