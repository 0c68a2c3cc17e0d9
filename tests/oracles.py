"""Independent answers to compare with: brute force, PyMaxflow and plain loops. Nothing here comes from the package."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise, product

import numpy as np

# A problem over labels k = 0..top: difference (rows, cols), weights (rows-1, cols) and (rows, cols-1), prior (top+1,).
Problem = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@lru_cache(maxsize=16)
def all_labels(count: int, rows: int, cols: int) -> np.ndarray:
    """List all (count ** (rows * cols), rows, cols) label grids."""
    return np.array(list(product(range(count), repeat=rows * cols)), np.int64).reshape(-1, rows, cols)


def scaled_energies(labels: np.ndarray, problem: Problem) -> np.ndarray:
    """Return (L-1)^2 times the energy (without its constant) of (N, rows, cols) labels; exact for integer problems."""
    difference, weight_rows, weight_cols, prior = problem
    top = len(prior) - 1
    total = top * (labels * difference).sum((1, 2)) + top**2 * prior[labels].sum((1, 2))
    total = total + (weight_rows * np.diff(labels, axis=1) ** 2).sum((1, 2))
    return total + (weight_cols * np.diff(labels, axis=2) ** 2).sum((1, 2))


def brute_force(problem: Problem) -> tuple[float, np.ndarray]:
    """Return the least scaled energy and all masks that reach it (exactly, where the problem is of integers)."""
    labels = all_labels(len(problem[3]), *problem[0].shape)
    energies = scaled_energies(labels, problem)
    least = energies.min()
    return least, labels[energies == least]


def energy_of(
    mask: np.ndarray, cost_first: np.ndarray, cost_second: np.ndarray, weight_rows: np.ndarray,
    weight_cols: np.ndarray, prior: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Return the (B,) float64 energies of (B, n, n) masks by the recorded formula; ``prior[i]`` is of mask 1 - i/(L-1)."""
    share = mask.astype(np.float64)
    label = np.rint((1 - share) * (len(prior) - 1)).astype(int)
    total = (share * cost_first + (1 - share) * cost_second + prior[label]).sum((1, 2))
    total += (weight_rows * (share[:, :-1] - share[:, 1:]) ** 2).sum((1, 2))
    return total + (weight_cols * (share[:, :, :-1] - share[:, :, 1:]) ** 2).sum((1, 2))


def maxflow_minimum(problem: Problem) -> float:
    """Return the least scaled energy by one cut over the indicators x_i = [k >= i], i = 1..L-1 (PyMaxflow).

    With k = sum of x_i, (a - b)^2 = sum (2i-1) x_i + sum (2j-1) y_j - 2 sum x_i y_j, and -2xy = x(1-y) + y(1-x) - x - y:
    an edge both ways between every two indicators of neighbors.
    """
    import maxflow

    difference, weight_rows, weight_cols, prior = (np.asarray(part, np.float64) for part in problem)
    rows, cols = difference.shape
    top = len(prior) - 1
    unary = np.array(
        [top * difference + top**2 * (prior[i] - prior[i - 1]) for i in range(1, top + 1)]
    )  # (top, rows, cols)
    graph = maxflow.Graph[float]()
    nodes = graph.add_grid_nodes((top, rows, cols))
    never = 10 * (np.abs(unary).sum() + top**2 * (weight_rows.sum() + weight_cols.sum()) + 1)
    pairs = [((r, c), (r + 1, c), weight_rows[r, c]) for r in range(rows - 1) for c in range(cols)]
    pairs += [((r, c), (r, c + 1), weight_cols[r, c]) for r in range(rows) for c in range(cols - 1)]
    for one, other, weight in pairs:
        for i in range(top):
            unary[(i, *one)] += weight * (2 * i + 1 - top)
            unary[(i, *other)] += weight * (2 * i + 1 - top)
            for j in range(top):
                graph.add_edge(nodes[(i, *one)], nodes[(j, *other)], weight, weight)
    for index in np.ndindex(rows, cols):
        for i in range(top):
            value = unary[(i, *index)]
            graph.add_tedge(nodes[(i, *index)], max(value, 0), max(-value, 0))
            if i + 1 < top:
                graph.add_edge(nodes[(i, *index)], nodes[(i + 1, *index)], never, 0)
    return graph.maxflow() + np.minimum(unary, 0).sum() + top**2 * rows * cols * prior[0]


