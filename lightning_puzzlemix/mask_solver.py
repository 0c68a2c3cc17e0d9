"""From the energy on the host to the optimal mask; one backend a function."""

from __future__ import annotations

import numpy as np

from lightning_puzzlemix.config import PuzzleMixConfig
from lightning_puzzlemix.energy import HostEnergy, mixing_prior
from lightning_puzzlemix.threads import run_slices, solver_threads


def solve_masks(energy: HostEnergy, lam: float | np.ndarray, config: PuzzleMixConfig) -> np.ndarray:
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
    if config.solver == "gco":
        from lightning_puzzlemix.gco_solver import solve_masks_gco

        return solve_masks_gco(energy, lam, config)
    return _solve_masks_exact(energy, lam, config)


def _solve_masks_exact(energy: HostEnergy, lam: float | np.ndarray, config: PuzzleMixConfig) -> np.ndarray:
    # Numba takes 0.4 s to import: late, and never with the package.
    from lightning_puzzlemix.maxflow import minimize_labels

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
