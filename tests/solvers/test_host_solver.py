"""The exact solver against brute force, PyMaxflow and gco."""

from __future__ import annotations

import numpy as np
import pytest
from oracles import Problem, binomial_prior, brute_force, maxflow_minimum, scaled_energies

from lightning_puzzlemix import PuzzleMixConfig
from lightning_puzzlemix.solvers.host import solve_masks
from lightning_puzzlemix.solvers.maxflow import minimize_labels
from lightning_puzzlemix.solvers.problem import Energy, mixing_prior


def random_problem(
    rng: np.random.Generator, rows: int, cols: int, count: int, scale: float = 1.0, sparse: float = 0.0
) -> Problem:
    """Draw a problem with a binomial prior; a share ``sparse`` of the weights is zero."""
    difference = rng.normal(size=(rows, cols)) * scale
    weights = []
    for shape in ((rows - 1, cols), (rows, cols - 1)):
        weight = rng.exponential(size=shape) * scale * (rng.random(shape) >= sparse)
        weights.append(weight.astype(np.float32))
    return difference, weights[0], weights[1], binomial_prior(rng.random(), count, 0.3 * scale, 1)


def solve(problems: list[Problem]) -> np.ndarray:
    """Solve problems of one shape as one batch by the compiled kernel."""
    arrays = [np.ascontiguousarray(np.stack(parts)) for parts in zip(*problems, strict=True)]
    labels = np.full(arrays[0].shape, -1, np.int32)
    minimize_labels(arrays[0], arrays[1], arrays[2], arrays[3].astype(np.float64), labels, 0, len(problems))
    return labels


def check_minimal(problems: list[Problem], tolerance: float = 1e-9) -> None:
    """Compare the energies of the solver's labels with brute force."""
    labels = solve(problems)
    assert labels.min() >= 0
    for found, problem in zip(labels, problems, strict=True):
        least, _ = brute_force(problem)
        size = sum(np.abs(np.asarray(part, np.float64)).sum() for part in problem) * len(problem[3]) ** 2
        assert abs(scaled_energies(found[None].astype(np.int64), problem)[0] - least) <= tolerance * size


@pytest.mark.parametrize("count", [2, 3, 4, 5])
@pytest.mark.parametrize("sparse", [0.0, 0.5, 1.0])
def test_two_by_two_is_optimal(count: int, sparse: float) -> None:
    rng = np.random.default_rng(count)
    check_minimal([random_problem(rng, 2, 2, count, sparse=sparse) for _ in range(60)])


@pytest.mark.parametrize(("count", "samples"), [(2, 60), (3, 30), (4, 6)])
def test_three_by_three_is_optimal(count: int, samples: int) -> None:
    rng = np.random.default_rng(count)
    check_minimal([random_problem(rng, 3, 3, count) for _ in range(samples)])


def test_zero_weights_are_not_those_of_the_sample_before() -> None:
    rng = np.random.default_rng(5)
    coupled = random_problem(rng, 3, 3, 2)
    free = (np.array([[-1.0, 1, -1], [1, -1, 1], [-1, 1, -1]]), 0 * coupled[1], 0 * coupled[2], np.zeros(2))
    labels = solve([coupled, free])
    np.testing.assert_array_equal(labels[1], free[0] < 0)


@pytest.mark.parametrize("count", [2, 3])
def test_some_zero_weights_are_optimal(count: int) -> None:
    rng = np.random.default_rng(6)
    check_minimal([random_problem(rng, 3, 3, count, sparse=0.5) for _ in range(30)])


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (6, 1), (2, 5), (4, 2)])
@pytest.mark.parametrize("count", [2, 3])
def test_grids_that_are_not_square(shape: tuple[int, int], count: int) -> None:
    rng = np.random.default_rng(shape[0] * 10 + shape[1])
    check_minimal([random_problem(rng, *shape, count) for _ in range(15)])


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e30])
def test_magnitudes_do_not_matter(scale: float) -> None:
    rng = np.random.default_rng(8)
    check_minimal([random_problem(rng, 3, 3, 3, scale=scale) for _ in range(20)])


def test_magnitudes_may_differ_within_a_batch_and_a_sample() -> None:
    rng = np.random.default_rng(9)
    problems = [random_problem(rng, 3, 3, 3, scale=scale) for scale in (1e-20, 1e20, 1.0)]
    huge_weights = random_problem(rng, 3, 3, 3)
    check_minimal([*problems, (huge_weights[0], huge_weights[1] * 1e7, huge_weights[2] * 1e7, huge_weights[3])])


def integer_problem(rng: np.random.Generator, rows: int, cols: int, count: int) -> Problem:
    """Draw small integers, among which many masks tie exactly; the prior is convex."""
    steps = np.sort(rng.integers(-1, 2, size=count - 1))
    prior = np.concatenate([[0], np.cumsum(steps)])
    weights = [rng.integers(0, 3, size=shape) for shape in ((rows - 1, cols), (rows, cols - 1))]
    return rng.integers(-1, 2, size=(rows, cols)) * (count - 1), weights[0], weights[1], prior