def borders(size: int, blocks: int) -> list[int]:
    """Return the documented block borders floor(i * size / blocks)."""
    return [i * size // blocks for i in range(blocks + 1)]


def cell_borders(size: int, blocks: int, cells: int) -> list[int]:
    """Cut each block by the same rule, from its own start."""
    edges = borders(size, blocks)
    inner = [a + k * (b - a) // cells for a, b in pairwise(edges) for k in range(cells)]
    return [*inner, size]


def pool_loops(maps: np.ndarray, rows: list[int], cols: list[int]) -> np.ndarray:
    """Average (..., H, W) over the rectangles between borders."""
    out = np.zeros((*maps.shape[:-2], len(rows) - 1, len(cols) - 1))
    for i, j in np.ndindex(*out.shape[-2:]):
        out[..., i, j] = maps[..., rows[i] : rows[i + 1], cols[j] : cols[j + 1]].mean((-2, -1))
    return out


def _border_gap(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).mean())


def energy_terms_loops(
    pixels: np.ndarray, shares: np.ndarray, partner: list[int], n: int, cells: tuple[int, int], beta: float, gamma: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Build the energy terms of method step 4 from (B, C, H, W) pixels, block by block and border by border."""
    height, width = pixels.shape[2:]
    small = pool_loops(pixels, cell_borders(height, n, cells[0]), cell_borders(width, n, cells[1]))
    high, wide = cells
    b = beta / (16 * n)
    first, second = shares[partner].astype(np.float64), shares.astype(np.float64)
    rows, cols = np.zeros((len(pixels), n - 1, n)), np.zeros((len(pixels), n, n - 1))
    for s, mate in enumerate(partner):
        x1, x2 = small[s], small[mate]
        for i, j in np.ndindex(n, n):
            for down, right in ((1, 0), (0, 1)):
                if i + down >= n or j + right >= n:
                    continue
                if down:
                    here = np.s_[:, (i + 1) * high - 1, j * wide : (j + 1) * wide]
                    there = np.s_[:, (i + 1) * high, j * wide : (j + 1) * wide]
                else:
                    here = np.s_[:, i * high : (i + 1) * high, (j + 1) * wide - 1]
                    there = np.s_[:, i * high : (i + 1) * high, (j + 1) * wide]
                p11, p10 = _border_gap(x1[here], x1[there]), _border_gap(x1[here], x2[there])
                p01, p00 = _border_gap(x2[here], x1[there]), _border_gap(x2[here], x2[there])
                half = b * gamma / 2
                # A block that shows the first image meets a neighbor that shows either.
                first[s, i, j] += half * (p11 + p10)
                second[s, i, j] += half * (p00 + p01)
                first[s, i + down, j + right] += half * (p11 + p01)
                second[s, i + down, j + right] += half * (p00 + p10)
                (rows if down else cols)[s, i, j] = b + half * (p10 + p01 - p11 - p00)
    return first, second, rows, cols


def binomial_prior(lam: float, count: int, eta: float, n: int, margin: float = 1e-8) -> np.ndarray:
    """Return -(eta / n^2) log Binomial(L-1, k; lam) for k = 0..L-1 by scipy."""
    from scipy.stats import binom

    return -eta / n**2 * binom.logpmf(np.arange(count), count - 1, min(max(lam, margin), 1 - margin))


def transport_cost(shares: np.ndarray, visible: np.ndarray, price: float) -> np.ndarray:
    """Return the dense (count, count) float32 cost of moving block i (row) to j (column)."""
    rows, cols = shares.shape
    where = np.array(list(np.ndindex(rows, cols)))
    squared = ((where[:, None] - where[None]) ** 2).sum(-1) / max(rows - 1, cols - 1, 1) ** 2
    gain = shares.astype(np.float32).reshape(-1, 1) * visible.reshape(1, -1).astype(np.float32)
    return np.float32(price) * squared.astype(np.float32) - gain


def dense_plan(shares: np.ndarray, visible: np.ndarray, price: float) -> np.ndarray:
    """Run Algorithm 1 on the dense matrix: (count,) source of each target, -1 where none wins (black in the reference)."""
    cost = transport_cost(shares, visible, price)
    count = len(cost)
    winner = np.full(count, -1)
    for _ in range(max(shares.shape)):
        choice = cost.argmin(1)
        winner[:] = -1
        for source in range(count):
            target = choice[source]
            # The reference multiplies by the choice matrix, so that a cost of 0 is like no proposal at all.
            if cost[source, target] < 0 and (winner[target] < 0 or cost[source, target] < cost[winner[target], target]):
                winner[target] = source
        for source in range(count):
            if winner[choice[source]] != source:
                cost[source, choice[source]] += 1
    return winner
