"""The targets of unmixed batches have the form of mixed ones."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from callback_cases import Cached, Recorder, callback, data, loader, trainer
from torch import Tensor, nn

import lightning_puzzlemix as pm


class SoftTargetLoss(Recorder):
    """Its loss takes soft targets alone; as many images as classes would let class indices pass unnoticed."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, targets = batch
        self.seen.append((images, targets))
        return -(targets * self(images).log_softmax(1)).sum(1).mean()


MAKERS = [
    callback,
    lambda **options: callback(saliency="spectral", **options),
    lambda **options: pm.MixUpCallback(seed=1, **options),
    lambda **options: pm.CutMixCallback(seed=1, **options),
    lambda **options: pm.ManifoldMixCallback(seed=1, layers=["net.0"], **options),
]
SCHEDULES = [{"prob": 0.5}, {"prob": 0.0}, {"start_epoch": 1}, {"stop_epoch": 1}, {"start_epoch": 5}]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_soft_targets_in_every_batch(make: Any, schedule: dict[str, Any]) -> None:
    module = SoftTargetLoss()
    mixing = make(**schedule)
    trainer(mixing, max_epochs=2).fit(module, loader(count=11, batch_size=5))
    originals, classes = data(11).tensors
    assert [tuple(targets.shape) for _, targets in module.seen] == [(5, 5), (5, 5), (1, 5)] * 2
    assert all(targets.dtype == torch.float32 for _, targets in module.seen)
    unmixed = [0, 1, 2] if "start_epoch" in schedule else [3, 4, 5] if "stop_epoch" in schedule else []
    for index in range(6) if mixing.last is None else unmixed:
        part = slice(index % 3 * 5, index % 3 * 5 + 5)
        assert torch.equal(module.seen[index][0], originals[part])
        assert torch.equal(module.seen[index][1], F.one_hot(classes[part], 5).float())


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_pairs_in_every_batch(schedule: dict[str, Any]) -> None:
    class Margin(Recorder):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            images, targets = batch
            self.seen.append((images, targets))
            loss = pm.pair_loss(nn.MultiMarginLoss(), self(images), targets)
            if bool((targets.ratio == 1).all()):
                torch.testing.assert_close(loss, nn.MultiMarginLoss()(self(images), targets.first))
            return loss

    module = Margin()
    trainer(callback(targets="pair", **schedule), max_epochs=2).fit(module, loader())
    assert len(module.seen) == 6
    assert all(isinstance(targets, pm.PairTargets) for _, targets in module.seen)


def test_probabilities_and_several_forms_keep_their_values() -> None:
    images, classes = data(5).tensors
    soft = torch.softmax(torch.randn(5, 3), 1)
    module = Recorder()
    module.training_step = lambda batch, batch_idx: module.seen.append(batch)
    mixing = pm.MixUpCallback(prob=0.0, target_key=[1, 2], num_classes=5)
    trainer(mixing).fit(module, Cached((images, classes, soft)))
    ((seen, indices, probabilities),) = module.seen
    assert seen is images
    assert torch.equal(indices, F.one_hot(classes, 5).float())
    assert torch.equal(probabilities, soft)


def test_the_class_count_is_that_of_the_fit() -> None:
    """The same callback goes on to a module of its own with more classes."""
    mixing = pm.MixUpCallback(prob=0.0)
    for classes in (5, 7):
        module = Recorder(classes)
        trainer(mixing).fit(module, loader())
        assert {tuple(targets.shape) for _, targets in module.seen} == {(4, classes)}


def test_validation_keeps_class_indices() -> None:
    module = Recorder()
    trainer(callback(prob=0.0)).fit(module, loader(), loader())
    assert all(targets.ndim == 1 for _, targets in module.validated)
    assert all(targets.ndim == 2 for _, targets in module.seen)


def test_an_unknown_number_of_classes_is_refused_with_advice() -> None:
    class Headless(Recorder):
        def forward(self, images: Tensor) -> Tensor:
            raise NotImplementedError

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.seen.append(batch)
            return F.cross_entropy(self.net(batch[0]), batch[1])

    class Features(Headless):
        def forward(self, images: Tensor) -> Tensor:
            return images

    class Misshapen(Headless):
        def forward(self, images: Tensor) -> Tensor:
            return self.net[4](images)

    for prob in (0.0, 1.0):
        for kind in (Headless, Features, Misshapen):
            with pytest.raises(ValueError, match="pass num_classes") as caught:
                trainer(pm.CutMixCallback(prob=prob)).fit(kind(), loader())
            assert "saliency_loss" not in str(caught.value), "which CutMixCallback does not take"
    module = Headless()
    trainer(pm.CutMixCallback(prob=0.0, num_classes=5)).fit(module, loader())
    assert {tuple(targets.shape) for _, targets in module.seen} == {(4, 5)}


@pytest.mark.parametrize("make", [pm.MixUpCallback, pm.CutMixCallback, pm.ManifoldMixCallback])
@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (2.0, TypeError), (True, TypeError)])
def test_baselines_check_num_classes(make: Any, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"num_classes must be .*None|at least 1, got {value}"):
        make(num_classes=value)
