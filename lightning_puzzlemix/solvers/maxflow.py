"""The exact minimum of the mask energy: steepest descent over minimum cuts on a small grid, compiled by Numba.

**Descent.** The energy of the labels k = (L-1) * mask is, up to a constant,
``sum_p [k_p / (L-1) * difference_p + prior(k_p)] + sum_pq weight_pq * ((k_p - k_q) / (L-1))**2``.
It is L-natural-convex for a convex prior and weights >= 0. Therefore it is minimal as soon as no set of blocks gains by
moving one label up together, nor one label down together (Murota, "Discrete Convex Analysis", 2003, chapter 10; Kolmogorov
and Shioura, "New algorithms for convex cost tension problem", Discrete Optimization 2009), and the best such set is a
minimum cut with capacities weight / (L-1)**2.

Canonical minimizer: the minimizers form a lattice, and the smallest of them is taken (of several optimal masks the one that
shows least of the first image). The descent starts at the middle label s, moves the smallest best set up until none gains,
then the largest best set down until every set would lose. The first phase ends in the smallest minimizer among labels >= s,
the second in the smallest of all, after at most L-1-s and s cuts.

**Flow.** A preflow that is pushed in waves. Each wave labels every node with its exact distance to the nearest deficit (the
global relabeling of Cherkassky and Goldberg, "On implementing the push-relabel method for the maximum flow problem",
Algorithmica 1997) and then visits the nodes once, from the farthest to the nearest, each pushing its excess one step nearer
(the order of Tarjan, "A simple version of Karzanov's blocking flow algorithm", Operations Research Letters 1984; the pushes of
Goldberg and Tarjan, "A new approach to the maximum-flow problem", J. ACM 1988). A node that keeps excess has saturated all its
arcs to the level below, so that its distance grows with the next wave; after finitely many waves no excess reaches a deficit
any more. That maximum preflow already decides the cut. On 16 x 16 blocks this took less than half the time of push-relabel
with a queue, gap heuristic and periodic relabeling.

Nodes are the blocks in row-major order inside a frame of one unused node on each side, so that every block has four
neighbors at fixed offsets and the frame's zero capacities stop every walk. ``excess`` is what flows in from the source;
where it is negative the node still has that much capacity to the sink (a deficit).

Everything is in one file because Numba's cache is renewed only when this file changes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lightning_puzzlemix.solvers.numba_runtime import inlined, kernel

_UNREACHABLE = np.int32(1 << 30)
# What bounds the terms of one energy, times (L-1)**2, once scaled to integers. The bound counts every term as the largest of
# its kind: some 2**6 times too much on 16 x 16 blocks, so that the integers are still far finer than the 24 bits of float32
# (rounding changes no energy of the paper's three labels by more than one part in 10**10), and far below 2**60, so that no sum
# overflows. Maxima and not sums, because those do not depend on an order: on a device the integers are the same.
_INTEGER_RANGE = float(1 << 52)
# Keeps a block that has no label left to move to where it is; above every sum of real terms.
_FORCED = np.int64(1 << 60)


@inlined
def _label_distances(excess: Any, residual: Any, offsets: Any, distance: Any, order: Any) -> int:
    """Write each node's distance to the nearest deficit in the residual graph; return how many reach one.

    ``order`` lists those nodes, nearest first (it is the queue of the breadth-first search).
    """
    distance[:] = _UNREACHABLE
    tail = 0
    for node in range(len(excess)):
        if excess[node] < 0:
            distance[node] = 0
            order[tail] = node
            tail += 1
    head = 0
    while head < tail:
        node = order[head]
        head += 1
        farther = distance[node] + 1
        for direction in range(4):
            neighbor = node + offsets[direction]
            if residual[neighbor, direction ^ 1] > 0 and distance[neighbor] == _UNREACHABLE:
                distance[neighbor] = farther
                order[tail] = neighbor
                tail += 1
    return tail


@inlined
def _sweep_line(excess: Any, residual: Any, direction: int, first: int, step: int, length: int, absorb: Any) -> None:
    """Push excess along one line of blocks as far as the deficits further down the same line can take it."""
    absorb[length - 1] = 0
    node = first + (length - 1) * step
    for index in range(length - 1, 0, -1):
        # What the blocks from this one on can take, as far as the arc into this one lets it through.
        takes = absorb[index] + max(-excess[node], 0)
        node -= step
        absorb[index - 1] = min(takes, residual[node, direction])
    for index in range(length - 1):
        if excess[node] > 0 and absorb[index] > 0:
            amount = min(excess[node], absorb[index])
            excess[node] -= amount
            excess[node + step] += amount
            residual[node, direction] -= amount
            residual[node + step, direction ^ 1] += amount
        node += step


@inlined
def _sweep_lines(excess: Any, residual: Any, rows: int, cols: int, absorb: Any) -> None:
    """Cancel excess against deficits of the same row, then of the same column: a cheap and exact start for the flow.

    Args:
        excess: (nodes,) int64; changed.
        residual: (nodes, 4) int64; changed.
        rows: Blocks along the height, without the frame.
        cols: Blocks along the width, without the frame.
        absorb: (max(rows, cols),) int64 scratch.
    """
    stride = cols + 2
    for row in range(1, rows + 1):
        _sweep_line(excess, residual, 0, row * stride + 1, 1, cols, absorb)
        _sweep_line(excess, residual, 1, row * stride + cols, -1, cols, absorb)
    for col in range(1, cols + 1):
        _sweep_line(excess, residual, 2, stride + col, stride, rows, absorb)
        _sweep_line(excess, residual, 3, rows * stride + col, -stride, rows, absorb)


@inlined
def _max_source_side(excess: Any, residual: Any, offsets: Any, scratch: Any) -> Any:
    """Find the largest set S that minimizes ``cut(S) - sum of excess over S``.

    Args:
        excess: (nodes,) int64, what a node gains by being in S (negative: loses); changed.
        residual: (nodes, 4) int64 capacities of the arcs to the right, left, lower and upper neighbor; changed.
        offsets: (4,) int64, where those neighbors lie.
        scratch: (2, nodes) int32.

    Returns:
        (nodes,) int32, a view of ``scratch``: ``_UNREACHABLE`` for the blocks in S, less elsewhere.
    """
    distance, order = scratch[0], scratch[1]
    moving = True
    while moving:
        moving = False
        reaching = _label_distances(excess, residual, offsets, distance, order)
        for position in range(reaching - 1, -1, -1):
            node = order[position]
            left = excess[node]
            if left <= 0:
                continue
            moving = True
            nearer = distance[node] - 1
            for direction in range(4):
                capacity = residual[node, direction]
                if capacity == 0:
                    continue
                neighbor = node + offsets[direction]
                if distance[neighbor] != nearer:
                    continue
                amount = min(left, capacity)
                residual[node, direction] = capacity - amount
                residual[neighbor, direction ^ 1] += amount
                excess[neighbor] += amount
                left -= amount
                if left == 0:
                    break
            excess[node] = left
    return distance


@inlined
def _largest(values: Any) -> float:
    """Return the largest absolute value, 0.0 where there is none."""
    largest = 0.0
    for value in values.flat:
        largest = max(largest, abs(np.float64(value)))
    return largest


@inlined
def _integer_scale(difference: Any, weight_rows: Any, weight_cols: Any, prior: Any) -> float:
    """Return the factor that spreads one sample's energy over the integer range: a power of two, so that ties stay ties."""
    steps = 0.0
    for label in range(len(prior) - 1):
        steps += abs(prior[label + 1] - prior[label])
    weight = max(_largest(weight_rows), _largest(weight_cols))
    bound = difference.size * (_largest(difference) + 2.0 * weight + steps) * (len(prior) - 1) ** 2
    if bound <= 1e-250:
        return 0.0
    # Rounded down to a power of two, exactly: ratio = fraction * 2**exponent, with a fraction in [0.5, 1).
    _, exponent = math.frexp(_INTEGER_RANGE / bound)
    return math.ldexp(1.0, exponent - 1)


