"""pair_loss keeps the scale of the loss that it is given."""

from __future__ import annotations

import functools
from typing import Any

import fake_device
import pytest
import torch
import torch.nn.functional as F
from fake_device import DeviceTensor, FakeDevice
from torch import Tensor, nn

import lightning_puzzlemix as pm

WEIGHT = torch.tensor([0.01, 0.02, 0.3, 0.04])
GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(8, 4, generator=GENERATOR)
CLASSES = torch.arange(8) % 4
SOFT = torch.softmax(torch.randn(8, 4, generator=GENERATOR), 1)
PERMUTATION = torch.randperm(8, generator=GENERATOR)
RATIO = torch.rand(8, generator=GENERATOR)


def weighted(logits: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    return F.cross_entropy(logits, targets, weight=WEIGHT, reduction=reduction)


class Plain(nn.Module):
    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits, targets, weight=WEIGHT)


LOSSES = {
    "plain": nn.CrossEntropyLoss(),
    "function": F.cross_entropy,
    "weighted": nn.CrossEntropyLoss(weight=WEIGHT),
    "summed": nn.CrossEntropyLoss(reduction="sum"),
    "weighted sum": nn.CrossEntropyLoss(weight=WEIGHT, reduction="sum"),
    "smoothed": nn.CrossEntropyLoss(label_smoothing=0.1),
    "weighted and smoothed": nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.1),
    "ignoring": nn.CrossEntropyLoss(weight=WEIGHT, ignore_index=2),
    "partial": functools.partial(F.cross_entropy, weight=WEIGHT, ignore_index=1),
    "partial sum": functools.partial(F.cross_entropy, weight=WEIGHT, reduction="sum"),
    "likelihood": lambda logits, targets: F.nll_loss(logits.log_softmax(1), targets, WEIGHT),
    "weighted lambda": lambda logits, targets: F.cross_entropy(logits, targets, weight=WEIGHT),
    "summed lambda": lambda logits, targets: F.cross_entropy(logits, targets, weight=WEIGHT, reduction="sum"),
    "own function": weighted,
    "own module": Plain(),
    "margin": nn.MultiMarginLoss(),
    "weighted margin": nn.MultiMarginLoss(weight=WEIGHT),
    "summed margin": nn.MultiMarginLoss(reduction="sum"),
}


