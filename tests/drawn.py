"""Drawn problems that strain the solvers: strong and heavy-tailed couplings, mazes, corridors, exact ties, no energy at all."""

from __future__ import annotations

import numpy as np

from lightning_puzzlemix.solvers.problem import Energy, mixing_prior

FAMILIES = (
    "random", "strong", "heavy", "maze", "points", "integers", "flat", "empty", "tiny", "corridor", "narrow corridor",
)  # fmt: skip


def draw_energy(
    family: str, batch: int, n: int, num_labels: int, *, seed: int
) -> tuple[Energy[np.ndarray], np.ndarray]:
    """Draw energies of a family, and (batch, num_labels) priors."""
    rng = np.random.default_rng([FAMILIES.index(family), seed])
    cost = rng.normal(size=(batch, n, n))
    rows, cols = rng.exponential(size=(batch, n - 1, n)), rng.exponential(size=(batch, n, n - 1))
    priors = mixing_prior(rng.uniform(0.02, 0.98, batch), num_labels, eta=0.3, blocks_per_side=1)
    if family == "strong":
        rows, cols = 30 * rows, 30 * cols
    elif family == "heavy":
        cost, rows, cols = cost**3, rows**4, cols**4
    elif family == "maze":
        rows, cols = (each * (rng.random(each.shape) < 0.45) for each in (rows, cols))
    elif family == "points":
        cost, rows, cols = cost * (rng.random(cost.shape) < 0.03), 3 * rows, 3 * cols
    elif family == "integers":
        cost = rng.integers(-1, 2, cost.shape) * (num_labels - 1.0)
        rows, cols = (rng.integers(0, 3, each.shape).astype(float) for each in (rows, cols))
        steps = np.sort(rng.integers(-1, 2, (batch, num_labels - 1)), 1)
        priors = np.concatenate([np.zeros((batch, 1)), np.cumsum(steps, 1)], 1).astype(float)
    elif family == "flat":
        cost = 0 * cost
    elif family == "empty":
        cost, rows, cols, priors = 0 * cost, 0 * rows, 0 * cols, 0 * priors
    elif family == "tiny":
        cost, rows, cols, priors = (1e-30 * each for each in (cost, rows, cols, priors))
    elif family in ("corridor", "narrow corridor"):
        # One way through all rows, whose walls leave a gap at alternating ends.
        width = 5.0 if family == "corridor" else 3.0
        rows = np.zeros_like(rows)
        for row in range(n - 1):
            rows[:, row, n - 1 if row % 2 == 0 else 0] = width * (1 + rng.random(batch))
        if family == "corridor":
            cols = 5 * (1 + rng.random(cols.shape))
            cost, priors = 0 * cost, 0 * priors
            cost[:, 0, 0] = 3
            cost[:, n - 1, 0 if n % 2 == 0 else n - 1] -= 3
        else:
            cost = 0.2 * cost
    arrays = (cost, np.zeros_like(cost), rows, cols)
    return Energy(*(each.astype(np.float32) for each in arrays)), np.ascontiguousarray(priors)


def draw_shares(family: str, shape: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
    """Draw (batch, rows, cols) float32 saliency of blocks, each map summing to 1 (or to nothing)."""
    values = rng.random(shape)
    if family == "sparse":
        values *= rng.random(shape) < 0.4
    elif family == "onehot":
        values[:] = 0
        values.reshape(len(values), -1)[np.arange(len(values)), rng.integers(values[0].size, size=len(values))] = 1
    elif family == "tied":
        values = rng.integers(0, 3, shape).astype(float)
    elif family == "zero":
        values[:] = 0
    return (values / np.maximum(values.sum((1, 2), keepdims=True), 1e-9)).astype(np.float32)
