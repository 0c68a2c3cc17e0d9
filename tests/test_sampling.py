"""Random choices: what they depend on, how they are distributed, and that nothing else moves."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
from scipy import stats

from lightning_puzzlemix import MixDraw, MixUp, PuzzleMix, PuzzleMixConfig
from lightning_puzzlemix.sampling import draw_decision, draw_mix, seed_sequence

IMAGES = torch.zeros(8, 3, 16, 16)


def many(count: int, config: PuzzleMixConfig | None = None, **options: float) -> list[MixDraw]:
    """Draw for batch after batch."""
    config = PuzzleMixConfig() if config is None else config
    return [draw_mix(IMAGES, config, (5, 0, 0, index), **options) for index in range(count)]


def same(one: MixDraw, other: MixDraw) -> bool:
    noise = (one.noise_start is None) == (other.noise_start is None)
    if one.noise_start is not None and other.noise_start is not None:
        noise = torch.equal(one.noise_start, other.noise_start)
    flags = (one.adversarial_first, one.adversarial_second) == (other.adversarial_first, other.adversarial_second)
    numbers = (one.lam, one.blocks_per_side, one.noise_scale) == (other.lam, other.blocks_per_side, other.noise_scale)
    return noise and flags and numbers and torch.equal(one.permutation, other.permutation)


def test_the_same_key_gives_the_same_draw() -> None:
    for _ in range(2):
        first = draw_mix(IMAGES, PuzzleMixConfig(), (1, 2, 3, 4), adversarial_prob=1.0)
        torch.rand(3)
        assert same(first, draw_mix(IMAGES, PuzzleMixConfig(), (1, 2, 3, 4), adversarial_prob=1.0))


@pytest.mark.parametrize("position", range(4))
def test_another_seed_rank_epoch_or_batch_gives_another_draw(position: int) -> None:
    key = [1, 2, 3, 4]
    first = draw_mix(IMAGES, PuzzleMixConfig(), key)
    key[position] += 1
    second = draw_mix(IMAGES, PuzzleMixConfig(), key)
    assert first.lam != second.lam
    assert not same(first, second)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_lam_is_beta(alpha: float) -> None:
    lams = [draw.lam for draw in many(600, PuzzleMixConfig(alpha=alpha))]
    assert stats.kstest(lams, stats.beta(alpha, alpha).cdf).pvalue > 1e-3
    other = 0.4 if alpha == 0.2 else alpha / 2
    assert stats.kstest(lams, stats.beta(other, other).cdf).pvalue < 1e-3


def test_grid_sizes_are_uniform() -> None:
    sizes = [draw.blocks_per_side for draw in many(600, PuzzleMixConfig(grid_sizes=(2, 4, 16)))]
    assert all(type(size) is int for size in sizes)
    assert set(sizes) == {2, 4, 16}
    assert stats.chisquare([sizes.count(size) for size in (2, 4, 16)]).pvalue > 1e-3


def test_permutations_are_permutations_and_uniform() -> None:
    draws = many(800)
    for draw in draws:
        assert sorted(draw.permutation.tolist()) == list(range(8))
        assert draw.permutation.dtype == torch.int64
    counts = np.bincount([int(draw.permutation[0]) for draw in draws], minlength=8)
    assert stats.chisquare(counts).pvalue > 1e-3


def test_choices_are_independent_of_each_other() -> None:
    draws = many(600, adversarial_prob=0.5)
    columns = np.array(
        [[d.lam, d.blocks_per_side, int(d.permutation[0]), d.adversarial_first, d.adversarial_second] for d in draws]
    )
    correlation = np.corrcoef(columns.T)
    assert np.abs(correlation - np.eye(5)).max() < 0.15


def test_adversarial_noise_is_drawn_for_each_side_and_in_range() -> None:
    draws = many(400, adversarial_prob=0.3, adversarial_eps=0.05)
    for side in ("adversarial_first", "adversarial_second"):
        assert stats.binomtest(sum(getattr(draw, side) for draw in draws), 400, 0.3).pvalue > 1e-3
    both = sum(draw.adversarial_first and draw.adversarial_second for draw in draws)
    assert stats.binomtest(both, 400, 0.09).pvalue > 1e-3
    for draw in draws:
        if not (draw.adversarial_first or draw.adversarial_second):
            assert draw.noise is None
            continue
        assert draw.noise is not None
        assert draw.noise.shape == IMAGES.shape
        assert draw.noise.abs().max() <= 0.05
        assert draw.noise.min() < -0.045
        assert draw.noise.max() > 0.045
        assert 0 <= draw.noise_scale <= 1
    scales = [draw.noise_scale for draw in draws if draw.noise is not None]
    assert stats.kstest(scales, "uniform").pvalue > 1e-3


def test_no_noise_by_default() -> None:
    assert all(draw.noise is None and draw.noise_start is None for draw in many(20))


@pytest.mark.parametrize("sides", [(True, False), (False, True), (True, True)])
def test_noise_needs_a_start(sides: tuple[bool, bool]) -> None:
    with pytest.raises(ValueError, match=r"noise_start is missing.*adversarial"):
        MixDraw(torch.arange(2), 0.5, 2, *sides)
    assert MixDraw(torch.arange(2), 0.5, 2, False, False, torch.zeros(2)).noise is None


@pytest.mark.parametrize("prob", [0.05, 0.5, 0.9])
def test_decisions_have_the_right_frequency(prob: float) -> None:
    taken = sum(draw_decision(prob, (3, epoch, batch)) for epoch in range(10) for batch in range(60))
    assert stats.binomtest(taken, 600, prob).pvalue > 1e-3


def test_decisions_at_the_ends() -> None:
    assert all(draw_decision(1.0, (0, 0, index)) for index in range(50))
    assert not any(draw_decision(0.0, (0, 0, index)) for index in range(50))


def test_decisions_repeat_and_are_independent_of_lam() -> None:
    keys = [(3, 0, index) for index in range(600)]
    decisions = [draw_decision(0.5, key) for key in keys]
    assert decisions == [draw_decision(0.5, key) for key in keys]
    lams = [draw_mix(IMAGES, PuzzleMixConfig(), key).lam for key in keys]
    assert abs(np.corrcoef(decisions, lams)[0, 1]) < 0.12


def test_global_random_states_stay_as_found() -> None:
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    draw_mix(IMAGES, PuzzleMixConfig(), (1,), adversarial_prob=1.0)
    draw_decision(0.5, (1,))
    PuzzleMix().draw(IMAGES, key=(1, 2))
    assert torch.equal(torch.get_rng_state(), states[0])
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert random.getstate() == states[2]


def test_puzzle_mix_draws_from_the_global_seed() -> None:
    mixer = PuzzleMix(adversarial_prob=1.0)
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append([mixer.draw(IMAGES), mixer.draw(IMAGES)])
    assert same(draws[0][0], draws[1][0])
    assert same(draws[0][1], draws[1][1])
    assert not same(draws[0][0], draws[0][1])
    assert not same(draws[0][0], draws[2][0])


def test_puzzle_mix_draws_with_its_own_settings() -> None:
    mixer = PuzzleMix(PuzzleMixConfig(grid_sizes=(3,)), adversarial_prob=1.0, adversarial_eps=0.01)
    draw = mixer.draw(IMAGES, key=(4,))
    assert draw.blocks_per_side == 3
    assert draw.noise is not None
    assert 0.009 < draw.noise.max() <= 0.01


def test_grids_larger_than_the_image_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"grid_sizes.*shorter image side 10 .*got \(2, 4, 16\): pass grid_sizes=\(2, 4\)"
    ):
        draw_mix(torch.zeros(2, 1, 10, 30), PuzzleMixConfig(grid_sizes=(2, 4, 16)), (0,))
    with pytest.raises(ValueError, match=r"pass grid_sizes=\(3,\)"):
        draw_mix(torch.zeros(2, 1, 3, 30), PuzzleMixConfig(grid_sizes=(4,)), (0,))


def test_every_key_has_numbers_of_its_own() -> None:
    """NumPy itself pads keys with zeros, and writes large numbers as several words."""
    small = (0, 1, 5)
    keys: list[tuple[int, ...]] = [()]
    for length in range(1, 7):
        keys += itertools.product(small, repeat=length)
    keys += [(2**32,), (2**32 + 5, 1), (0, 2**32), (2**64,), (2**32, 0, 0, 0), (0, 0, 0, 2**32), (2**40, 1, 2, 3, 4)]
    found = {tuple(np.random.default_rng(seed_sequence(key)).integers(2**63, size=2)) for key in keys}
    assert len(found) == len(keys) > 1000
    assert PuzzleMix().draw(IMAGES, key=(1,)).lam != PuzzleMix().draw(IMAGES, key=(1, 0)).lam
    assert MixUp().draw(IMAGES, key=(1,)).lam != MixUp().draw(IMAGES, key=(1, 0)).lam


def test_the_keys_of_the_callbacks_are_seeds_as_they_are() -> None:
    """What a seed means to a run does not change: a resumed one draws what it would have drawn."""
    for key in ((7, 0, 0, 0), (2**32 - 1, 3, 2, 1), (7, 0, 1, 2, 1)):
        expected = np.random.default_rng(np.random.SeedSequence(key)).beta(1.0, 1.0)
        assert draw_mix(IMAGES, PuzzleMixConfig(), key).lam == expected
        assert MixUp().draw(IMAGES, key=key).lam == expected


def test_a_negative_key_is_refused() -> None:
    with pytest.raises(ValueError, match=r"key must hold integers of at least 0, got \(1, -2\)"):
        PuzzleMix().draw(IMAGES, key=(1, -2))