def check(found: Tensor, expected: Tensor, logits: Tensor) -> None:
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(each, logits, retain_graph=True)[0] for each in (found, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("name", LOSSES)
def test_where_nothing_is_mixed_it_is_the_loss(name: str) -> None:
    loss, logits = LOSSES[name], LOGITS.clone().requires_grad_()
    expected = loss(logits, CLASSES)
    check(pm.pair_loss(loss, logits, pm.PairTargets(CLASSES, CLASSES[PERMUTATION], torch.ones(8))), expected, logits)
    check(pm.pair_loss(loss, logits, pm.PairTargets(CLASSES[PERMUTATION], CLASSES, torch.zeros(8))), expected, logits)


@pytest.mark.parametrize("name", LOSSES)
def test_with_one_ratio_it_is_the_usual_criterion_of_mixup(name: str) -> None:
    """Partners are the same images in another order, so that the weights of both sides have the same sum."""
    loss, logits = LOSSES[name], LOGITS.clone().requires_grad_()
    second = CLASSES[PERMUTATION]
    expected = 0.3 * loss(logits, CLASSES) + 0.7 * loss(logits, second)
    check(pm.pair_loss(loss, logits, pm.PairTargets(CLASSES, second, torch.full((8,), 0.3))), expected, logits)


@pytest.mark.parametrize("kind", ["mean", "sum", "lambda mean", "lambda sum", "weighted", "partial", "samples"])
def test_each_sample_has_its_own_share(kind: str) -> None:
    weight = WEIGHT if kind in ("weighted", "partial") else None
    loss: Any = {
        "mean": nn.CrossEntropyLoss(),
        "sum": nn.CrossEntropyLoss(reduction="sum"),
        "lambda mean": lambda x, y: F.cross_entropy(x, y),
        "lambda sum": lambda x, y: F.cross_entropy(x, y, reduction="sum"),
        "weighted": nn.CrossEntropyLoss(WEIGHT),
        "partial": functools.partial(F.cross_entropy, weight=WEIGHT),
        "samples": lambda x, y: F.cross_entropy(x, y, reduction="none"),
    }[kind]
    second, total, weights = CLASSES[PERMUTATION], 0.0, 0.0
    for row in range(8):
        for labels, share in ((CLASSES, RATIO), (second, 1 - RATIO)):
            one = F.cross_entropy(LOGITS[row : row + 1], labels[row : row + 1], weight, reduction="sum")
            total += float(share[row] * one)
            weights += float(share[row]) * (1.0 if weight is None else float(weight[labels[row]]))
    found = pm.pair_loss(loss, LOGITS, pm.PairTargets(CLASSES, second, RATIO))
    assert float(found) == pytest.approx(total if "sum" in kind else total / weights, rel=1e-5)


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(WEIGHT),
        nn.BCEWithLogitsLoss(pos_weight=10 * WEIGHT),
        nn.BCEWithLogitsLoss(reduction="sum"),
        nn.MSELoss(),
        lambda logits, targets: F.kl_div(logits.log_softmax(1), targets, reduction="batchmean"),
    ],
)
def test_probabilities(loss: Any) -> None:
    expected = loss(LOGITS, SOFT)
    found = pm.pair_loss(loss, LOGITS, pm.PairTargets(SOFT, SOFT[PERMUTATION], torch.ones(8)))
    torch.testing.assert_close(found, expected)


def test_batchmean_of_a_module() -> None:
    logits, loss = LOGITS.log_softmax(1), nn.KLDivLoss(reduction="batchmean")
    found = pm.pair_loss(loss, logits, pm.PairTargets(SOFT, SOFT[PERMUTATION], RATIO))
    each = torch.stack([F.kl_div(logits, y, reduction="none").sum(1) for y in (SOFT, SOFT[PERMUTATION])])
    torch.testing.assert_close(found, (RATIO * each[0] + (1 - RATIO) * each[1]).mean())


def test_a_loss_of_zero_and_sixteen_bits() -> None:
    right = 100 * F.one_hot(CLASSES, 4).float()
    pair = pm.PairTargets(CLASSES, CLASSES[PERMUTATION], RATIO)
    for loss in (nn.MultiMarginLoss(), lambda x, y: F.multi_margin_loss(x, y)):
        assert float(pm.pair_loss(loss, right, pm.PairTargets(CLASSES, CLASSES, RATIO))) == 0
        assert float(pm.pair_loss(loss, right, pair)) > 0
    half = pm.pair_loss(nn.BCEWithLogitsLoss(), LOGITS.bfloat16(), pm.PairTargets(SOFT, SOFT[PERMUTATION], RATIO))
    whole = pm.pair_loss(nn.BCEWithLogitsLoss(), LOGITS, pm.PairTargets(SOFT, SOFT[PERMUTATION], RATIO))
    assert float(half) == pytest.approx(float(whole), rel=0.01)


def test_no_float64_where_the_device_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors on a device that is simulated: see `fake_device`."""
    monkeypatch.setattr(fake_device, "DEVICE", torch.device("mps"))
    expected = pm.pair_loss(F.cross_entropy, LOGITS, pm.PairTargets(CLASSES, CLASSES[PERMUTATION], RATIO))
    with FakeDevice() as device:
        targets = pm.PairTargets(*(DeviceTensor(each) for each in (CLASSES, CLASSES[PERMUTATION], RATIO)))
        found = pm.pair_loss(F.cross_entropy, DeviceTensor(LOGITS), targets)
        assert isinstance(found, DeviceTensor)
        torch.testing.assert_close(found.inner, expected)
        assert not device.doubles
