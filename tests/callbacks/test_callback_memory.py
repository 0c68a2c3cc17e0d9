"""What a mixing callback keeps in memory from one batch to the next."""

from __future__ import annotations

import gc
import weakref
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch.nn.functional as F
from callback_cases import Recorder, data, trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

import lightning_puzzlemix as pm


class Watch(Recorder):
    """Looks, whenever saliency is asked for, whether tensors of the batch before are still there."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = None  # type: ignore[assignment]
        self.before: list[Any] = []
        self.alive: list[int] = []

    def saliency(self, module: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        gc.collect()
        self.alive.append(sum(reference() is not None for reference in self.before))
        return images.abs().mean(1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def on_train_batch_end(self, *args: Any) -> None:
        last = next(each.last for each in self.trainer.callbacks if isinstance(each, pm.MixCallback))
        self.before = [weakref.ref(each) for each in (last.images, last.originals, last.saliency, last.targets)]


@pytest.mark.parametrize("every", [None, 1, 1000])
def test_a_mixed_batch_is_freed_before_the_saliency_pass_of_the_next(every: int | None, tmp_path: Path) -> None:
    module = Watch()
    config = pm.PuzzleMixConfig(grid_sizes=(2, 4))
    mixing = pm.PuzzleMixCallback(
        config, saliency=lambda *args: module.saliency(*args), num_classes=5, log_images_every_n_steps=every
    )
    logger = pl.loggers.CSVLogger(tmp_path)
    trainer(mixing, logger=logger).fit(module, DataLoader(data(20), batch_size=4))
    assert module.alive == [0] * 5
    assert isinstance(mixing.last, pm.MixedBatch), "the last one stays"
    images = list(tmp_path.rglob("images/*.png"))
    # With an image at each step, the last has been logged by the end.
    assert len(images) == {None: 0, 1: 5, 1000: 2}[every]


def test_no_callback_of_several_keeps_its_last_batch(tmp_path: Path) -> None:
    """Not for its images either, while another one mixes."""
    module = Watch()
    config = pm.PuzzleMixConfig(grid_sizes=(2, 4))
    first, second = (
        pm.PuzzleMixCallback(config, saliency=lambda *args: module.saliency(*args), num_classes=5) for _ in range(2)
    )
    mixing = pm.RandomMixCallback([first, second], seed=0)
    chosen = [mixing.callbacks.index(mixing.choose(batch_idx=index)) for index in range(5)]
    assert set(pairwise(chosen)) & {(0, 1), (1, 0)}, "the seed must change between them"
    logger = pl.loggers.CSVLogger(tmp_path)
    trainer(mixing, logger=logger).fit(module, DataLoader(data(20), batch_size=4))
    assert module.alive == [0] * 5


def test_without_freeing_the_batch_would_be_found(tmp_path: Path) -> None:
    """The test above sees tensors that are kept: here by somebody else."""
    module, kept = Watch(), []
    mixing = pm.PuzzleMixCallback(
        pm.PuzzleMixConfig(grid_sizes=(2,)), saliency=lambda *args: module.saliency(*args), num_classes=5
    )

    class Keep(pl.Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            kept.append(mixing.last)

    trainer(mixing, Keep(), logger=False).fit(module, DataLoader(data(8), batch_size=4))
    assert module.alive == [0, 4]
