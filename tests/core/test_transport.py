"""Transport plans against the dense Algorithm 1, and what moving blocks must never do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import dense_plan, transport_cost
from scipy.optimize import linear_sum_assignment

from lightning_puzzlemix import PuzzleMixConfig, puzzle_mix
from lightning_puzzlemix.core.grid import Grid
from lightning_puzzlemix.core.transport import move_and_blend
from lightning_puzzlemix.solvers.host import plan_moves

KINDS = ("random", "sparse", "one-hot", "tied", "zero")


def draw_shares(rng: np.random.Generator, kind: str, rows: int, cols: int) -> np.ndarray:
    """Draw one map of block saliency that sums to 1 (or is zero)."""
    values = rng.random((rows, cols))
    if kind == "sparse":
        values *= rng.random((rows, cols)) < 0.4
    elif kind == "one-hot":
        values = np.zeros((rows, cols))
        values[rng.integers(rows), rng.integers(cols)] = 1
    elif kind == "tied":
        values = rng.integers(0, 3, size=(rows, cols)).astype(float)
    elif kind == "zero":
        values = np.zeros((rows, cols))
    return (values / max(values.sum(), 1e-9)).astype(np.float32)


def check_against_dense(kind: str, n: int, cells: int, count: int, price: float, seed: int, batch: int = 6) -> None:
    rng = np.random.default_rng(seed)
    side = n * cells
    shares = [np.stack([draw_shares(rng, kind, side, side) for _ in range(batch)]) for _ in range(2)]
    labels = rng.integers(0, count, size=(batch, n, n)).astype(np.int32)
    plans = plan_moves(*shares, labels, PuzzleMixConfig(num_labels=count, transport_cost=price))
    mask = np.kron(labels, np.ones((cells, cells), int))
    for image, hidden in ((0, 0), (1, count - 1)):
        for s in range(batch):
            visible = mask[s] != hidden
            dense = dense_plan(shares[image][s], visible, price)
            expected = np.where(dense < 0, np.arange(side * side), dense)
            shown = visible.ravel()
            np.testing.assert_array_equal(plans[image][s][shown], expected[shown])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [2, 3, 4, 5, 8])
def test_equal_to_dense(kind: str, n: int) -> None:
    check_against_dense(kind, n, 1, 3, 0.8, seed=n)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "cells", "count"), [(2, 2, 3), (2, 4, 2), (3, 2, 4), (4, 2, 3)])
def test_equal_to_dense_on_finer_grids(kind: str, n: int, cells: int, count: int) -> None:
    check_against_dense(kind, n, cells, count, 0.8, seed=n * cells)


@pytest.mark.parametrize("price", [1e-3, 0.05, 0.3, 2.0, 100.0])
def test_equal_to_dense_for_any_price(price: float) -> None:
    check_against_dense("random", 4, 1, 3, price, seed=17, batch=12)
    check_against_dense("sparse", 6, 1, 2, price, seed=18, batch=12)


@given(
    seed=st.integers(0, 10**6), n=st.integers(2, 6), count=st.integers(2, 4), kind=st.sampled_from(KINDS),
    price=st.sampled_from([0.01, 0.2, 0.8]),
)  # fmt: skip
def test_equal_to_dense_drawn(seed: int, n: int, count: int, kind: str, price: float) -> None:
    check_against_dense(kind, n, 1, count, price, seed, batch=2)


@pytest.mark.parametrize("kind", KINDS)
def test_no_better_than_the_best_assignment(kind: str) -> None:
    """The plan sends different blocks to visible targets, and no such plan costs less than scipy's."""
    rng = np.random.default_rng(23)
    batch, n, price = 20, 5, 0.1
    shares = np.stack([draw_shares(rng, kind, n, n) for _ in range(batch)])
    labels = rng.integers(0, 2, size=(batch, n, n)).astype(np.int32)
    plan, _ = plan_moves(shares, shares, labels, PuzzleMixConfig(num_labels=2, transport_cost=price))
    for s in range(batch):
        shown = np.flatnonzero(labels[s])
        sources = plan[s][shown]
        assert len(set(sources)) == len(sources), "a block is shown twice"
        cost = transport_cost(shares[s], labels[s] != 0, price)[:, shown]
        best = cost[linear_sum_assignment(cost)].sum()
        found = cost[sources, np.arange(len(shown))].sum()
        staying = cost[shown, np.arange(len(shown))].sum()
        assert best - 1e-5 <= found <= staying + 1e-5