@inlined
def _to_integers(
    difference: Any, weight_rows: Any, weight_cols: Any, prior: Any, slope: Any, capacity: Any, steps: Any
) -> None:
    """Write one sample's energy, times (L-1)**2, as integers: slopes and the prior's steps per label, capacities."""
    rows, cols = difference.shape
    top = len(prior) - 1
    scale = _integer_scale(difference, weight_rows, weight_cols, prior)
    for label in range(top):
        steps[label] = top * top * np.int64(np.rint(scale * (prior[label + 1] - prior[label])))
    for row in range(rows):
        for col in range(cols):
            node = (row + 1) * (cols + 2) + col + 1
            slope[node] = top * np.int64(np.rint(scale * difference[row, col]))
            if col + 1 < cols:
                capacity[node, 0] = np.int64(np.rint(scale * weight_cols[row, col]))
            if row + 1 < rows:
                capacity[node, 1] = np.int64(np.rint(scale * weight_rows[row, col]))


@inlined
def _terminals(
    up: bool, labels: Any, blocks: Any, slope: Any, steps: Any, capacity: Any, offsets: Any, terminal: Any
) -> bool:
    """Write each block's capacity from the source (negative: to the sink) in this cut; return whether any block may move.

    The source side keeps the lower of the two labels of this cut: k and k + 1 upwards, k - 1 and k downwards. It is what a
    block gains by that on its own, without the borders that are cut.
    """
    top = len(steps)
    terminal[:] = 0
    for node in blocks:
        label = labels[node]
        if up and label == top:
            terminal[node] += _FORCED
        elif not up and label == 0:
            terminal[node] -= _FORCED
        else:
            terminal[node] += slope[node] + steps[label if up else label - 1]
        for axis in range(2):
            # (d + 1)^2 - d^2 = 1 + 2 d: the 1 is the cut's capacity, the rest each block's own.
            other = node + offsets[2 * axis]
            tension = 2 * (label - labels[other]) * capacity[node, axis]
            terminal[node] += tension
            terminal[other] -= tension
    for node in blocks:  # noqa: SIM110  (Numba compiles no generator expressions)
        if terminal[node] < 0 if up else terminal[node] >= 0:
            return True
    return False


