"""Only some samples of a batch are mixed; the others keep their image and their target."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from callback_cases import Recorder, data, trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

import lightning_puzzlemix as pm
from lightning_puzzlemix.monitoring import mix_metrics, plot_mixes

BATCH = 12
IMAGES = torch.rand(BATCH, 3, 8, 8, generator=torch.Generator().manual_seed(1))
CLASSES = torch.arange(BATCH) % 5
MODEL = nn.Sequential(nn.Flatten(), nn.Linear(192, 5))
CONFIG = pm.PuzzleMixConfig(grid_sizes=(2, 4), transport_cost=0.01)
MIXERS = {
    "puzzlemix": lambda **options: pm.PuzzleMix(CONFIG, **options),
    "adversarial": lambda **options: pm.PuzzleMix(CONFIG, adversarial_prob=1.0, **options),
    "without transport": lambda **options: pm.PuzzleMix(
        pm.PuzzleMixConfig(grid_sizes=(4,), transport=False), **options
    ),
    "mixup": pm.MixUp,
    "mixup each": lambda **options: pm.MixUp(per_sample=True, **options),
    "cutmix": pm.CutMix,
    "cutmix each": lambda **options: pm.CutMix(per_sample=True, **options),
    "manifold": lambda **options: pm.ManifoldMix(layers=["input"], **options),
}
CALLBACKS = {
    "puzzlemix": lambda **options: pm.PuzzleMixCallback(CONFIG, **options),
    "mixup": pm.MixUpCallback,
    "cutmix": pm.CutMixCallback,
    "manifoldmix": lambda **options: pm.ManifoldMixCallback(layers=["input"], **options),
}


@pytest.mark.parametrize("name", MIXERS)
def test_kept_samples_stay_and_the_others_are_mixed_as_without(name: str) -> None:
    mixer: Any = MIXERS[name](sample_prob=0.5)
    draw = mixer.draw(IMAGES, key=(3, 0, 0, 0))
    kept = draw.kept
    assert 0 < int(kept.sum()) < BATCH
    mixed = mixer(MODEL, IMAGES, CLASSES, draw)
    whole = mixer(MODEL, IMAGES, CLASSES, dataclasses.replace(draw, kept=None))
    assert torch.equal(mixed.images[kept], IMAGES[kept])
    assert torch.equal(mixed.targets[kept], F.one_hot(CLASSES, 5).float()[kept])
    assert (mixed.ratio[kept] == 1).all()
    assert torch.equal(mixed.images[~kept], whole.images[~kept])
    assert torch.equal(mixed.targets[~kept], whole.targets[~kept])
    # What plots and further values go by.
    if "adversarial" not in name:
        assert torch.equal(pm.apply_mix(IMAGES, mixed), mixed.images)
    values = mix_metrics(mixed)
    assert all(value.isfinite() for value in values.values())
    assert float(values["ratio"]) == pytest.approx(float(mixed.ratio.mean()))
    plot_mixes(mixed, targets=CLASSES).clear()


@pytest.mark.parametrize("name", MIXERS)
def test_other_choices_do_not_depend_on_it(name: str) -> None:
    every, some = (MIXERS[name](**options).draw(IMAGES, key=(1, 2, 3, 4)) for options in ({}, {"sample_prob": 0.3}))
    assert every.kept is None
    assert torch.equal(every.permutation, some.permutation)
    assert torch.equal(torch.as_tensor(every.lam), torch.as_tensor(some.lam))
    assert every.blocks_per_side == some.blocks_per_side


@pytest.mark.parametrize("name", ["puzzlemix", "cutmix"])
def test_the_share_of_mixed_samples(name: str) -> None:
    mixer: Any = MIXERS[name](sample_prob=0.3)
    images = torch.zeros(1000, 1, 8, 8)
    kept = torch.cat([mixer.draw(images, key=(0, 0, 0, index)).kept for index in range(10)])
    # Five standard deviations of a binomial of 10,000.
    assert float((~kept).float().mean()) == pytest.approx(0.3, abs=5 * (0.3 * 0.7 / 10_000) ** 0.5)
    none, every = (MIXERS[name](sample_prob=prob).draw(images, key=(0,)).kept for prob in (0.0, 1.0))
    assert bool(none.all())
    assert every is None


@pytest.mark.parametrize("name", CALLBACKS)
@pytest.mark.parametrize("targets", ["soft", "pair"])
def test_a_fit_with_every_callback(name: str, targets: str, tmp_path: Path) -> None:
    mixing: Any = CALLBACKS[name](sample_prob=0.5, seed=2, targets=targets)

    class Module(Recorder):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            images, classes = batch
            original, kept = mixing.last.originals, mixing.last.draw.kept
            assert torch.equal(images[kept], original[kept])
            assert not torch.equal(images, original)
            ratio = classes.ratio if targets == "pair" else classes.amax(1)
            assert (ratio[kept] == 1).all()
            self.seen.append((images, classes))
            return (
                pm.pair_loss(F.cross_entropy, self(images), classes)
                if targets == "pair"
                else F.cross_entropy(self(images), classes)
            )

    module = Module()
    logger = pl.loggers.CSVLogger(tmp_path)
    trainer(mixing, logger=logger, log_every_n_steps=1).fit(module, DataLoader(data(20), batch_size=10))
    assert len(module.seen) == 2


def test_the_layer_of_manifold_mixup_leaves_kept_samples_alone() -> None:
    mixing = pm.ManifoldMixCallback(layers=["net.0"], sample_prob=0.5, seed=1)
    found: list[tuple[Tensor, Tensor, Tensor]] = []

    class Module(Recorder):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            images, classes = batch
            found.append(
                (self.net[0](images), F.conv2d(images, self.net[0].weight, self.net[0].bias), mixing.last.draw.kept)
            )
            return F.cross_entropy(self(images), classes)

    trainer(mixing).fit(Module(), DataLoader(data(10), batch_size=10))
    after, before, kept = found[0]
    torch.testing.assert_close(after[kept], before[kept])
    assert (after[~kept] - before[~kept]).abs().amax() > 0.01


@pytest.mark.parametrize("make", [*MIXERS.values(), *CALLBACKS.values()])
def test_refuses_what_is_no_chance(make: Any) -> None:
    with pytest.raises(ValueError, match=r"sample_prob must .*1.5"):
        make(sample_prob=1.5)


def test_refuses_a_draw_of_other_samples() -> None:
    with pytest.raises(ValueError, match=r"kept must be \(4,\) bools.*got torch.bool \(3,\)"):
        pm.MixDraw(torch.arange(4), 0.5, 2, kept=torch.zeros(3, dtype=torch.bool))
