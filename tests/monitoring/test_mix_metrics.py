"""The metrics of a mix against worked examples, random boxes and a pixel-by-pixel count."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from fake_device import DeviceTensor, FakeDevice
from torch import Tensor, nn

import lightning_puzzlemix as pm
from lightning_puzzlemix.monitoring import (
    expected_cutmix_saliency,
    mix_metrics,
    retained_saliency,
    visible_moves,
)


def batch(mask: list[list[list[float]]], saliency: Tensor, plan: list[list[list[list[int]]]] | None) -> pm.MixedBatch:
    """Two images that are each other's partner; only what the metrics read is real."""
    images, shares = torch.zeros(2, 1, *saliency.shape[1:]), torch.tensor(mask)
    draw = pm.MixDraw(torch.tensor([1, 0]), 0.5, shares.shape[-1])
    moved = None if plan is None else torch.tensor(plan, dtype=torch.int32)
    return pm.MixedBatch(images, torch.eye(2), shares.mean((1, 2)), shares, saliency, draw, images, plan=moved)


# Each pixel's saliency is its number, over blocks of 2 x 2 pixels: 10, 18, 42 and 50 of 120.
COUNTING = torch.arange(16.0).view(4, 4)
BLOCKS = np.array([2.5, 4.5, 10.5, 12.5]) / 30


def test_worked_example() -> None:
    saliency = torch.stack([COUNTING, COUNTING.flip(0)])
    # First pair: top left and bottom right show the first image; its block 2 moved to 0. Of the second, block 3 moved to 1.
    mask = [[[1.0, 0.0], [0.0, 1.0]], [[0.5, 0.5], [0.5, 0.0]]]
    plan = [[[[2, 1], [2, 3]], [[0, 1], [2, 3]]], [[[0, 3], [2, 3]], [[0, 1], [2, 3]]]]
    mixed = batch(mask, saliency, plan)
    second = BLOCKS[[2, 3, 0, 1]]
    expected = [
        [BLOCKS[2] + BLOCKS[3], 0.5 * second[:3].sum()],
        [second[2] + second[3], 0.5 * BLOCKS[:3].sum() + BLOCKS[3]],
    ]
    torch.testing.assert_close(retained_saliency(mixed).double(), torch.tensor(np.array(expected)), atol=1e-6, rtol=0)
    visible, moved = visible_moves(mixed)
    assert moved.nonzero().tolist() == [[0, 0, 0, 0], [1, 0, 0, 1]]
    # Two blocks of each image in the first pair; three of the first and four of the second image in the other.
    assert int(visible.sum()) == 11
    metrics = {name: float(value) for name, value in mix_metrics(mixed).items()}
    assert metrics["moved_blocks"] == pytest.approx(2 / 11)
    assert metrics["mask_entropy"] == pytest.approx(3 / 8)
    assert metrics["ratio"] == pytest.approx((0.5 + 0.375) / 2)
    assert metrics["retained_saliency"] == pytest.approx(np.mean(expected), abs=1e-6)


def test_a_block_that_is_shown_twice_counts_once() -> None:
    # Block 0 of the first image was copied to 1, and stays where it was, half visible.
    mixed = batch([[[0.5, 1.0], [0.0, 0.0]]] * 2, torch.ones(2, 4, 4), [[[[0, 0], [2, 3]]] * 2, [[[0, 1], [2, 3]]] * 2])
    torch.testing.assert_close(retained_saliency(mixed)[0], torch.full((2,), 0.25))


