"""Segmentation masks in a batch, mixed in training_step as the images were."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from callback_cases import Cached, trainer
from torch import Tensor, nn

import lightning_puzzlemix as pm

# Each pixel holds its own number, so that a mixed image tells where its pixels come from.
PIXELS = 6 * 16 * 16
IMAGES = torch.arange(PIXELS).view(6, 1, 16, 16) / PIXELS
MASKS = torch.randint(4, (6, 16, 16), generator=torch.Generator().manual_seed(2))
CONFIG = pm.PuzzleMixConfig(num_labels=2, grid_sizes=(4,), transport_cost=0.01)


class Segmenter(pl.LightningModule):
    """Trains on images with a class for each pixel, and remembers what it was given."""

    def __init__(self, mixing: pm.MixCallback) -> None:
        super().__init__()
        self.mixing, self.net = mixing, nn.Conv2d(1, 4, 1)
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images).mean((2, 3))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images = batch["image"]
        one_hot = self.mixing.apply_mix(F.one_hot(batch["mask"], 4).movedim(-1, 1).float())
        self.seen.append((images, one_hot))
        return F.cross_entropy(self.net(images), one_hot)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)


BATCH = {"image": IMAGES, "label": torch.arange(6) % 4, "mask": MASKS}


@pytest.mark.parametrize(
    "make",
    [
        lambda: pm.PuzzleMixCallback(CONFIG, seed=1, prob=0.5),
        lambda: pm.CutMixCallback(seed=1, prob=0.5),
        lambda: pm.CutMixCallback(seed=1, prob=0.5, per_sample=True),
    ],
)
def test_masks_are_mixed_with_their_images_and_only_then(make: Any) -> None:
    mixing = make()
    module = Segmenter(mixing)
    trainer(mixing, max_epochs=8).fit(module, Cached(BATCH))
    mixed = [not torch.equal(images, IMAGES) for images, _ in module.seen]
    assert set(mixed) == {True, False}, "the seed must give both"
    for images, one_hot in module.seen:
        source = (images * PIXELS).round().long()[:, 0]
        assert torch.equal(one_hot.argmax(1), MASKS.flatten()[source])


def test_nothing_is_mixed_outside_the_epochs() -> None:
    mixing = pm.CutMixCallback(seed=1, stop_epoch=1)
    module = Segmenter(mixing)
    trainer(mixing, max_epochs=2).fit(module, Cached(BATCH))
    assert [torch.equal(one_hot.argmax(1), MASKS) for _, one_hot in module.seen] == [False, True]


def test_several_sets_are_refused() -> None:
    mixing = pm.CutMixCallback(seed=1)

    class Two(Segmenter):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step(batch["a"], batch_idx)

    with pytest.raises(ValueError, match="2 sets of images, each mixed by its own draw"):
        trainer(mixing).fit(Two(mixing), Cached({"a": BATCH, "b": BATCH}))
