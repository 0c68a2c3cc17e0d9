"""Losses and the accuracy over the epochs."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy.spatial import distance
from scipy.stats import entropy
from torch import nn
from torch.nn import functional as F

from experiments.runs.summary import AccuracyByEpoch
from experiments.training.module import LOSSES, Classifier, jensen_shannon


def test_bce_softmax_is_the_authors_loss() -> None:
    """Against torch's modules put together as their script does: BCELoss(softmax(logits), soft targets)."""
    logits = (3 * torch.randn(6, 5)).requires_grad_()
    targets = torch.rand(6, 5).softmax(dim=1)
    ours = LOSSES["bce_softmax"](logits, targets)
    theirs = nn.BCELoss()(nn.Softmax(dim=1)(logits), targets)
    assert ours.item() == pytest.approx(theirs.item())
    gradients = (torch.autograd.grad(loss, logits)[0] for loss in (ours, theirs))
    assert torch.allclose(*gradients)


def test_bce_softmax_takes_classes() -> None:
    logits, classes = torch.randn(4, 3), torch.tensor([2, 0, 1, 1])
    probabilities = logits.softmax(dim=1).numpy()
    expected = 0.0
    for row, label in zip(probabilities, classes.tolist(), strict=True):
        expected -= sum(np.log(p) if index == label else np.log(1 - p) for index, p in enumerate(row)) / 12
    assert LOSSES["bce_softmax"](logits, classes).item() == pytest.approx(expected, rel=1e-5)


def test_bce_softmax_runs_under_autocast() -> None:
    logits = torch.randn(4, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = LOSSES["bce_softmax"](logits.bfloat16(), torch.tensor([2, 0, 1, 1]))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(LOSSES["bce_softmax"](logits, torch.tensor([2, 0, 1, 1])).item(), rel=0.02)


def test_accuracy_over_the_epochs() -> None:
    accuracies = [0.9, 0.1, *(index / 100 for index in (30, 45, 31, 44, 33, 40, 35, 36, 37, 38))]
    found = AccuracyByEpoch.of(accuracies)
    assert (found.best, found.last) == (0.9, 0.38)
    assert found.median_last_10 == pytest.approx(float(np.median(accuracies[-10:])))
    assert AccuracyByEpoch.of([0.2, 0.6]).median_last_10 == pytest.approx(0.4)


def test_jensen_shannon_is_scipys() -> None:
    logits = 3 * torch.randn(3, 5, 4, dtype=torch.float64)
    probs = logits.softmax(dim=2).numpy()
    pairs = [distance.jensenshannon(*each) ** 2 for each in zip(probs[0], probs[1], strict=True)]
    assert jensen_shannon(logits[:2]).item() == pytest.approx(np.mean(pairs), rel=1e-5)
    # Of three: the entropy of the mean, less the mean of the entropies.
    expected = entropy(probs.mean(axis=0), axis=1).mean() - entropy(probs, axis=2).mean()
    assert jensen_shannon(logits).item() == pytest.approx(expected, rel=1e-5)
    assert torch.autograd.gradcheck(jensen_shannon, logits.requires_grad_(), eps=1e-3, atol=1e-3)


def test_the_consistency_loss_stands_beside_that_of_the_mixed_images(monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.BatchNorm1d(4))
    classifier = Classifier(net, num_classes=4, consistency_weight=12)
    monkeypatch.setattr(classifier, "log", lambda *args, **kwargs: None)
    monkeypatch.setattr(classifier, "log_dict", lambda *args, **kwargs: None)
    mixed, views, targets = torch.randn(5, 3, 2, 2), torch.randn(5, 3, 3, 2, 2), torch.rand(5, 4).softmax(dim=1)
    loss = classifier.training_step((mixed, targets, views), 0)
    statistics = partial(F.batch_norm, running_mean=None, running_var=None, training=True)
    linear: nn.Linear = net[1]  # type: ignore[assignment]
    clean, first, second = statistics(linear(torch.cat([views[:, each].flatten(1) for each in range(3)]))).split(5)
    probs = torch.stack([clean, first, second]).softmax(dim=2).detach().numpy()
    divergence = entropy(probs.mean(axis=0), axis=1).mean() - entropy(probs, axis=2).mean()
    expected = F.cross_entropy(statistics(linear(mixed.flatten(1))), targets).item() + 12 * divergence
    assert loss.item() == pytest.approx(expected, rel=1e-5)
