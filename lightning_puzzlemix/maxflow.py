"""Minimum cuts on a small grid, compiled by Numba.

Flow: Goldberg and Tarjan, "A new approach to the maximum-flow problem" (J. ACM 1988), with the exact height initialisation,
periodic global relabelling and gap heuristic of Cherkassky and Goldberg, "On implementing the push-relabel method for the
maximum flow problem" (Algorithmica 1997). Only the first phase is run: a maximum preflow already decides the cut.

Nodes are the blocks in row-major order inside a frame of one unused node on each side, so that every block has four
neighbours at fixed offsets and the frame's zero capacities stop every walk. ``excess`` is what flows in from the source;
where it is negative the node still has that much capacity to the sink (a deficit).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lightning_puzzlemix.jit import kernel

UNREACHABLE = np.int32(1 << 30)
# A global relabelling costs one pass over the grid; measured best at a third as many relabellings as there are nodes.
_RELABELLINGS_PER_NODE = 0.3


@kernel
def _exact_heights(excess: Any, residual: Any, offsets: Any, height: Any, queue: Any, count: Any) -> None:
    """Set each node's height to its distance to the nearest deficit in the residual graph (breadth-first search)."""
    height[:] = UNREACHABLE
    count[:] = 0
    tail = 0
    for node in range(len(excess)):
        if excess[node] < 0:
            height[node] = 0
            queue[tail] = node
            tail += 1
    count[0] = tail
    head = 0
    while head < tail:
        node = queue[head]
        head += 1
        above = height[node] + 1
        for direction in range(4):
            neighbour = node + offsets[direction]
            if residual[neighbour, direction ^ 1] > 0 and height[neighbour] == UNREACHABLE:
                height[neighbour] = above
                count[above] += 1
                queue[tail] = neighbour
                tail += 1


@kernel
def _push(node: int, excess: Any, residual: Any, offsets: Any, height: Any, queue: Any, waiting: Any, tail: int) -> Any:
    """Push a node's excess to all neighbours one step lower; return (excess left, lowest other neighbour, queue's end)."""
    left, below, lowest = excess[node], height[node] - 1, UNREACHABLE
    for direction in range(4):
        capacity = residual[node, direction]
        if capacity == 0:
            continue
        neighbour = node + offsets[direction]
        if height[neighbour] != below:
            lowest = min(lowest, height[neighbour])
            continue
        amount = min(left, capacity)
        residual[node, direction] = capacity - amount
        residual[neighbour, direction ^ 1] += amount
        excess[neighbour] += amount
        if excess[neighbour] > 0 and not waiting[neighbour]:
            waiting[neighbour] = 1
            queue[tail] = neighbour
            tail = tail + 1 if tail + 1 < len(queue) else 0
        left -= amount
        if left == 0:
            break
    excess[node] = left
    return left, lowest, tail


@kernel
def _lift(node: int, target: int, height: Any, count: Any) -> None:
    """Raise a node to ``target``; where that leaves a gap in the heights, everything above the gap is unreachable."""
    old = height[node]
    count[old] -= 1
    height[node] = target
    if count[old] == 0:
        for other in range(len(height)):
            if old < height[other] < UNREACHABLE:
                if other != node:
                    count[height[other]] -= 1
                height[other] = UNREACHABLE
    elif target != UNREACHABLE:
        count[target] += 1


@kernel
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


@kernel
def sweep_lines(excess: Any, residual: Any, rows: int, cols: int, absorb: Any) -> None:
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


@kernel
def max_source_side(excess: Any, residual: Any, offsets: Any, scratch: Any) -> Any:
    """Find the largest set S that minimises ``cut(S) - sum of excess over S``.

    Args:
        excess: (nodes,) int64, how much a node wants to be in S (negative: out of it); changed.
        residual: (nodes, 4) int64 capacities of the arcs to the right, left, lower and upper neighbour; changed.
        offsets: (4,) int64, where those neighbours lie.
        scratch: (5, nodes) int32.

    Returns:
        (nodes,) int32, a view of ``scratch``: ``UNREACHABLE`` for the blocks in S, less elsewhere.
    """
    height, queue, waiting, count, others = scratch[0], scratch[1], scratch[2], scratch[3], scratch[4]
    nodes = len(excess)
    _exact_heights(excess, residual, offsets, height, others, count)
    waiting[:] = 0
    head, tail, relabellings = 0, 0, 0
    for node in range(nodes):
        if excess[node] > 0 and height[node] != UNREACHABLE:
            queue[tail] = node
            waiting[node] = 1
            tail += 1
    while head != tail:
        node = queue[head]
        head = head + 1 if head + 1 < nodes else 0
        waiting[node] = 0
        while height[node] != UNREACHABLE:
            left, lowest, tail = _push(node, excess, residual, offsets, height, queue, waiting, tail)
            if left == 0:
                break
            _lift(node, lowest + 1 if lowest != UNREACHABLE else lowest, height, count)
            relabellings += 1
            if relabellings > _RELABELLINGS_PER_NODE * nodes:
                _exact_heights(excess, residual, offsets, height, others, count)
                relabellings = 0
    # The heights that are left are lower bounds only; who can still reach a deficit is what decides the cut.
    _exact_heights(excess, residual, offsets, height, others, count)
    return height
