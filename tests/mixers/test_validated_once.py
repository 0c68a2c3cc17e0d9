"""Arguments are checked once a public call, at its door; nothing further in checks them again."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from functools import wraps
from typing import Any

import pytest
import torch
from torch import nn

import lightning_puzzlemix as pm
from lightning_puzzlemix import targets, validation
from lightning_puzzlemix.solvers import value_checks

IMAGES, CLASSES, PERMUTATION = torch.rand(4, 3, 16, 16), torch.arange(4), torch.arange(4).roll(1)
SALIENCY, SOFT = torch.rand(4, 16, 16), nn.functional.one_hot(CLASSES, 4).float()
MODEL = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(196, 4))
CHECKS = (validation.check_images, validation.check_permutation, value_checks.check_lam, targets.check_targets)


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each check runs, under whichever module's name."""
    found: Counter[str] = Counter()

    def counted(check: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(check)
        def count(*args: Any, **kwargs: Any) -> Any:
            found[check.__name__] += 1
            return check(*args, **kwargs)

        return count

    for check in CHECKS:
        for name, module in list(sys.modules.items()):
            if name.startswith("lightning_puzzlemix") and vars(module).get(check.__name__) is check:
                monkeypatch.setattr(module, check.__name__, counted(check))
    return found


def test_puzzle_mix(counts: Counter[str]) -> None:
    pm.puzzle_mix(IMAGES, SALIENCY, permutation=PERMUTATION, lam=0.5, blocks_per_side=4)
    assert counts == {"check_images": 1, "check_permutation": 1, "check_lam": 1}


PUZZLE_MIXERS = {
    "gradient": pm.PuzzleMix(),
    "clean": pm.PuzzleMix(clean_weight=1.0, adversarial_prob=1.0),
    "feature": pm.PuzzleMix(saliency="feature", saliency_layer="0"),
    "spectral": pm.PuzzleMix(saliency="spectral"),
    "callable": pm.PuzzleMix(saliency=lambda module, images, targets: images.mean(1)),
}


@pytest.mark.parametrize("mixer", PUZZLE_MIXERS.values(), ids=PUZZLE_MIXERS)
@pytest.mark.parametrize("given", [CLASSES, SOFT], ids=["classes", "soft"])
@pytest.mark.parametrize("drawn", [False, True])
def test_the_mixer(mixer: pm.PuzzleMix, given: torch.Tensor, drawn: bool, counts: Counter[str]) -> None:
    draw = mixer.draw(IMAGES) if drawn else None
    assert counts == ({"check_images": 1} if drawn else {})
    counts.clear()
    mixer(MODEL, IMAGES, given, draw)
    # Float targets are checked by their range alone.
    assert counts == {"check_images": 1, "check_permutation": 1, "check_lam": 1} | (
        {"check_targets": 1} if given is CLASSES else {}
    )


@pytest.mark.parametrize("mixer", [pm.MixUp(), pm.CutMix(), pm.ManifoldMix()], ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("drawn", [False, True])
def test_the_baselines(mixer: Any, drawn: bool, counts: Counter[str]) -> None:
    draw = mixer.draw(IMAGES) if drawn else None
    counts.clear()
    mixer(MODEL, IMAGES, CLASSES, draw)
    assert counts == {"check_images": 1, "check_permutation": 1, "check_targets": 1}
