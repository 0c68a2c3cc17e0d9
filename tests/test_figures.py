"""The picture of a mix shows what it says."""

import numpy as np
import pytest
import torch
from torch import nn

import lightning_puzzlemix as pm

pytest.importorskip("matplotlib")
from lightning_puzzlemix.figures import draw_mixes

MEAN, STD = (0.2, 0.4, 0.6), (0.5, 0.25, 0.2)
NAMES = ["ape", "bee", "cat", "dog"]


def mixed_batch(channels: int = 3) -> tuple[pm.MixedBatch, torch.Tensor, torch.Tensor]:
    pixels, classes = torch.rand(4, channels, 16, 16), torch.arange(4)
    mean, std = (torch.tensor(values[:channels]).view(-1, 1, 1) for values in (MEAN, STD))
    net = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))
    mixer = pm.PuzzleMix(pm.PuzzleMixConfig(mean=MEAN[:channels], std=STD[:channels]))
    draw = pm.MixDraw(torch.tensor([1, 2, 3, 0]), 0.5, 4)
    return mixer(net, (pixels - mean) / std, classes, draw), pixels, classes


@pytest.mark.parametrize("channels", [1, 3])
def test_shows_pixels_masks_and_names(channels: int) -> None:
    mixed, pixels, classes = mixed_batch(channels)
    figure = draw_mixes(mixed, mean=MEAN[:channels], std=STD[:channels], class_names=NAMES, targets=classes, rows=3)
    axes = np.array(figure.axes).reshape(3, 6)
    for row in range(3):
        expected = pixels[row].permute(1, 2, 0).squeeze(-1).numpy()
        np.testing.assert_allclose(axes[row, 0].images[0].get_array(), expected, atol=1e-5)
        np.testing.assert_allclose(axes[row, 1].images[0].get_array(), mixed.saliency[row].numpy())
        np.testing.assert_allclose(axes[row, 3].images[0].get_array(), mixed.saliency[row + 1].numpy())
        np.testing.assert_allclose(axes[row, 4].images[0].get_array(), mixed.mask[row].numpy())
        assert axes[row, 0].get_title() == NAMES[row]
        assert axes[row, 2].get_title() == NAMES[row + 1]
        assert axes[row, 4].get_title() == f"{float(mixed.ratio[row]):.0%} of the first"
        shares = {f"{float(share):.2f} {NAMES[index]}" for index, share in enumerate(mixed.targets[row]) if share > 0}
        assert set(axes[row, 5].get_title().split("\n")) == shares
    assert [each.texts[0].get_text() for each in axes[0]][::5] == ["first image", "mixed"]


def test_draws_baselines_without_saliency_and_at_most_the_batch(tmp_path: object) -> None:
    images = torch.rand(2, 3, 16, 16)
    mixed = pm.CutMix()(nn.Identity(), images, torch.eye(3)[:2])
    figure = draw_mixes(mixed, rows=9)
    assert len(figure.axes) == 12
    assert not figure.axes[1].images
    figure.savefig(f"{tmp_path}/mix.png")


def test_refuses_no_rows() -> None:
    with pytest.raises(ValueError, match="rows must be at least 1, got 0"):
        draw_mixes(mixed_batch()[0], rows=0)
