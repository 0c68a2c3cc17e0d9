"""Arguments of the mixing that cannot be right: each error names the argument and its value."""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_puzzlemix import MixDraw, PuzzleMix, PuzzleMixConfig, puzzle_mix

NAN, INF = float("nan"), float("inf")


def good() -> dict[str, Any]:
    """Return arguments that nothing is wrong with."""
    return {
        "images": torch.rand(4, 3, 8, 10),
        "saliency": torch.rand(4, 8, 10),
        "permutation": torch.tensor([1, 0, 3, 2]),
        "lam": 0.5,
        "blocks_per_side": 2,
        "config": PuzzleMixConfig(),
    }


def spoilt(tensor: Tensor, value: float, sample: int = 2) -> Tensor:
    """Return a copy with one value of one sample replaced."""
    copy = tensor.clone()
    copy[sample].view(-1)[7] = value
    return copy


X, S = good()["images"], good()["saliency"]


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("images", np.zeros((4, 3, 8, 10)), TypeError, "images must be a tensor.*ndarray"),
        ("images", X[0], ValueError, r"images must have shape \(B, C, H, W\).*\(3, 8, 10\)"),
        ("images", X[:0], ValueError, r"images.*no empty dimension, got \(0, 3, 8, 10\)"),
        ("images", (X * 255).byte(), TypeError, "images must be floating point, got torch.uint8.*scale=True"),
        ("images", X.long(), TypeError, "images must be floating point, got torch.int64"),
        ("images", X.to(torch.complex64), TypeError, "images must be floating point, got torch.complex64"),
        ("images", spoilt(X, NAN), ValueError, "images hold NaN or infinity in 1 of 4 samples, first in sample 2"),
        ("images", spoilt(X, INF, 0), ValueError, "images hold NaN or infinity in 1 of 4 samples, first in sample 0"),
        ("images", spoilt(X, -INF, 3), ValueError, "images hold NaN or infinity.*first in sample 3"),
        ("saliency", S.numpy(), TypeError, "saliency must be a floating point tensor.*ndarray"),
        ("saliency", S.long(), TypeError, "saliency must be a floating point tensor.*int64"),
        ("saliency", S[:3], ValueError, r"saliency must have shape \(4, 8, 10\).*\(3, 8, 10\)"),
        ("saliency", S[:, None], ValueError, r"saliency must have shape \(4, 8, 10\).*\(4, 1, 8, 10\)"),
        ("saliency", X, ValueError, r"saliency must have shape.*\(4, 3, 8, 10\).*mean\(1\)"),
        ("saliency", S.to("meta"), ValueError, "saliency must lie on the images' device cpu, got meta"),
        ("saliency", spoilt(S, -0.25), ValueError, "saliency must be >= 0, got -0.25 in sample 2"),
        ("saliency", spoilt(S, -INF, 1), ValueError, "saliency must be >= 0, got -inf in sample 1"),
        ("permutation", [1, 0, 3, 2], TypeError, "permutation must be an integer tensor, got list"),
        ("permutation", torch.ones(4), TypeError, "permutation must be an integer tensor, got torch.float32"),
        ("permutation", torch.ones(4, dtype=torch.bool), TypeError, "permutation.*torch.bool"),
        ("permutation", torch.tensor([1, 0, 2]), ValueError, r"permutation must have shape \(4,\).*\(3,\)"),
        ("permutation", torch.tensor([[1, 0, 3, 2]]), ValueError, r"permutation must have shape \(4,\).*\(1, 4\)"),
        ("permutation", torch.tensor([1, 0, 4, 2]), ValueError, r"permutation must lie in \[0, 3\].*0 to 4"),
        ("permutation", torch.tensor([1, 0, -1, 2]), ValueError, r"permutation must lie in \[0, 3\].*-1 to 2"),
        ("lam", 1.5, ValueError, r"lam must lie in \[0, 1\], got 1.5"),
        ("lam", -1e-9, ValueError, r"lam must lie in \[0, 1\], got -1e-09"),
        ("lam", NAN, ValueError, r"lam must lie in \[0, 1\], got nan"),
        ("lam", True, TypeError, "lam must be a number.*got True"),
        ("lam", "0.5", TypeError, "lam must be a number.*got '0.5'"),
        ("lam", None, TypeError, "lam must be a number.*got None"),
        ("lam", torch.tensor([0.5, 0.5, 1.25, 0.5]), ValueError, r"lam must lie in \[0, 1\], got 1.25"),
        ("lam", torch.tensor(-0.5), ValueError, r"lam must lie in \[0, 1\], got -0.5"),
        ("lam", torch.tensor([0.5, NAN, 0.5, 0.5]), ValueError, r"lam must lie in \[0, 1\], got nan"),
        ("lam", torch.tensor([0, 1, 0, 1]), TypeError, "lam must be floating point, got torch.int64"),
        ("lam", torch.tensor([0.5, 0.5]), ValueError, r"lam.*shape \(4,\), got shape \(2,\)"),
        ("lam", torch.full((4, 1), 0.5), ValueError, r"lam.*shape \(4,\), got shape \(4, 1\)"),
        ("blocks_per_side", 9, ValueError, "blocks_per_side must be.*shorter image side 8, got 9.*grid_sizes"),
        ("blocks_per_side", 0, ValueError, "blocks_per_side must be at least 1.*got 0"),
        ("blocks_per_side", 2.0, TypeError, "blocks_per_side must be an integer, got 2.0"),
        ("blocks_per_side", True, TypeError, "blocks_per_side must be an integer, got True"),
        ("first_content", X[:3], ValueError, r"first_content must be \(4, 3, 8, 10\).*got \(3, 3, 8, 10\)"),
        ("first_content", X.double(), ValueError, "first_content.*float32.*got.*float64"),
        ("partner_content", X[:, :1], ValueError, r"partner_content.*got \(4, 1, 8, 10\)"),
        ("partner_content", X.to("meta"), ValueError, "partner_content.*on cpu.*on meta"),
        ("config", PuzzleMixConfig(mean=(0.5,), std=(0.5,)), ValueError, r"1 channels \(std=\(0.5,\)\).*images have 3"),
    ],
)
@pytest.mark.filterwarnings("ignore:images un-normalized")
def test_puzzle_mix_refuses(name: str, value: Any, error: type[Exception], message: str) -> None:
    arguments = good() | {name: value}
    images, saliency = arguments.pop("images"), arguments.pop("saliency")
    with pytest.raises(error, match=message):
        puzzle_mix(images, saliency, **arguments)