def test_entropy_in_bits() -> None:
    share = 1 / 3
    mixed = batch([[[share]], [[1.0]]], torch.ones(2, 3, 3), None)
    expected = -(share * math.log2(share) + (1 - share) * math.log2(1 - share)) / 2
    assert float(mix_metrics(mixed)["mask_entropy"]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("ratio", [0.0, 0.19, 0.5, 0.91, 1.0])
def test_expected_cutmix_saliency_is_the_mean_over_random_boxes(ratio: float) -> None:
    generator = np.random.default_rng(3)
    saliency = torch.from_numpy(generator.random((2, 20, 30)) ** 4).float()
    mixed = batch([[[ratio]], [[ratio]]], saliency, None)
    shares = (saliency / saliency.sum((1, 2), keepdim=True)).numpy()
    side = math.sqrt(1 - ratio)
    inside = np.zeros(2)
    starts = (np.arange(200) + 0.5) / 200 * (1 - side)
    rows, cols = ((np.arange(size) + 0.5) / size for size in (20, 30))
    for top, left in product(starts, starts):
        covered = np.outer((rows >= top) & (rows <= top + side), (cols >= left) & (cols <= left + side))
        inside += (shares * covered).sum((1, 2))
    inside /= len(starts) ** 2
    expected = torch.tensor(np.stack([1 - inside, inside[::-1]])).float()
    torch.testing.assert_close(expected_cutmix_saliency(mixed), expected, atol=3e-3, rtol=0)


def test_uniform_saliency_is_retained_by_area() -> None:
    mixed = batch([[[1.0, 0.0], [0.0, 0.5]], [[0.0, 0.0], [0.0, 1.0]]], torch.ones(2, 64, 64), None)
    areas = torch.stack([mixed.ratio, 1 - mixed.ratio])
    torch.testing.assert_close(retained_saliency(mixed), areas)
    torch.testing.assert_close(expected_cutmix_saliency(mixed), areas, atol=2e-3, rtol=0)


@pytest.mark.parametrize("transport", [True, False])
@pytest.mark.parametrize(("side", "transport_size"), [(16, None), (16, 2), (19, 2)])
def test_the_plan_tells_the_source_of_every_pixel(side: int, transport_size: int | None, transport: bool) -> None:
    torch.manual_seed(side)
    images, saliency = torch.rand(5, 3, side, side), torch.rand(5, side, side) ** 6
    config = pm.PuzzleMixConfig(transport=transport, transport_size=transport_size, transport_cost=0.01, num_labels=2)
    permutation = torch.tensor([1, 2, 3, 4, 0])
    out = pm.puzzle_mix(images, saliency, permutation=permutation, lam=0.5, blocks_per_side=4, config=config)
    if not transport:
        assert out.plan is None
        return
    assert out.plan is not None
    parts = out.plan.shape[2]
    assert out.plan.shape == (2, 5, parts, parts)
    assert parts == (4 if transport_size is None else 4 * (side // 4 // 2))
    mixed = pm.MixedBatch(
        out.images, torch.eye(5), out.ratio, out.mask, saliency, pm.MixDraw(permutation, 0.5, 4), images, plan=out.plan
    )
    moved = visible_moves(mixed)[1]
    assert moved.any()
    if side % parts:
        return
    size = side // parts
    for pair, row, col in product(range(5), range(parts), range(parts)):
        first = bool(out.mask[pair, row * 4 // parts, col * 4 // parts] == 1)
        source = int(out.plan[0 if first else 1, pair, row, col])
        image = images[pair if first else int(permutation[pair])]
        top, left = source // parts * size, source % parts * size
        shown = out.images[pair, :, row * size : (row + 1) * size, col * size : (col + 1) * size]
        torch.testing.assert_close(shown, image[:, top : top + size, left : left + size])


def test_puzzle_mix_retains_more_than_cutmix_of_peaked_saliency() -> None:
    torch.manual_seed(0)
    saliency = torch.zeros(8, 32, 32)
    for index in range(8):
        row, col = torch.randint(28, (2,)).tolist()
        saliency[index, row : row + 4, col : col + 4] = 1
    config, images = pm.PuzzleMixConfig(), torch.rand(8, 3, 32, 32)
    mixer = pm.PuzzleMix(config, saliency=lambda module, images, targets: saliency, num_classes=8)
    mixed = mixer(nn.Identity(), images, torch.arange(8), pm.MixDraw(torch.arange(8).roll(1), 0.5, 8))
    metrics = mix_metrics(mixed)
    assert metrics["retained_saliency"] > 0.9
    assert 0.3 < metrics["retained_saliency_cutmix"] < 0.7


def test_baselines_have_only_a_ratio() -> None:
    mixed = pm.CutMix()(nn.Identity(), torch.rand(4, 3, 8, 8), torch.eye(4))
    assert list(mix_metrics(mixed)) == ["ratio"]
    with pytest.raises(ValueError, match=r"mixed\.saliency is None"):
        retained_saliency(mixed)


def test_measuring_copies_nothing_from_the_device() -> None:
    mixed = batch([[[1.0, 0.0], [0.5, 1.0]]] * 2, torch.rand(2, 8, 8), [[[[0, 0], [2, 3]]] * 2] * 2)
    expected = mix_metrics(mixed)
    with FakeDevice() as counter:
        there = pm.MixedBatch(
            *(DeviceTensor(each) for each in (mixed.images, mixed.targets, mixed.ratio, mixed.mask, mixed.saliency)),
            pm.MixDraw(DeviceTensor(mixed.draw.permutation), 0.5, 2), DeviceTensor(mixed.originals),
            plan=DeviceTensor(mixed.plan),
        )  # fmt: skip
        found = mix_metrics(there)
    assert (counter.out, counter.back) == (0, 0)
    for name, value in found.items():
        assert isinstance(value, DeviceTensor)
        torch.testing.assert_close(value.inner, expected[name])
