"""The choice of the backend that solves a batch."""

from __future__ import annotations

import time

import numpy as np
from torch import Tensor

from lightning_puzzlemix.config import PuzzleMixConfig
from lightning_puzzlemix.solvers.host import plan_moves, solve_masks, solve_on_host
from lightning_puzzlemix.solvers.problem import Energy, MixingProblem


def solve(problem: MixingProblem[Tensor], lam: float | Tensor, config: PuzzleMixConfig) -> tuple[Tensor, Tensor | None]:
    """Find the masks and transport plans of a batch.

    A backend takes the problem as tensors on the images' device and returns its solution there, so that one that works on
    the device needs no copy. The host is the only one so far.

    Args:
        problem: What is to be solved.
        lam: Expected share of the first image in [0, 1]: one number, or (B,) of them.
        config: The hyperparameters.

    Returns:
        (B, n, n) int32 labels k, the mask being k / (num_labels - 1), and (2, B, R * C) int32 plans of the first images and
        of their partners; ``None`` without transport.

    Raises:
        ImportError: If ``config.solver`` is ``"gco"`` and gco-wrapper is not installed.
        ValueError: If values are out of range.
    """
    return solve_on_host(problem, lam, config)


def warm_up(config: PuzzleMixConfig) -> float:
    """Compile the kernels now (about 10 s once, then read from disk) and return the seconds that it took.

    Without this the first mixed batch would take that time unexplained. No batch needs more than is compiled here: the
    kernels are always called with the same dtypes.
    """
    start = time.perf_counter()
    flat = np.full((1, 2, 2), 0.25, np.float32)
    energy = Energy(flat, flat, np.zeros((1, 1, 2), np.float32), np.zeros((1, 2, 1), np.float32))
    labels = solve_masks(energy, 0.5, config)
    if config.transport:
        plan_moves(flat, flat, labels, config)
    return time.perf_counter() - start