@pytest.mark.parametrize(("count", "side", "samples"), [(2, 3, 80), (3, 2, 80), (3, 3, 40), (4, 2, 60), (5, 2, 40)])
def test_the_smallest_of_tied_masks_is_taken(count: int, side: int, samples: int) -> None:
    rng = np.random.default_rng(count * 10 + side)
    problems = [integer_problem(rng, side, side, count) for _ in range(samples)]
    minimizers = [brute_force(problem)[1] for problem in problems]
    assert sum(len(each) > 1 for each in minimizers) >= samples // 5, "too few ties to test anything"
    for found, tied in zip(solve(problems), minimizers, strict=True):
        np.testing.assert_array_equal(found, tied.min(0))


def test_constant_problem_gives_the_smallest_label() -> None:
    flat = (np.zeros((4, 4)), np.ones((3, 4), np.float32), np.ones((4, 3), np.float32), np.zeros(3))
    empty = (np.zeros((4, 4)), np.zeros((3, 4), np.float32), np.zeros((4, 3), np.float32), np.zeros(3))
    assert (solve([flat, empty]) == 0).all()


@pytest.mark.parametrize(("count", "side"), [(2, 16), (3, 16), (4, 10), (7, 6)])
@pytest.mark.parametrize("sparse", [0.0, 0.3])
def test_large_grids_against_maxflow(count: int, side: int, sparse: float) -> None:
    pytest.importorskip("maxflow")
    rng = np.random.default_rng(11)
    problems = [random_problem(rng, side, side, count, sparse=sparse) for _ in range(8)]
    for found, problem in zip(solve(problems), problems, strict=True):
        energy = scaled_energies(found[None].astype(np.int64), problem)[0]
        assert energy == pytest.approx(maxflow_minimum(problem), rel=1e-8)


def test_maxflow_oracle_agrees_with_brute_force() -> None:
    pytest.importorskip("maxflow")
    rng = np.random.default_rng(12)
    for count in (2, 3, 4):
        problem = random_problem(rng, 2, 3, count)
        assert maxflow_minimum(problem) == pytest.approx(brute_force(problem)[0], rel=1e-9)


def host_energy(n: int, batch: int, seed: int = 0) -> Energy[np.ndarray]:
    """Draw energies of the sizes that images give."""
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.full(n * n, 0.5), size=(2, batch)).reshape(2, batch, n, n).astype(np.float32)
    weights = rng.uniform(0, 0.1 / n, size=(2, batch, n - 1, n)).astype(np.float32)
    return Energy(shares[0], shares[1], weights[0], np.ascontiguousarray(weights[1].transpose(0, 2, 1)))


def energies_of(labels: np.ndarray, energy: Energy[np.ndarray], priors: np.ndarray) -> np.ndarray:
    """Evaluate labels by the oracle's formula."""
    difference = energy.cost_first.astype(np.float64) - energy.cost_second
    return np.array(
        [
            scaled_energies(
                labels[i : i + 1].astype(np.int64),
                (difference[i], energy.weight_rows[i], energy.weight_cols[i], priors[i % len(priors)]),
            )[0]
            for i in range(len(labels))
        ]
    )


@pytest.mark.parametrize("n", [2, 4, 8, 16])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_never_above_alpha_beta_swap(n: int, count: int) -> None:
    pytest.importorskip("gco")
    energy = host_energy(n, 20)
    masks = {
        name: solve_masks(energy, 0.4, PuzzleMixConfig(solver=name, num_labels=count)) for name in ("exact", "gco")
    }
    prior = binomial_prior(0.4, count, 0.2, n)[None]
    exact, swap = (energies_of(masks[name], energy, prior) for name in ("exact", "gco"))
    assert (exact <= swap + 1e-9).all()


@pytest.mark.parametrize("lam", [0.0, 1e-12, 1e-3, 0.5, 1 - 1e-3, 1 - 1e-12, 1.0])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_lam_up_to_its_ends(lam: float, count: int) -> None:
    energy = host_energy(2, 16, seed=3)
    labels = solve_masks(energy, lam, PuzzleMixConfig(num_labels=count))
    prior = binomial_prior(lam, count, 0.2, 2)
    for i in range(16):
        difference = energy.cost_first[i].astype(np.float64) - energy.cost_second[i]
        problem = (difference, energy.weight_rows[i], energy.weight_cols[i], prior)
        least, _ = brute_force(problem)
        assert scaled_energies(labels[i : i + 1].astype(np.int64), problem)[0] <= least + 1e-9
    if lam in (0.0, 1.0):
        assert (labels == lam * (count - 1)).mean() > 0.9


def test_one_lam_for_each_sample() -> None:
    energy = host_energy(4, 6, seed=4)
    lams = np.array([0.0, 0.1, 0.3, 0.5, 0.8, 1.0])
    together = solve_masks(energy, lams, PuzzleMixConfig())
    for i, lam in enumerate(lams):
        np.testing.assert_array_equal(together[i], solve_masks(energy, float(lam), PuzzleMixConfig())[i])


@pytest.mark.parametrize("count", range(2, 12))
def test_prior_is_the_binomial_and_convex(count: int) -> None:
    for lam in (0.0, 1e-12, 1e-3, 0.2, 0.5, 0.999, 1.0):
        prior = mixing_prior(lam, count, eta=0.2, blocks_per_side=4)
        np.testing.assert_allclose(prior[0], binomial_prior(lam, count, 0.2, 4), rtol=1e-6, atol=1e-12)
        assert (np.diff(prior[0], n=2) >= -1e-12).all()
