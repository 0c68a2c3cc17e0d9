"""Models that have no gradient at the images, and how they are refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import lightning_puzzlemix as pm
from lightning_puzzlemix.saliency import gradient_saliency


class Backbone(nn.Module):
    """A frozen backbone under no_grad, or one that is checkpointed, before a head that learns."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv = nn.Conv2d(3, 4, 3, stride=4)
        self.head = nn.LazyLinear(5)
        self(torch.zeros(1, 3, 9, 9))

    def features(self, images: Tensor) -> Tensor:
        return self.conv(images).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        if self.kind == "no_grad":
            with torch.no_grad():
                found = self.features(images)
        else:
            found = checkpoint(self.features, images, use_reentrant=self.kind == "reentrant")
        return self.head(found)


IMAGES, TARGETS = torch.randn(6, 3, 9, 9), torch.tensor([0, 1, 2, 3, 4, 0])


def test_backbone_under_no_grad() -> None:
    with pytest.raises(ValueError, match=r"does not depend on the images.*requires_grad_\(False\)"):
        gradient_saliency(Backbone("no_grad"), IMAGES, TARGETS)


@pytest.mark.filterwarnings("ignore")
def test_reentrant_checkpoint() -> None:
    with pytest.raises(ValueError, match="use_reentrant=False"):
        gradient_saliency(Backbone("reentrant"), IMAGES, TARGETS)


@pytest.mark.filterwarnings("ignore")
def test_other_checkpoint_works() -> None:
    model = Backbone("plain")
    found = gradient_saliency(model, IMAGES, TARGETS)
    assert found.saliency.max() > 0


def test_frozen_backbone_works() -> None:
    model = Backbone("plain").requires_grad_(False)
    assert gradient_saliency(model, IMAGES, TARGETS).saliency.max() > 0


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (torch.zeros(2, 3, 9, 9, dtype=torch.uint8), TypeError, "images must be floating point, got torch.uint8"),
        (torch.zeros(3, 9, 9), ValueError, r"images must have shape \(B, C, H, W\).*\(3, 9, 9\)"),
        ([1, 2], TypeError, "images must be a tensor.*list"),
    ],
)
def test_images_are_checked(images: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        pm.PuzzleMix()(Backbone("plain"), images, TARGETS)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("targets", "error", "message"),
    [
        (torch.tensor([0, 1, 2, 3, 5, 0]), ValueError, r"classes in \[0, 4\], got 0 to 5"),
        (torch.tensor([0, 1, 2, 3, -100, 0]), ValueError, "got -100 to 3.*ignore_index"),
        (torch.zeros(6, 4), ValueError, r"\(6, 5\) float probabilities.*\(6, 4\)"),
        (torch.zeros(5, dtype=torch.long), ValueError, r"\(6,\) integer.*shape \(5,\)"),
        (torch.zeros(6, 5, dtype=torch.bool), TypeError, "torch.bool"),
        (torch.full((6, 5), 2.0), ValueError, r"probabilities in \[0, 1\], got values from 2 to 2"),
        ([0] * 6, TypeError, "targets must be a tensor.*list"),
    ],
)
def test_targets_are_checked(targets: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        gradient_saliency(Backbone("plain"), IMAGES, targets)  # type: ignore[arg-type]
