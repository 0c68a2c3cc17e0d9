"""The choice of the backend that solves a batch."""

from __future__ import annotations

import time

import numpy as np
import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_info
from torch import Tensor

from lightning_puzzlemix.config import PuzzleMixConfig
from lightning_puzzlemix.solvers import device as device_solver
from lightning_puzzlemix.solvers.deferred_checks import DeferredChecks
from lightning_puzzlemix.solvers.host import plan_moves, solve_masks, solve_on_host
from lightning_puzzlemix.solvers.problem import Energy, MixingProblem

# Whether solve_on="auto" takes the device where it can. Not before experiments/gpu_check.sh has passed on one.
AUTO_MEANS_DEVICE = False
_reasons_given: set[str] = set()
_CPU = torch.device("cpu")


def solve(
    problem: MixingProblem[Tensor],
    lam: float | Tensor,
    config: PuzzleMixConfig,
    checks: DeferredChecks | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Find the masks and transport plans of a batch.

    A backend takes the problem as tensors on the images' device and returns its solution there, so that one that works on
    the device needs no copy.

    Args:
        problem: What is to be solved.
        lam: Expected share of the first image in [0, 1]: one number, or (B,) of them.
        config: The hyperparameters; ``solve_on`` chooses the backend.
        checks: Where the device leaves its checks of values; ``None`` makes them at once, which waits for the device.

    Returns:
        (B, n, n) int32 labels k, the mask being k / (num_labels - 1), and (2, B, R * C) int32 plans of the first images and
        of their partners; ``None`` without transport.

    Raises:
        ImportError: If ``config.solver`` is ``"gco"`` and gco-wrapper is not installed.
        ValueError: If values are out of range, or ``solve_on="device"`` and the device cannot solve this.
    """
    device = problem.extremes.device
    moving = (problem.moving_first.shape[1], problem.moving_first.shape[2])
    if not _solves_on_device(device, problem.energy.cost_first.shape[1], moving, config):
        return solve_on_host(problem, lam, config)
    pending = DeferredChecks() if checks is None else checks
    pending.add(problem.extremes, lam, config)
    if checks is None:
        pending.finish()
    labels = device_solver.solve_masks(problem.energy, lam, config)
    if not config.transport:
        return labels, None
    return labels, device_solver.plan_moves(problem.moving_first, problem.moving_second, labels, config)


def _solves_on_device(
    device: torch.device, blocks_per_side: int, moving: tuple[int, int], config: PuzzleMixConfig
) -> bool:
    if config.solve_on == "host" or (config.solve_on == "auto" and not AUTO_MEANS_DEVICE):
        return False
    reason = device_solver.unsupported(device, blocks_per_side, moving, config)
    if reason is None:
        return True
    if config.solve_on == "device":
        raise ValueError(f"solve_on='device', but {reason}: use solve_on='host'")
    # Without a GPU nobody expects one to solve.
    if device.type == "cuda" and reason not in _reasons_given:
        _reasons_given.add(reason)
        rank_zero_info(f"Puzzle Mix solves on the host: {reason}")
    return False


def warm_up(config: PuzzleMixConfig, device: torch.device = _CPU) -> float:
    """Compile the kernels now and return the seconds that it took: about 10 s on the host, once, and 0.5 s on a device.

    Without this the first mixed batch would take that time unexplained. No batch needs more than is compiled here: the
    kernels are always called with the same dtypes.

    Raises:
        ValueError: If ``solve_on="device"`` and ``device`` cannot solve with this config.
    """
    start = time.perf_counter()
    # Asking compiles the kernels of the device.
    if all(_solves_on_device(device, n, (n, n), config) for n in config.grid_sizes):
        return time.perf_counter() - start
    flat = np.full((1, 2, 2), 0.25, np.float32)
    energy = Energy(flat, flat, np.zeros((1, 1, 2), np.float32), np.zeros((1, 2, 1), np.float32))
    labels = solve_masks(energy, 0.5, config)
    if config.transport:
        plan_moves(flat, flat, labels, config)
    return time.perf_counter() - start