def test_good_arguments_are_mixed() -> None:
    arguments = good()
    images, saliency = arguments.pop("images"), arguments.pop("saliency")
    mixed = puzzle_mix(images, saliency, **arguments)
    assert mixed.images.shape == images.shape
    assert not torch.equal(mixed.images, images)
    assert set(mixed.mask.unique().tolist()) <= {0.0, 0.5, 1.0}


def test_wrong_normalization_is_warned_of_once() -> None:
    arguments = good() | {"config": PuzzleMixConfig(mean=(0.123,) * 3, std=(7.5,) * 3)}
    images, saliency = arguments.pop("images"), arguments.pop("saliency")
    with pytest.warns(UserWarning, match=re.escape("std=(7.5, 7.5, 7.5) span [")) as caught:
        puzzle_mix(images, saliency, **arguments)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        puzzle_mix(images, saliency, **arguments)


class Model(nn.Module):
    """Five classes from the mean of each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images.mean((2, 3)))


CLASSES = torch.tensor([0, 1, 2, 4])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"images": (X * 255).byte()}, TypeError, "images must be floating point, got torch.uint8"),
        ({"images": X[0]}, ValueError, r"images must have shape.*\(3, 8, 10\)"),
        ({"images": spoilt(X, NAN)}, ValueError, "images hold NaN or infinity in 1 of 4 samples, first in sample 2"),
        ({"targets": CLASSES[:3]}, ValueError, r"targets must be \(4,\).*shape \(3,\)"),
        ({"targets": CLASSES + 1}, ValueError, r"targets must be classes in \[0, 4\], got 1 to 5"),
        ({"targets": CLASSES[:, None]}, ValueError, r"targets.*class indices.*\(4, 1\)"),
        ({"targets": torch.rand(4, 6)}, ValueError, r"targets.*\(4, 5\) float.*\(4, 6\)"),
        ({"targets": torch.randn(4, 5) * 9}, ValueError, "targets must be probabilities.*softmax"),
        ({"targets": CLASSES.tolist()}, TypeError, "targets must be a tensor.*list"),
        ({"targets": CLASSES > 1}, TypeError, "targets.*torch.bool"),
        ({"model": nn.Flatten(0)}, ValueError, r"model's output must be \(B, classes\).*shape \(960,\)"),
        ({"model": nn.Identity()}, ValueError, r"model's output must be \(B, classes\).*shape \(4, 3, 8, 10\)"),
        ({"draw": MixDraw(torch.arange(3), 0.5, 2)}, ValueError, r"permutation must have shape \(4,\).*\(3,\)"),
        ({"draw": MixDraw(torch.arange(4), 2.0, 2)}, ValueError, r"lam must lie in \[0, 1\], got 2.0"),
        ({"draw": MixDraw(torch.arange(4), 0.5, 32)}, ValueError, "blocks_per_side.*shorter image side 8, got 32"),
        ({"config": PuzzleMixConfig(grid_sizes=(2, 16))}, ValueError, r"grid_sizes.*side 8.*\(2, 16\)"),
        ({"config": PuzzleMixConfig(mean=(0.5,) * 4, std=(0.5,) * 4)}, ValueError, "4 channels.*images have 3"),
    ],
)
def test_the_mixer_refuses(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    mixer = PuzzleMix(changes.get("config", PuzzleMixConfig(grid_sizes=(2,))))
    model = changes.get("model", Model())
    training = [module.training for module in model.modules()]
    with pytest.raises(error, match=message):
        mixer(model, changes.get("images", X), changes.get("targets", CLASSES), changes.get("draw"))
    assert [module.training for module in model.modules()] == training


def test_clean_regularization_of_a_frozen_model() -> None:
    model = Model().requires_grad_(False)
    mixer = PuzzleMix(PuzzleMixConfig(grid_sizes=(2,)), clean_weight=1.0)
    with pytest.raises(ValueError, match=r"clean_weight=1.0 needs parameters to regularize.*use clean_weight=0"):
        mixer(model, X, CLASSES)
