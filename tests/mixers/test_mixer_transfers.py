"""What a mixer copies between device and host, counted on a device that does not exist: as little as puzzle_mix alone."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from fake_device import DeviceTensor, FakeDevice
from torch import Tensor, nn

import lightning_puzzlemix as pm
from lightning_puzzlemix.mixers import PhaseTimer

BATCH, SIDE = 6, 16
IMAGES = torch.rand(BATCH, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
CLASSES, PERMUTATION = torch.arange(BATCH) % 4, torch.arange(BATCH).roll(1)
NORMALIZED: dict[str, Any] = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4)}


class NoTimer(PhaseTimer):
    """Makes no events, which need a driver."""

    def phase(self, name: str, device: torch.device) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()


@pytest.fixture(autouse=True)
def _no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the generators of the device, whose states only a driver knows."""
    monkeypatch.setattr(torch.random, "fork_rng", lambda *args, **kwargs: nullcontext())


def network(on_device: bool) -> nn.Module:
    torch.manual_seed(5)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(256, 4))
    for module in model.modules() if on_device else ():
        for name, parameter in list(module._parameters.items()):
            module._parameters[name] = nn.Parameter(DeviceTensor(parameter.detach()))
    return model


def mix(mixer: Any, targets: Tensor, draw: pm.MixDraw, on_device: bool) -> pm.MixedBatch:
    place = DeviceTensor if on_device else torch.clone
    return mixer(network(on_device), place(IMAGES), place(targets), draw, timer=NoTimer())


def plain(tensor: Tensor) -> Tensor:
    assert isinstance(tensor, DeviceTensor)
    return tensor.inner


def compare(mixer: Any, targets: Tensor, make_draw: Any) -> FakeDevice:
    """Mix on the host and on the device, ask for equal results, and return the counts."""
    host = mix(mixer, targets, make_draw(torch.clone), on_device=False)
    with FakeDevice() as counter:
        found = mix(mixer, targets, make_draw(DeviceTensor), on_device=True)
    for name in ("images", "targets", "ratio"):
        torch.testing.assert_close(plain(getattr(found, name)), getattr(host, name))
    assert not counter.doubles
    return counter


@pytest.mark.parametrize("targets", [CLASSES, nn.functional.one_hot(CLASSES, 4).float()], ids=["classes", "soft"])
@pytest.mark.parametrize(
    "options",
    [{}, {"clean_weight": 1.0}, {"adversarial_prob": 1.0}, {"saliency": "feature", "saliency_layer": "0"},
     {"saliency": "spectral"}, {"saliency": lambda module, images, targets: images.abs().mean(1)}],
    ids=["gradient", "clean", "adversarial", "feature", "spectral", "callable"],
)  # fmt: skip
def test_puzzle_mix_copies_once_each_way(options: dict[str, Any], targets: Tensor) -> None:
    mixer = pm.PuzzleMix(pm.PuzzleMixConfig(**NORMALIZED), num_classes=4, **options)
    noise = (
        {"adversarial_first": True, "noise_start": torch.zeros_like(IMAGES)} if "adversarial_prob" in options else {}
    )

    def draw(place: Any) -> pm.MixDraw:
        return pm.MixDraw(
            place(PERMUTATION), 0.4, 4, **{k: place(v) if k == "noise_start" else v for k, v in noise.items()}
        )

    counter = compare(mixer, targets, draw)
    assert (counter.out, counter.back) == (1, 1)


BOXES = np.array([[2, 9, 3, 12]])


@pytest.mark.parametrize(
    ("mixer", "choices", "back"),
    [
        (pm.MixUp(num_classes=4), {}, 0),
        (pm.MixUp(num_classes=4), {"lam": torch.linspace(0, 1, BATCH)}, 1),
        (pm.CutMix(num_classes=4), {"boxes": BOXES}, 0),
        (pm.CutMix(num_classes=4), {"boxes": BOXES.repeat(BATCH, 0)}, 1),
        (pm.ManifoldMix(["input"], num_classes=4), {}, 0),
    ],
    ids=["mixup", "mixup per sample", "cutmix", "cutmix per sample", "manifold"],
)
def test_baselines_copy_nothing_but_draws_of_the_host(mixer: Any, choices: dict[str, Any], back: int) -> None:
    counter = compare(mixer, CLASSES, lambda place: pm.BaselineDraw(place(PERMUTATION), **{"lam": 0.3, **choices}))
    assert (counter.out, counter.back) == (0, back)
