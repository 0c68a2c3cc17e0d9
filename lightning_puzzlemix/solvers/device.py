"""The exact solver on the images' own CUDA device: masks and plans equal to the host's, without waiting and without a copy."""

from __future__ import annotations

from functools import cache, lru_cache

import numpy as np
import torch
from torch import Tensor

from lightning_puzzlemix.config import PuzzleMixConfig
from lightning_puzzlemix.solvers import cuda_runtime
from lightning_puzzlemix.solvers.cuda_runtime import Kernels
from lightning_puzzlemix.solvers.problem import LAM_MARGIN, Energy, mixing_prior
from lightning_puzzlemix.solvers.transfer import send

# One thread a block of the mask in a thread block of 512, and one bit a column in a 32-bit word.
MOST_BLOCKS_PER_SIDE = 22
MOST_LABELS = 16
# 12 bytes of shared memory for each, 48 KiB in all.
MOST_MOVING_BLOCKS = 4000
_WARP = 32
_PLAN_THREADS = 256


def unsupported(
    device: torch.device, blocks_per_side: int, moving: tuple[int, int], config: PuzzleMixConfig
) -> str | None:
    """Return why the device cannot solve this, as the end of a sentence; ``None`` where it can.

    Args:
        device: Where the images lie.
        blocks_per_side: n.
        moving: Rows and columns of the blocks that move.
        config: ``solver``, ``num_labels`` and ``transport`` are read.
    """
    if device.type != "cuda":
        return f"the images are on {device.type}, and the kernels need CUDA"
    if torch.version.hip:
        return "this is a ROCm build of torch, and the kernels need CUDA"
    if config.solver != "exact":
        return f"solver={config.solver!r} runs on the host alone"
    if blocks_per_side > MOST_BLOCKS_PER_SIDE:
        return f"{blocks_per_side} blocks per side are more than {MOST_BLOCKS_PER_SIDE}"
    if config.num_labels > MOST_LABELS:
        return f"num_labels={config.num_labels} is more than {MOST_LABELS}"
    if config.transport and moving[0] * moving[1] > MOST_MOVING_BLOCKS:
        return f"{moving[0]} x {moving[1]} moving blocks are more than {MOST_MOVING_BLOCKS}"
    return _why_no_kernels(device)


def solve_masks(energy: Energy[Tensor], lam: float | Tensor, config: PuzzleMixConfig) -> Tensor:
    """Find the mask of every sample, on the device of the energies.

    Args:
        energy: The energies of the batch.
        lam: Expected share of the first image in [0, 1], or (B,) of them on the host or on the device.
        config: ``num_labels`` and ``eta`` are read.

    Returns:
        (B, n, n) int32 labels k; the mask is k / (num_labels - 1).
    """
    return minimize_labels(energy, device_prior(lam, config, energy.cost_first.shape[1], energy.cost_first.device))


def minimize_labels(energy: Energy[Tensor], priors: Tensor) -> Tensor:
    """Return the (B, n, n) int32 labels of least energy, the same as ``maxflow.minimize_labels``.

    Args:
        energy: The energies of the batch.
        priors: (B, L) or (1, L) float64, convex in the label.
    """
    batch, n = energy.cost_first.shape[:2]
    device, num_labels = energy.cost_first.device, priors.shape[1]
    labels = torch.empty((batch, n, n), dtype=torch.int32, device=device)
    terms = [each.float().contiguous() for each in energy.arrays()]
    stride = num_labels if len(priors) > 1 else 0
    with _on(device):
        _kernels(device).launch(
            "puzzlemix_mask", (batch, 1), _whole_warps(n * n), 0, *terms, priors, stride, n, num_labels - 1, labels
        )
    return labels


def plan_moves(moving_first: Tensor, moving_second: Tensor, labels: Tensor, config: PuzzleMixConfig) -> Tensor:
    """Plan for each pair where the blocks of its two images go; see :func:`lightning_puzzlemix.solvers.host.plan_moves`.

    Args:
        moving_first: (B, R, C) block saliency of the first images.
        moving_second: (B, R, C) of their partners.
        labels: (B, n, n) int32 labels of the mask.
        config: ``transport_cost`` and ``num_labels`` are read.

    Returns:
        (2, B, R * C) int32, the source block of each target block.
    """
    batch, rows, cols = moving_first.shape
    count, device = rows * cols, labels.device
    steps, prices = _moves(rows, cols, config.transport_cost, device)
    plans = torch.empty((2, batch, count), dtype=torch.int32, device=device)
    # A bid and a pointer for each block, and a bit.
    shared_bytes = 12 * count + 4 * -(-count // _WARP)
    moving = [each.float().contiguous() for each in (moving_first, moving_second)]
    with _on(device):
        _kernels(device).launch(
            "puzzlemix_plan", (batch, 2), min(_PLAN_THREADS, _whole_warps(count)), shared_bytes,
            *moving, labels, labels.shape[1], config.num_labels - 1, steps, prices, len(prices), rows, cols, plans,
        )  # fmt: skip
    return plans


def device_prior(lam: float | Tensor, config: PuzzleMixConfig, blocks_per_side: int, device: torch.device) -> Tensor:
    """Return :func:`mixing_prior` as (1, L) or (B, L) float64 on the device, without waiting for it.

    From numbers on the host it is the host's own, to the bit. From a tensor on the device it is computed there, where
    logarithms may differ in the last bit.
    """
    num_labels = config.num_labels
    if not isinstance(lam, Tensor) or lam.device.type == "cpu":
        shares = lam.detach().double().numpy() if isinstance(lam, Tensor) else lam
        prior = torch.from_numpy(mixing_prior(shares, num_labels, eta=config.eta, blocks_per_side=blocks_per_side))
        return send(prior, device)
    top = num_labels - 1
    share = lam.detach().double().reshape(-1, 1).clamp(LAM_MARGIN, 1 - LAM_MARGIN)
    label = torch.arange(num_labels, device=device, dtype=torch.float64)
    ways = torch.lgamma(torch.full_like(label, num_labels)) - torch.lgamma(label + 1) - torch.lgamma(top - label + 1)
    likelihood = ways + label * share.log() + (top - label) * torch.log1p(-share)
    return -config.eta / blocks_per_side**2 * likelihood


def _whole_warps(threads: int) -> int:
    return -(-threads // _WARP) * _WARP


def _kernels(device: torch.device) -> Kernels:
    index = device.index if device.index is not None else torch.cuda.current_device()
    return cuda_runtime.load_kernels(index)


@cache
def _why_no_kernels(device: torch.device) -> str | None:
    """Build the kernels once: a failure too is found at the first batch alone, and not with every one."""
    try:
        _kernels(device)
    except (ImportError, RuntimeError, OSError) as error:
        return str(error)
    return None


def _on(device: torch.device) -> torch.cuda.device:
    return torch.cuda.device(device)


@lru_cache(maxsize=64)
def _moves(rows: int, cols: int, cost: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """The host's moves and their prices, kept on the device: (moves, 2) int16 and (moves,) float32."""
    # Numba takes 0.4 s to import: late, and never with the package.
    from lightning_puzzlemix.solvers.matching import sorted_moves

    steps, squared = sorted_moves(rows, cols)
    # In float32 as on the host, so that the same pairs tie.
    prices = np.float32(cost) * squared.astype(np.float32)
    return send(torch.from_numpy(steps.astype(np.int16)), device), send(torch.from_numpy(prices), device)
