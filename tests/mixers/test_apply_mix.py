"""Whatever lies on the pixels is mixed as the images were."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lightning_puzzlemix as pm

MODEL = nn.Sequential(nn.Flatten(), nn.LazyLinear(5))
TARGETS = torch.arange(6) % 5
CONFIG = pm.PuzzleMixConfig(num_labels=2, grid_sizes=(4,), transport_cost=0.001)


def peaked(module: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Saliency with few peaks, so that blocks move."""
    return F.avg_pool2d(images.mean(1), 3, 1, 1).pow(20)


MIXERS = {
    "puzzlemix": pm.PuzzleMix(CONFIG, saliency=peaked, num_classes=5),
    "three labels": pm.PuzzleMix(
        pm.PuzzleMixConfig(grid_sizes=(4,), transport_cost=0.001), saliency=peaked, num_classes=5
    ),
    "cells": pm.PuzzleMix(
        pm.PuzzleMixConfig(grid_sizes=(2,), transport_size=4, num_labels=2, transport_cost=0.001),
        saliency=peaked,
        num_classes=5,
    ),
    "without transport": pm.PuzzleMix(
        pm.PuzzleMixConfig(grid_sizes=(4,), transport=False), saliency=peaked, num_classes=5
    ),
    "mixup": pm.MixUp(num_classes=5),
    "cutmix": pm.CutMix(num_classes=5),
    "cutmix each": pm.CutMix(num_classes=5, per_sample=True),
}


def mix(name: str, size: tuple[int, int] = (16, 16), seed: int = 1) -> pm.MixedBatch:
    images = torch.rand(6, 3, *size, generator=torch.Generator().manual_seed(seed))
    mixer: Any = MIXERS[name]
    return mixer(MODEL, images, TARGETS, mixer.draw(images, key=(seed,)))


@pytest.mark.parametrize("size", [(16, 16), (13, 18)])
@pytest.mark.parametrize("name", MIXERS)
def test_images_are_mixed_as_they_were(name: str, size: tuple[int, int]) -> None:
    mixed = mix(name, size)
    before = mixed.originals.clone()
    assert torch.equal(pm.apply_mix(mixed.originals, mixed), mixed.images)
    assert torch.equal(pm.apply_mix(mixed.originals.double(), mixed).float(), mixed.images)
    assert torch.equal(mixed.originals, before)


@pytest.mark.parametrize("name", ["puzzlemix", "cells", "cutmix", "cutmix each"])
@pytest.mark.parametrize("seed", range(4))
def test_every_pixel_brings_its_own_class(name: str, seed: int) -> None:
    """The images hold the number of each pixel, so a mixed image tells where its pixels come from."""
    numbers = torch.arange(6 * 16 * 16).view(6, 1, 16, 16)
    mixer: Any = MIXERS[name]
    images = numbers / numbers.numel()
    mixed = mixer(MODEL, images, TARGETS, mixer.draw(images, key=(seed,)))
    source = (mixed.images * numbers.numel()).round().long()
    classes = torch.randint(7, numbers.shape, generator=torch.Generator().manual_seed(seed))
    one_hot = F.one_hot(classes[:, 0], 7).movedim(-1, 1).float()
    assert torch.equal(pm.apply_mix(one_hot, mixed).argmax(1), classes.flatten()[source][:, 0])
    depth = torch.rand(6, 16, 16, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(pm.apply_mix(depth, mixed), depth.flatten()[source][:, 0])


@pytest.mark.parametrize("name", MIXERS)
@pytest.mark.parametrize("size", [(8, 8), (32, 16), (64, 64)])
def test_other_resolutions_show_the_same_shares(name: str, size: tuple[int, int]) -> None:
    mixed = mix(name)
    colors = torch.arange(6.0)
    values = colors.view(6, 1, 1, 1, 1).expand(6, 2, 3, *size)
    found = pm.apply_mix(values, mixed)
    assert found.shape == values.shape
    expected = mixed.ratio * colors + (1 - mixed.ratio) * colors[mixed.draw.permutation]
    torch.testing.assert_close(found.mean((1, 2, 3, 4)), expected)


def test_a_map_of_half_the_resolution_is_moved_like_the_pooled_images() -> None:
    mixed = mix("puzzlemix")
    assert mixed.plan is not None
    assert (mixed.plan != torch.arange(16).view(4, 4)).any(), "some blocks must move"
    pooled = F.avg_pool2d(mixed.originals, 2)
    torch.testing.assert_close(pm.apply_mix(pooled, mixed), F.avg_pool2d(mixed.images, 2))


def test_a_draw_of_adversarial_noise_leaves_other_values_alone() -> None:
    mixed = mix("puzzlemix")
    noisy = dataclasses.replace(
        mixed, draw=dataclasses.replace(mixed.draw, adversarial_first=True, noise_start=torch.zeros_like(mixed.images))
    )
    assert torch.equal(pm.apply_mix(mixed.originals, noisy), mixed.images)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (torch.zeros(6, 16, 16, dtype=torch.int64), TypeError, "floating point, got torch.int64.*one_hot"),
        (torch.zeros(5, 3, 16, 16), ValueError, r"shape \(6, ..., H, W\).*got \(5, 3, 16, 16\)"),
        (torch.zeros(6, 16), ValueError, r"shape \(6, ..., H, W\)"),
        (torch.zeros(6, 0, 16, 16), ValueError, r"shape \(6, ..., H, W\)"),
        (torch.zeros(6, 1, 3, 16), ValueError, "3 x 16 pixels cannot be cut into the 4 x 4 blocks"),
    ],
)
def test_refuses_what_cannot_be_mixed(values: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        pm.apply_mix(values, mix("puzzlemix"))


def test_refuses_a_mixed_layer() -> None:
    mixed = dataclasses.replace(mix("mixup"), layer="net.0")
    with pytest.raises(ValueError, match="was mixed, and no pixels"):
        pm.apply_mix(mixed.originals, mixed)
