"""Losses and the accuracy over the epochs."""

import numpy as np
import pytest
import torch
from torch import nn

from experiments.runs.summary import AccuracyByEpoch
from experiments.training.module import LOSSES


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
