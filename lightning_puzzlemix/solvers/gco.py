"""The authors' mask optimizer: alpha-beta swap of the gco library, one sample after the other (optional extra ``[gco]``).

A local optimizer that gives the authors' masks bit for bit, defects included: it stops above the optimum in 27 of 104 recorded
samples at n = 16, and its 32-bit arithmetic silently overflows on others.
"""

from __future__ import annotations

import math
from types import ModuleType

import numpy as np

from lightning_puzzlemix.config import PuzzleMixConfig
from lightning_puzzlemix.solvers.problem import Energy

# gco ends the process when a smoothness term exceeds 10,000,000 (GCO_MAX_ENERGYTERM); the wrapper multiplies the weights by
# 1000 before, because their label distances are not integers.
_LARGEST_WEIGHT = 10_000
# The reference keeps its prior finite by a margin inside the logarithm (``graphcut_multi``).
_LOG_MARGIN = 1e-8


def _import_gco() -> ModuleType:
    """Import gco without the aliases ``np.int``, ``np.float`` and ``np.bool`` that it hangs onto numpy."""
    names = ("int", "float", "bool")
    before = {name: np.__dict__[name] for name in names if name in np.__dict__}
    try:
        import gco
    except ImportError as error:
        raise ImportError(
            "solver='gco' needs the package gco-wrapper: pip install 'lightning-puzzlemix[gco]' "
            "(Python 3.12 and newer: needs a C++ compiler), or use solver='exact'"
        ) from error
    finally:
        for name in names:
            if name in before:
                setattr(np, name, before[name])
            elif name in np.__dict__:
                delattr(np, name)
    return gco


def _to_integers(what: str, terms: np.ndarray, units: int, limit: int) -> np.ndarray:
    """Cut energies to gco's integers; refuse what gco would answer by ending the process, or what int32 cannot hold."""
    scaled = units * terms
    largest = float(np.abs(scaled).max(initial=0.0))
    if largest > limit:
        raise ValueError(
            f"solver='gco' cannot take {what} above {limit} in its integer units (1000 n^2 times the energy), got "
            f"{largest:.4g}: use smaller beta and eta, or solver='exact'"
        )
    return scaled.astype(np.int32)


def solve_masks_gco(energy: Energy[np.ndarray], lam: float | np.ndarray, config: PuzzleMixConfig) -> np.ndarray:
    """Find masks as the authors do (``graphcut_multi``): energies cut to integers of 1/(1000 n^2), alpha-beta swap.

    Args:
        energy: The energies of the batch.
        lam: Expected share of the first image in [0, 1], or (B,) of them.
        config: ``num_labels`` and ``eta`` are read.

    Returns:
        (B, n, n) int32 labels k; the mask is k / (num_labels - 1).

    Raises:
        ImportError: If gco-wrapper is not installed.
        ValueError: If a weight or cost is larger than gco can take, or the grid is a single block.
    """
    gco = _import_gco()
    batch, n = energy.cost_first.shape[:2]
    top = config.num_labels - 1
    if n == 1:
        raise ValueError("solver='gco' needs at least 2 blocks per side, got 1: use solver='exact'")
    units = 1000 * n**2
    rows = _to_integers("smoothness weights", energy.weight_rows, units, _LARGEST_WEIGHT)
    cols = _to_integers("smoothness weights", energy.weight_cols, units, _LARGEST_WEIGHT)
    # gco counts its labels from "all of the first image" down, and so break its ties.
    hidden = np.linspace(0, 1, config.num_labels)
    prior = _reference_prior(lam, config, n)
    blocks = np.stack([(1 - share) * energy.cost_first + share * energy.cost_second for share in hidden], axis=-1)
    unary = _to_integers("block costs", blocks + prior[:, None, None, :], units, np.iinfo(np.int32).max)
    smoothness = (np.subtract.outer(np.arange(top + 1), np.arange(top + 1)) ** 2 / top**2).astype(np.float32)
    masks = [
        gco.cut_grid_graph(unary[sample], smoothness, rows[sample], cols[sample], algorithm="swap")
        for sample in range(batch)
    ]
    return (top - np.stack(masks).reshape(batch, n, n)).astype(np.int32)


def _reference_prior(lam: float | np.ndarray, config: PuzzleMixConfig, n: int) -> np.ndarray:
    """Return the (1 or B, L) prior with the reference's margin, ordered from all of the first image to none of it."""
    share = np.atleast_1d(np.asarray(lam, np.float64))[:, None]
    top = config.num_labels - 1
    label = np.arange(top, -1, -1)
    # As floats: from 68 labels on they are integers that no NumPy dtype holds.
    ways = np.array([float(math.comb(top, k)) for k in label])
    likelihood = ways * share**label * (1 - share) ** (top - label)
    return -config.eta / n**2 * np.log(likelihood + _LOG_MARGIN)
