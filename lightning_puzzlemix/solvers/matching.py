"""Which block moves where: the reference's Algorithm 1 as deferred acceptance, compiled by Numba.

The reference (paper, Algorithm 1; ``mask_transport``) lets every source block take its cheapest target, lets every target keep
its cheapest source and raises the cost of the losers' pairs by 1, n times over, on a dense (n^2, n^2) cost. With saliency in
[0, 1] a source that lost a target never returns to it, and targets that the mask hides do not matter. What remains is
synchronous deferred acceptance (Gale and Shapley, 1962) over the few visible targets that a source gains by, cut off after n
rounds.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from lightning_puzzlemix.solvers.numba_runtime import inlined, kernel


@lru_cache(maxsize=32)
def sorted_moves(rows: int, cols: int) -> tuple[np.ndarray, np.ndarray]:
    """List all moves on a grid, shortest first and in row-major order among equals, as the dense argmin meets them.

    Returns:
        (moves, 2) int64 steps down and to the right, and (moves,) float64 squared lengths, 1 for the longer side.
    """
    down, right = np.meshgrid(np.arange(1 - rows, rows), np.arange(1 - cols, cols), indexing="ij")
    steps = np.stack([down.ravel(), right.ravel()], axis=1)
    squared = (steps**2).sum(1)
    order = np.lexsort((steps[:, 1], steps[:, 0], squared))
    return steps[order], squared[order] / max(rows - 1, cols - 1, 1) ** 2


@inlined
def _next_target(source: int, pointer: int, gain: float, visible: Any, steps: Any, prices: Any) -> int:
    """Return the position of the source's next move to a visible target that costs less than it gains, else -1."""
    rows, cols = visible.shape
    row, col = source // cols, source % cols
    for position in range(pointer, len(prices)):
        if prices[position] - gain >= 0:
            return -1
        to_row, to_col = row + steps[position, 0], col + steps[position, 1]
        if 0 <= to_row < rows and 0 <= to_col < cols and visible[to_row, to_col]:
            return position
    return -1


@inlined
def _match(saliency: Any, visible: Any, steps: Any, prices: Any, plan: Any, pointer: Any, free: Any) -> None:
    """Write into ``plan`` the source of each target; a target that no source wins keeps its own block."""
    rows, cols = visible.shape
    count = rows * cols
    plan[:] = -1
    pointer[:] = 0
    for source in range(count):
        free[source] = source
    waiting = count
    for _ in range(max(rows, cols)):
        if waiting == 0:
            break
        losers = 0
        for index in range(waiting):
            source = free[index]
            gain = saliency[source // cols, source % cols]
            position = _next_target(source, pointer[source], gain, visible, steps, prices)
            if position < 0:
                continue
            target = source + steps[position, 0] * cols + steps[position, 1]
            pointer[source] = position
            holder = plan[target]
            loser = source
            if holder < 0:
                plan[target] = source
                continue
            price = prices[position] - gain
            held = prices[pointer[holder]] - saliency[holder // cols, holder % cols]
            if price < held or (price == held and source < holder):
                plan[target] = source
                loser = holder
            pointer[loser] += 1
            # Never beyond the sources that still wait, so that none proposes twice in a round.
            free[losers] = loser
            losers += 1
        waiting = losers
    for target in range(count):
        if plan[target] < 0:
            plan[target] = target


@kernel
def match_blocks(
    saliency: Any, labels: Any, hidden_label: int, steps: Any, prices: Any, plans: Any, start: int, stop: int
) -> None:
    """Write the transport plans of the samples ``start:stop``.

    Args:
        saliency: (B, R, C) float32 >= 0, the block saliency of the image whose blocks move.
        labels: (B, n, m) mask labels with R divisible by n and C by m.
        hidden_label: The label at which that image does not show.
        steps: Moves of :func:`sorted_moves`.
        prices: (moves,) float32, their cost in units of saliency.
        plans: (B, R * C) integer, written: for each target block the block that moves there.
        start: First sample.
        stop: One past the last sample.
    """
    rows, cols = saliency.shape[1:]
    high, wide = rows // labels.shape[1], cols // labels.shape[2]
    visible = np.empty((rows, cols), np.bool_)
    pointer, free = np.empty(rows * cols, np.int64), np.empty(rows * cols, np.int64)
    for sample in range(start, stop):
        for row in range(rows):
            for col in range(cols):
                visible[row, col] = labels[sample, row // high, col // wide] != hidden_label
        _match(saliency[sample], visible, steps, prices, plans[sample], pointer, free)