def test_identity_where_no_block_gains() -> None:
    shares = np.zeros((1, 3, 3), np.float32)
    shares[0, 1, 1] = 1
    labels = np.full((1, 3, 3), 2, np.int32)
    for plan in plan_moves(shares, shares, labels, PuzzleMixConfig()):
        np.testing.assert_array_equal(plan[0], np.arange(9))


def test_a_salient_block_moves_next_door() -> None:
    shares = np.zeros((1, 2, 2), np.float32)
    shares[0, 0, 0] = 1
    labels = np.array([[[0, 2], [0, 0]]], np.int32)
    first, second = plan_moves(shares, shares, labels, PuzzleMixConfig())
    assert first[0, 1] == 0
    # The second image shows everywhere else, so its salient block stays.
    np.testing.assert_array_equal(second[0], [0, 1, 2, 3])


def test_threads_do_not_change_the_plan() -> None:
    rng = np.random.default_rng(3)
    shares = np.stack([draw_shares(rng, "random", 16, 16) for _ in range(9)])
    labels = rng.integers(0, 3, size=(9, 8, 8)).astype(np.int32)
    plans = [np.stack(plan_moves(shares, shares[::-1], labels, PuzzleMixConfig(threads=k))) for k in (1, 2, 4)]
    np.testing.assert_array_equal(plans[0], plans[1])
    np.testing.assert_array_equal(plans[0], plans[2])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [None, 2])
def test_no_block_turns_black(kind: str, size: int | None) -> None:
    rng = np.random.default_rng(29)
    images = torch.rand(6, 3, 16, 16) / 2 + 0.5
    maps = np.kron(np.stack([draw_shares(rng, kind, 8, 8) for _ in range(6)]), np.ones((1, 2, 2)))
    mixed = puzzle_mix(
        images,
        torch.from_numpy(maps).float(),
        permutation=torch.tensor([1, 2, 3, 4, 5, 0]),
        lam=0.5,
        blocks_per_side=4,
        config=PuzzleMixConfig(transport_size=size),
    )
    assert mixed.images.min() >= 0.5


@pytest.mark.parametrize(("height", "width", "n", "cell"), [(8, 8, 4, None), (8, 12, 2, 2), (11, 9, 3, None)])
def test_moving_and_blending_by_hand(height: int, width: int, n: int, cell: int | None) -> None:
    """Compare with copying block after block; blocks of equal shape only, or staying ones."""
    rng = np.random.default_rng(31)
    grid = Grid.of(height, width, n, cell)
    rows, cols = grid.shape
    equal = height % rows == 0 and width % cols == 0
    images, partner = torch.rand(3, 2, height, width), torch.tensor([2, 0, 1])
    plans = np.stack([[rng.permutation(rows * cols) if equal else np.arange(rows * cols)] * 3 for _ in range(2)])
    mask = torch.from_numpy(rng.integers(0, 3, size=(3, n, n)) / 2).float()
    both = [torch.from_numpy(plan.astype(np.int32)) for plan in plans]
    mixed = move_and_blend(images, images, partner, *both, mask, grid)
    down, right = [i * height // rows for i in range(rows + 1)], [j * width // cols for j in range(cols + 1)]
    expected = torch.zeros_like(images)
    for s, t in np.ndindex(3, rows * cols):
        parts = []
        for plan, index in ((plans[0], s), (plans[1], int(partner[s]))):
            i, j = divmod(int(plan[s][t]), cols)
            parts.append(images[index, :, down[i] : down[i + 1], right[j] : right[j + 1]])
        i, j = divmod(t, cols)
        share = mask[s, i * n // rows, j * n // cols]
        expected[s, :, down[i] : down[i + 1], right[j] : right[j + 1]] = share * parts[0] + (1 - share) * parts[1]
    torch.testing.assert_close(mixed, expected)
