"""The plot of a mixed batch shows its images, saliency, mask and moves."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import lightning_puzzlemix as pm
from lightning_puzzlemix.monitoring import plot_mixes, retained_saliency

pytest.importorskip("matplotlib")
from lightning_puzzlemix.monitoring.palette import mask_colormap

MEAN, STD = (0.2, 0.4, 0.6), (0.5, 0.25, 0.2)
NAMES = ["ape", "bee", "cat", "dog"]
LABELS = torch.tensor([[0, 0, 0], [1, 1, 0], [0, 1, 0], [1, 1, 1.0]])
HEADS = ["first image", "its saliency", "second image", "its saliency", "mask", "moved blocks", "mixed"]


def mixed_batch(channels: int = 3, side: int = 16, **config: Any) -> tuple[pm.MixedBatch, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    pixels, classes = torch.rand(4, channels, side, side), torch.arange(4)
    mean, std = (torch.tensor(values[:channels]).view(-1, 1, 1) for values in (MEAN, STD))
    saliency = torch.rand(4, side, side) ** 4
    settings = pm.PuzzleMixConfig(mean=MEAN[:channels], std=STD[:channels], **config)
    mixer = pm.PuzzleMix(settings, saliency=lambda module, images, targets: saliency, num_classes=4)
    draw = pm.MixDraw(torch.tensor([1, 2, 3, 0]), 0.5, 4)
    return mixer(nn.Identity(), (pixels - mean) / std, classes, draw), pixels, classes


def panels(figure: Any, columns: int) -> np.ndarray:
    return np.array(figure.axes).reshape(-1, columns)


def shown(axes: Any) -> np.ndarray:
    return np.asarray(axes.images[0].get_array())


@pytest.mark.parametrize("channels", [1, 3])
def test_shows_pixels_masks_and_titles(channels: int) -> None:
    mixed, pixels, classes = mixed_batch(channels)
    figure = plot_mixes(mixed, mean=MEAN[:channels], std=STD[:channels], class_names=NAMES, targets=classes, rows=3)
    axes = panels(figure, 7)
    retained = retained_saliency(mixed)
    for row in range(3):
        first, second = (pixels[each].permute(1, 2, 0).squeeze(-1).numpy() for each in (row, row + 1))
        np.testing.assert_allclose(shown(axes[row, 0]), first, atol=1e-5)
        np.testing.assert_allclose(shown(axes[row, 2]), second, atol=1e-5)
        np.testing.assert_allclose(shown(axes[row, 1]), mixed.saliency[row].numpy())
        np.testing.assert_allclose(shown(axes[row, 3]), mixed.saliency[row + 1].numpy())
        np.testing.assert_allclose(shown(axes[row, 4]), np.kron(mixed.mask[row].numpy(), np.ones((4, 4))))
        assert [axes[row, column].get_title() for column in (0, 2)] == [NAMES[row], NAMES[row + 1]]
        assert axes[row, 1].get_title() == f"{float(retained[0, row]):.0%} stays visible"
        assert axes[row, 3].get_title() == f"{float(retained[1, row]):.0%} stays visible"
        assert axes[row, 4].get_title() == f"{float(mixed.ratio[row]):.0%} of the first"
        shares = {f"{float(share):.2f} {NAMES[index]}" for index, share in enumerate(mixed.targets[row]) if share > 0}
        assert set(axes[row, 6].get_title().split("\n")) == shares
    assert [text.get_text() for text in figure.texts][:7] == HEADS


def test_titles_replace_class_names() -> None:
    mixed, _, classes = mixed_batch()
    axes = panels(plot_mixes(mixed, mean=MEAN, std=STD, targets=classes, titles=list("wxyz"), rows=2), 7)
    assert [[axes[row, column].get_title() for column in (0, 2)] for row in range(2)] == [["w", "x"], ["x", "y"]]


def test_an_arrow_for_every_visible_block_that_moved() -> None:
    mixed, _, _ = mixed_batch(transport_cost=0.01, num_labels=2)
    axes = panels(plot_mixes(mixed, mean=MEAN, std=STD), 7)
    assert mixed.plan is not None
    everything = set()
    for row in range(4):
        expected = set()
        for which, block in np.ndindex(2, 16):
            source = int(mixed.plan[which, row].flatten()[block])
            if source != block and float(mixed.mask[row].flatten()[block]) == 1 - which:
                # Middle of a 4 x 4 block, in pixels.
                x, y = source % 4 * 4 + 1.5, source // 4 * 4 + 1.5
                expected.add((x, y, block % 4 * 4 + 1.5 - x, block // 4 * 4 + 1.5 - y))
        drawn = set()
        for arrows in axes[row, 5].collections:
            drawn |= {
                (x, y, u, v) for (x, y), u, v in zip(arrows.get_offsets().tolist(), arrows.U, arrows.V, strict=True)
            }
        assert drawn == expected
        assert axes[row, 5].get_title() == (f"{len(expected)} moved" if expected else "none moved")
        everything |= expected
    assert everything


def test_blocks_of_unequal_size() -> None:
    mixed, _, _ = mixed_batch(side=19)
    values = shown(panels(plot_mixes(mixed, mean=MEAN, std=STD), 7)[0, 4])
    edges = [index * 19 // 4 for index in range(5)]
    for row, col in np.ndindex(4, 4):
        block = values[edges[row] : edges[row + 1], edges[col] : edges[col + 1]]
        assert (block == float(mixed.mask[0, row, col])).all()


def test_mask_colors_differ_in_gray() -> None:
    rgb = mask_colormap()(np.linspace(0, 1, 50))[:, :3]
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luminance) > 0).all()
    # The contrast that WCAG asks of graphics.
    assert (luminance[-1] + 0.05) / (luminance[0] + 0.05) > 3


def test_columns_that_a_mixing_method_lacks_are_left_out() -> None:
    mixed, _, _ = mixed_batch(transport=False)
    figure = plot_mixes(mixed, mean=MEAN, std=STD)
    assert [text.get_text() for text in figure.texts][:6] == [head for head in HEADS if head != "moved blocks"]
    images = torch.rand(2, 3, 16, 16)
    figure = plot_mixes(pm.MixUp()(nn.Identity(), images, torch.eye(3)[:2]), rows=9)
    assert [text.get_text() for text in figure.texts][:4] == ["first image", "second image", "mask", "mixed"]
    assert len(figure.axes) == 2 * 4


def test_cutmix_shows_its_box() -> None:
    draw = pm.BaselineDraw(torch.tensor([1, 0]), 0.5, boxes=np.array([[2, 6, 1, 5]]))
    mixed = pm.CutMix()(nn.Identity(), torch.rand(2, 3, 8, 8), torch.eye(2), draw)
    values = shown(panels(plot_mixes(mixed), 4)[1, 2])
    assert (values[2:6, 1:5] == 0).all()
    assert values.sum() == 64 - 16


def test_the_legend_names_the_mixed_layer() -> None:
    draw = pm.BaselineDraw(torch.tensor([1, 0]), 0.5, layer="layer2")
    mixed = pm.ManifoldMix()(nn.Identity(), torch.rand(2, 3, 8, 8), torch.eye(2), draw)
    assert "the output of the layer layer2" in plot_mixes(mixed).texts[-1].get_text()


def test_without_normalization_images_are_stretched_with_a_note() -> None:
    mixed, pixels, _ = mixed_batch()
    unknown = dataclasses.replace(mixed, mean=None, std=None)
    figure = plot_mixes(unknown, rows=4)
    least, most = float(mixed.originals.min()), float(mixed.originals.max())
    expected = (mixed.originals[0].permute(1, 2, 0).numpy() - least) / (most - least)
    np.testing.assert_allclose(shown(figure.axes[0]), expected, atol=1e-5)
    assert f"black is {least:.2f} and white {most:.2f}" in figure.texts[-1].get_text()
    inside = pm.MixUp()(nn.Identity(), pixels, torch.eye(4), pm.MixDraw(torch.arange(4), 0.5, 1))
    assert "black is" not in plot_mixes(inside).texts[-1].get_text()


@pytest.mark.parametrize("shape", [(3, 8, 80), (3, 80, 8), (5, 16, 16), (1, 4, 4)])
def test_any_shape_is_plotted(shape: tuple[int, int, int], tmp_path: Path) -> None:
    images = torch.rand(3, *shape)
    mixer = pm.PuzzleMix(pm.PuzzleMixConfig(grid_sizes=(2,)), saliency="spectral", num_classes=3)
    mixed = mixer(nn.Identity(), images, torch.arange(3))
    targets = torch.softmax(torch.eye(3), 1)
    figure = plot_mixes(mixed, class_names=["a" * 60, "b", "c"], targets=targets)
    figure.savefig(tmp_path / "mix.png")
    width, height = figure.get_size_inches()
    assert 1 < height < 20
    assert 5 < width < 20
    assert "a" * 23 + "…" in {axes.get_title() for axes in figure.axes}


def test_saliency_of_zeros_and_nan(tmp_path: Path) -> None:
    images = torch.rand(2, 3, 8, 8)
    saliency = torch.stack([torch.zeros(8, 8), torch.full((8, 8), float("nan"))])
    mixer = pm.PuzzleMix(
        pm.PuzzleMixConfig(grid_sizes=(2,)), saliency=lambda module, images, targets: saliency, num_classes=2
    )
    axes = panels(plot_mixes(mixer(nn.Identity(), images, torch.arange(2))), 7)[:, 1]
    axes[0].figure.savefig(tmp_path / "mix.png")
    for each in axes:
        assert each.images[0].get_clim() == (0, 1)
    black, blank = axes[0].images[0], axes[1].images[0]
    assert black.to_rgba(black.get_array())[0, 0].tolist() == list(black.cmap(0.0))
    assert (blank.to_rgba(blank.get_array())[..., 3] == 0).all(), "NaN must stay transparent"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": 0}, "rows must be at least 1, got 0"),
        ({"mean": MEAN}, r"mean and std must be given both or neither, got mean=\(0.2, 0.4, 0.6\) and std=None"),
        ({"titles": ["a"]}, "titles must be one text for each of 4 images, got 1"),
        ({"mean": (0.5,), "std": (0.5,)}, "one number per channel: the images have 3, mean has 1 and std 1"),
    ],
)
def test_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plot_mixes(mixed_batch()[0], **arguments)


@pytest.mark.parametrize(
    ("targets", "names", "titles"),
    [
        (torch.tensor([[0.0], [1.0], [0.5], [0.2]]), ["well", "sick"], ["well", "sick", "sick", "well"]),
        (torch.tensor([0.0, 1.0, 0.0, 1.0]), ["sick"], ["not sick", "sick", "not sick", "sick"]),
        (torch.tensor([[0], [1], [0], [1]]), None, ["0", "1", "0", "1"]),
        (torch.tensor([[3.5], [40.0], [0.0], [1.0]]), None, ["3.5", "40", "0", "1"]),
        (LABELS, NAMES[:3], ["no class", "ape, bee", "bee", "ape, bee, cat"]),
        (LABELS[:, 1:], ["quite a long name", "another"], ["no class", *["quite a long name"] * 2, "quite a long name +1"]),
    ],
    ids=["one logit", "one name", "integers", "regression", "several labels", "long names"],
)  # fmt: skip
def test_titles_name_the_right_classes(targets: torch.Tensor, names: list[str] | None, titles: list[str]) -> None:
    outputs = 1 if targets.ndim == 1 else targets.shape[1]
    mixer = pm.PuzzleMix(saliency=lambda module, images, targets: images.mean(1), num_classes=outputs)
    if float(targets.max()) > 1:
        mixer = pm.MixUp()
    draw = pm.MixDraw(torch.tensor([1, 2, 3, 0]), 0.5, 2)
    mixed = mixer(nn.Identity(), torch.rand(4, 3, 8, 8), targets.float(), draw)
    figure = plot_mixes(mixed, targets=targets, class_names=names)
    found = [axes.get_title() for axes in panels(figure, len(figure.axes) // 4)[:, 0]]
    assert found == titles


def test_a_mix_of_one_logit_names_both_classes() -> None:
    mixer, draw = pm.MixUp(), pm.MixDraw(torch.tensor([1, 0]), 0.75, 2)
    mixed = mixer(nn.Identity(), torch.rand(2, 3, 8, 8), torch.tensor([[1.0], [0.0]]), draw)
    figure = plot_mixes(mixed, class_names=["well", "sick"])
    assert [axes.get_title() for axes in panels(figure, len(figure.axes) // 2)[:, -1]] == [
        "0.75 sick\n0.25 well",
        "0.75 well\n0.25 sick",
    ]
