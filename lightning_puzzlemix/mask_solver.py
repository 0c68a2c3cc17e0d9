"""From the energy on the host to the optimal mask; one backend a function."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from lightning_puzzlemix.config import PuzzleMixConfig
from lightning_puzzlemix.energy import mixing_prior
from lightning_puzzlemix.threads import available_threads, run_slices

# Up to here a whole batch is solved sooner than a second thread has started.
_SERIAL_BLOCKS_PER_SIDE = 4


@dataclass(frozen=True)
class HostEnergy:
    """An :class:`~lightning_puzzlemix.energy.Energy` on the host; float32 arrays of the same names and shapes."""

    cost_first: np.ndarray
    cost_second: np.ndarray
    weight_rows: np.ndarray
    weight_cols: np.ndarray


def solver_threads(config: PuzzleMixConfig, blocks_per_side: int) -> int:
    """Return how many threads solve a batch on this grid."""
    if blocks_per_side <= _SERIAL_BLOCKS_PER_SIDE:
        return 1
    return config.threads if config.threads is not None else available_threads()


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
    difference = np.subtract(energy.cost_first, energy.cost_second, dtype=np.float64)
    priors = mixing_prior(lam, config.num_labels, eta=config.eta, blocks_per_side=n)
    priors = np.ascontiguousarray(np.broadcast_to(priors, (batch, config.num_labels)))
    labels = np.empty(difference.shape, np.int32)

    def work(start: int, stop: int) -> None:
        minimize_labels(difference, energy.weight_rows, energy.weight_cols, priors, labels, start, stop)

    run_slices(work, batch, solver_threads(config, n))
    return labels


def warm_up(config: PuzzleMixConfig) -> float:
    """Compile the kernels now (about 10 s once, then read from Numba's cache) and return the seconds that it took.

    Without this the first mixed batch would take that time unexplained.
    """
    from lightning_puzzlemix.transport import plan_moves

    start = time.perf_counter()
    flat = np.full((1, 2, 2), 0.25, np.float32)
    energy = HostEnergy(flat, flat, np.zeros((1, 1, 2), np.float32), np.zeros((1, 2, 1), np.float32))
    labels = solve_masks(energy, 0.5, config)
    if config.transport:
        plan_moves(flat, flat, labels, config)
    return time.perf_counter() - start
