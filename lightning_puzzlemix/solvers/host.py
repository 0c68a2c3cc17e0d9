"""The host backend: one copy of the batch's problem to the host, exact masks and plans there, and one copy back."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from lightning_puzzlemix.config import PuzzleMixConfig
from lightning_puzzlemix.solvers.gco import solve_masks_gco
from lightning_puzzlemix.solvers.problem import Energy, MixingProblem, mixing_prior
from lightning_puzzlemix.solvers.threads import run_slices, solver_threads
from lightning_puzzlemix.solvers.transfer import to_device, to_host
from lightning_puzzlemix.solvers.value_checks import check_values


def solve_on_host(
    problem: MixingProblem[Tensor], lam: float | Tensor, config: PuzzleMixConfig
) -> tuple[Tensor, Tensor | None]:
    """Solve a batch on the host; see :func:`lightning_puzzlemix.solvers.solve`."""
    host, lam_host = _fetch(problem, lam)
    check_values(host.extremes, lam_host, config)
    labels = solve_masks(host.energy, lam_host, config)
    solution = [labels]
    if config.transport:
        solution.append(plan_moves(host.moving_first, host.moving_second, labels, config))
    masks, *plans = to_device(solution, problem.extremes.device)
    return masks, plans[0] if plans else None


def _fetch(problem: MixingProblem[Tensor], lam: float | Tensor) -> tuple[MixingProblem[np.ndarray], float | np.ndarray]:
    """Copy the problem to the host, with lam where that lies on the device too."""
    arrays = problem.arrays()
    if not isinstance(lam, Tensor):
        return MixingProblem.of(to_host(arrays)), float(lam)
    batch, device = len(arrays[0]), arrays[0].device
    if lam.device != device:
        return MixingProblem.of(to_host(arrays)), lam.detach().cpu().double().numpy()
    *host, lam_host = to_host([*arrays, lam.float().expand(batch)])
    return MixingProblem.of(host), lam_host


def solve_masks(energy: Energy[np.ndarray], lam: float | np.ndarray, config: PuzzleMixConfig) -> np.ndarray:
    """Find the mask of every sample.

    Args:
        energy: The energies of the batch.
        lam: Expected share of the first image in [0, 1], or (B,) of them.
        config: ``num_labels``, ``eta``, ``solver`` and ``threads`` are read.

    Returns:
        (B, n, n) int32 labels k; the mask is k / (num_labels - 1).

    Raises:
        ImportError: If ``solver="gco"`` and gco-wrapper is not installed.
        ValueError: If ``solver="gco"`` cannot take the energies.
    """
    return _MASK_SOLVERS[config.solver](energy, lam, config)


def _solve_masks_exact(energy: Energy[np.ndarray], lam: float | np.ndarray, config: PuzzleMixConfig) -> np.ndarray:
    # Numba takes 0.4 s to import: late, and never with the package.
    from lightning_puzzlemix.solvers.maxflow import minimize_labels

    batch, n = energy.cost_first.shape[:2]
    difference = np.subtract(energy.cost_first, energy.cost_second, dtype=np.float64, order="C")
    # Numba compiles a kernel once for each combination of dtypes, memory layouts and of what can be written to, which a
    # broadcast array cannot: always the same ones, so that all is compiled before training.
    weights = [np.require(each, np.float32, ("C", "W")) for each in (energy.weight_rows, energy.weight_cols)]
    priors = np.empty((batch, config.num_labels))
    priors[:] = mixing_prior(lam, config.num_labels, eta=config.eta, blocks_per_side=n)
    labels = np.empty(difference.shape, np.int32)

    def work(start: int, stop: int) -> None:
        minimize_labels(difference, *weights, priors, labels, start, stop)

    run_slices(work, batch, solver_threads(config.threads, n))
    return labels


_MASK_SOLVERS = {"exact": _solve_masks_exact, "gco": solve_masks_gco}


def plan_moves(
    shares_first: np.ndarray, shares_second: np.ndarray, labels: np.ndarray, config: PuzzleMixConfig
) -> np.ndarray:
    """Plan for each pair where the blocks of its two images go.

    The cost of moving block i to j is ``transport_cost * distance^2 - share_i`` where the mask shows the image at j
    (method, step 6), the distance being 1 along the whole longer side. A target that no block gains by taking keeps its
    own content; the reference leaves it black. Among moves of equal cost the shorter one is taken.

    Args:
        shares_first: (B, R, C) float32 block saliency of the first images on the transport's grid.
        shares_second: (B, R, C) of their partners.
        labels: (B, n, n) labels of the mask, k / (L - 1) of the first image.
        config: ``transport_cost``, ``num_labels`` and ``threads`` are read.

    Returns:
        (2, B, R * C) int32 plans of the first images and of their partners: the source block of each target block.
    """
    from lightning_puzzlemix.solvers.matching import match_blocks, sorted_moves

    # Always of the same kind, as Numba would compile the kernel anew for any other.
    shares_first, shares_second = (np.require(each, np.float32, ("C", "W")) for each in (shares_first, shares_second))
    labels = np.require(labels, np.int32, ("C", "W"))
    batch, rows, cols = shares_first.shape
    steps, squared = sorted_moves(rows, cols)
    # In float32 as the reference computes it, so that the same pairs tie.
    prices = np.float32(config.transport_cost) * squared.astype(np.float32)
    plans = np.empty((2, batch, rows * cols), np.int32)
    top = config.num_labels - 1

    def work(start: int, stop: int) -> None:
        match_blocks(shares_first, labels, 0, steps, prices, plans[0], start, stop)
        match_blocks(shares_second, labels, top, steps, prices, plans[1], start, stop)

    run_slices(work, batch, solver_threads(config.threads, max(rows, cols)))
    return plans