@inlined
def _start_flow(blocks: Any, capacity: Any, residual: Any, offsets: Any) -> None:
    """Set the residual graph to no flow: each arc and its way back hold the full capacity."""
    for node in blocks:
        for axis in range(2):
            residual[node, 2 * axis] = capacity[node, axis]
            residual[node + offsets[2 * axis], 2 * axis + 1] = capacity[node, axis]


@kernel
def minimize_labels(
    difference: Any, weight_rows: Any, weight_cols: Any, priors: Any, labels_out: Any, start: int, stop: int
) -> None:
    """Write the labels that minimize the energy of the samples ``start:stop``.

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
    slope, terminal, labels = np.zeros(nodes, np.int64), np.zeros(nodes, np.int64), np.zeros(nodes, np.int64)
    excess, previous = np.zeros(nodes, np.int64), np.zeros(nodes, np.int64)
    capacity, residual = np.zeros((nodes, 2), np.int64), np.zeros((nodes, 4), np.int64)
    scratch, steps = np.zeros((2, nodes), np.int32), np.zeros(top, np.int64)
    absorb = np.zeros(max(rows, cols), np.int64)
    middle = top // 2
    for sample in range(start, stop):
        _to_integers(
            difference[sample], weight_rows[sample], weight_cols[sample], priors[sample], slope, capacity, steps
        )
        labels[:] = middle
        _start_flow(blocks, capacity, residual, offsets)
        excess[:], previous[:] = 0, 0
        for cut in range(top):
            up = cut < top - middle
            if not _terminals(up, labels, blocks, slope, steps, capacity, offsets, terminal):
                continue
            # The flow of one cut is a valid start for the next: only the arcs to the terminals have changed.
            excess += terminal - previous
            previous[:] = terminal
            _sweep_lines(excess, residual, rows, cols, absorb)
            distance = _max_source_side(excess, residual, offsets, scratch)
            for node in blocks:
                lower = distance[node] == _UNREACHABLE
                if up and not lower:
                    labels[node] += 1
                elif lower and not up:
                    labels[node] -= 1
        for index in range(rows * cols):
            labels_out[sample, index // cols, index % cols] = labels[blocks[index]]
