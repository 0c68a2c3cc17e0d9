"""The exact minimum of the mask energy by steepest descent over minimum cuts, compiled by Numba.

The energy of the labels k = (L-1) * mask is, up to a constant,
``sum_p [k_p / (L-1) * difference_p + prior(k_p)] + sum_pq weight_pq * ((k_p - k_q) / (L-1))**2``.
It is L-natural-convex for a convex prior and weights >= 0. Therefore it is minimal as soon as no set of blocks gains by
moving one label up together, nor one label down together (Murota, "Discrete Convex Analysis", 2003, chapter 10; Kolmogorov
and Shioura, "New algorithms for convex cost tension problem", Discrete Optimization 2009), and the best such set is a
minimum cut with capacities weight / (L-1)**2.

Canonical minimiser: the minimisers form a lattice, and the smallest of them is taken (of several optimal masks the one that
shows least of the first image). The descent starts at the middle label s, moves the smallest best set up until none gains,
then the largest best set down until every set would lose. The first phase ends in the smallest minimiser among labels >= s,
the second in the smallest of all, after at most L-1-s and s cuts.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lightning_puzzlemix.jit import kernel
from lightning_puzzlemix.maxflow import UNREACHABLE, max_source_side, sweep_lines

# What the absolute terms of one energy sum to once scaled to integers: far below 2**63, so that no sum can overflow, and far
# above the 24 bits of float32, so that rounding changes no energy by more than about one part in 10**11.
_INTEGER_RANGE = float(1 << 46)
# Keeps a block that has no label left to move to where it is; above every sum of real terms.
_FORCED = np.int64(1 << 60)


@kernel
def _integer_scale(difference: Any, weight_rows: Any, weight_cols: Any, prior: Any) -> float:
    """Return the factor that spreads one sample's energy over the integer range."""
    total = np.abs(difference).sum() + weight_rows.sum() + weight_cols.sum()
    total += difference.size * np.abs(prior[1:] - prior[:-1]).sum()
    return _INTEGER_RANGE / total if total > 0 else 0.0


@kernel
def _to_integers(
    difference: Any, weight_rows: Any, weight_cols: Any, prior: Any, slope: Any, capacity: Any, steps: Any
) -> None:
    """Write one sample's energy as integers: slope per label step, capacities, and the prior's step after each label."""
    rows, cols = difference.shape
    top = len(prior) - 1
    scale = _integer_scale(difference, weight_rows, weight_cols, prior)
    for label in range(top):
        steps[label] = np.int64(np.rint(scale * (prior[label + 1] - prior[label])))
    for row in range(rows):
        for col in range(cols):
            node = (row + 1) * (cols + 2) + col + 1
            slope[node] = np.int64(np.rint(scale * difference[row, col] / top))
            if col + 1 < cols:
                capacity[node, 0] = np.int64(np.rint(scale * weight_cols[row, col] / top**2))
            if row + 1 < rows:
                capacity[node, 1] = np.int64(np.rint(scale * weight_rows[row, col] / top**2))


@kernel
def _costs_of_moving(
    up: bool, labels: Any, blocks: Any, slope: Any, steps: Any, capacity: Any, offsets: Any, cost: Any
) -> bool:
    """Write what it costs each block to move one label up (else down), its cut borders apart; return whether any may."""
    top = len(steps)
    sign = 1 if up else -1
    cost[:] = 0
    for node in blocks:
        label = labels[node]
        if label == (top if up else 0):
            cost[node] += _FORCED
        else:
            cost[node] += sign * (slope[node] + steps[label if up else label - 1])
        for axis in range(2):
            # (d + 1)^2 - d^2 = 1 + 2 d: the 1 is the cut's capacity, the rest each block's own.
            other = node + offsets[2 * axis]
            tension = 2 * sign * (label - labels[other]) * capacity[node, axis]
            cost[node] += tension
            cost[other] -= tension
    for node in blocks:  # noqa: SIM110  (Numba compiles no generator expressions)
        if cost[node] < 0 or (cost[node] == 0 and not up):
            return True
    return False


@kernel
def _move(
    up: bool, labels: Any, blocks: Any, cost: Any, capacity: Any, residual: Any, offsets: Any, shape: Any, scratch: Any,
    absorb: Any,
) -> None:  # fmt: skip
    """Move the best set of blocks one label up (the smallest such set) or down (the largest)."""
    for node in blocks:
        for axis in range(2):
            if capacity[node, axis] > 0:
                residual[node, 2 * axis] = capacity[node, axis]
                residual[node + offsets[2 * axis], 2 * axis + 1] = capacity[node, axis]
        # The flow finds a largest set. Upwards that is the set that stays, downwards the set that moves.
        if not up:
            cost[node] = -cost[node]
    sweep_lines(cost, residual, shape[0], shape[1], absorb)
    height = max_source_side(cost, residual, offsets, scratch)
    for node in blocks:
        chosen = height[node] == UNREACHABLE
        if up and not chosen:
            labels[node] += 1
        elif chosen and not up:
            labels[node] -= 1


@kernel
def minimize_labels(
    difference: Any, weight_rows: Any, weight_cols: Any, priors: Any, labels_out: Any, start: int, stop: int
) -> None:
    """Write the labels that minimise the energy of the samples ``start:stop``.

    Args:
        difference: (B, rows, cols) float, cost of showing the first image less that of showing the second.
        weight_rows: (B, rows - 1, cols) float >= 0, smoothness weight between blocks (i, j) and (i + 1, j).
        weight_cols: (B, rows, cols - 1) float >= 0, between blocks (i, j) and (i, j + 1).
        priors: (B, L) float, convex in the label, label k showing the share k / (L - 1) of the first image.
        labels_out: (B, rows, cols) integer, written.
        start: First sample to solve.
        stop: One past the last sample to solve.
    """
    rows, cols = difference.shape[1:]
    top = priors.shape[1] - 1
    stride = cols + 2
    nodes = (rows + 2) * stride
    offsets = np.array([1, -1, stride, -stride])
    blocks = np.array([(row + 1) * stride + col + 1 for row in range(rows) for col in range(cols)])
    slope, cost, labels = np.zeros(nodes, np.int64), np.zeros(nodes, np.int64), np.zeros(nodes, np.int64)
    capacity, residual = np.zeros((nodes, 2), np.int64), np.zeros((nodes, 4), np.int64)
    scratch, steps = np.zeros((5, nodes), np.int32), np.zeros(top, np.int64)
    absorb = np.zeros(max(rows, cols), np.int64)
    middle = top // 2
    for sample in range(start, stop):
        _to_integers(
            difference[sample], weight_rows[sample], weight_cols[sample], priors[sample], slope, capacity, steps
        )
        labels[:] = middle
        for cut in range(top):
            up = cut < top - middle
            if _costs_of_moving(up, labels, blocks, slope, steps, capacity, offsets, cost):
                _move(up, labels, blocks, cost, capacity, residual, offsets, (rows, cols), scratch, absorb)
        for index in range(rows * cols):
            labels_out[sample, index // cols, index % cols] = labels[blocks[index]]
