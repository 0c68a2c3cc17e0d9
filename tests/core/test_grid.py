"""Cutting into blocks against plain loops over the documented borders."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import borders, cell_borders, pool_loops

from lightning_puzzlemix.core.grid import Axis, Grid, expand, from_blocks, pool, to_blocks

CUTS = [
    (8, 8, 2, None),
    (32, 32, 4, 4),
    (9, 12, 3, 2),
    (7, 5, 2, None),
    (13, 10, 4, 2),
    (28, 33, 8, 1),
    (17, 17, 16, 4),
]


def edges_of(height: int, width: int, n: int, cell: int | None) -> tuple[list[int], list[int]]:
    """Return the borders as documented: a block holds as many whole cells as fit, at least one."""
    return tuple(  # type: ignore[return-value]
        cell_borders(size, n, 1 if cell is None else max(1, (size // n) // cell)) for size in (height, width)
    )


@pytest.mark.parametrize("cut", CUTS)
def test_borders(cut: tuple[int, int, int, int | None]) -> None:
    height, width, n, cell = cut
    grid = Grid.of(height, width, n, cell)
    rows, cols = edges_of(*cut)
    assert grid.rows.edges(torch.device("cpu")).tolist() == rows
    assert grid.cols.edges(torch.device("cpu")).tolist() == cols
    assert grid.shape == (len(rows) - 1, len(cols) - 1)


@given(size=st.integers(1, 70), data=st.data())
def test_cells_are_never_empty_and_never_straddle_a_block(size: int, data: st.DataObject) -> None:
    blocks = data.draw(st.integers(1, size))
    cells = data.draw(st.integers(1, size // blocks))
    axis = Axis(size, blocks, cells)
    edges = axis.edges(torch.device("cpu")).tolist()
    assert set(borders(size, blocks)) <= set(edges)
    assert edges[0] == 0
    assert edges[-1] == size
    lengths = np.diff(edges)
    assert lengths.min() >= 1
    assert lengths.max() == axis.longest
    assert axis.uniform == (lengths.min() == lengths.max())
    cell = axis.cell_of_pixel(torch.device("cpu")).tolist()
    assert cell == [i for i, length in enumerate(lengths) for _ in range(length)]


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_pool(cut: tuple[int, int, int, int | None], channels: int) -> None:
    maps = torch.rand(2, channels, *cut[:2])
    pooled = pool(maps, Grid.of(*cut))
    np.testing.assert_allclose(pooled.numpy(), pool_loops(maps.numpy(), *edges_of(*cut)), rtol=1e-5)
    np.testing.assert_allclose(pool(maps[:, 0], Grid.of(*cut)).numpy(), pooled[:, 0].numpy(), rtol=1e-6)


@pytest.mark.parametrize("cut", CUTS)
def test_expand(cut: tuple[int, int, int, int | None]) -> None:
    rows, cols = edges_of(*cut)
    maps = torch.rand(2, len(rows) - 1, len(cols) - 1)
    full = expand(maps, Grid.of(*cut))
    assert full.shape == (2, *cut[:2])
    for i, j in np.ndindex(*maps.shape[1:]):
        block = full[:, rows[i] : rows[i + 1], cols[j] : cols[j + 1]]
        assert (block == maps[:, i, j, None, None]).all()


@pytest.mark.parametrize("cut", CUTS)
def test_pool_undoes_expand(cut: tuple[int, int, int, int | None]) -> None:
    grid = Grid.of(*cut)
    maps = torch.rand(3, *grid.shape)
    torch.testing.assert_close(pool(expand(maps, grid), grid), maps)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("channels", range(1, 6))
def test_to_blocks_and_back(cut: tuple[int, int, int, int | None], channels: int) -> None:
    images = torch.rand(2, channels, *cut[:2])
    grid = Grid.of(*cut)
    blocks = to_blocks(images, grid)
    assert torch.equal(from_blocks(blocks, grid, channels), images)
    rows, cols = edges_of(*cut)
    high, wide = grid.rows.longest, grid.cols.longest
    cut_up = blocks.view(2, len(rows) - 1, len(cols) - 1, channels, high, wide)
    for i, j in np.ndindex(len(rows) - 1, len(cols) - 1):
        block = images[:, :, rows[i] : rows[i + 1], cols[j] : cols[j + 1]]
        assert torch.equal(cut_up[:, i, j, :, : block.shape[2], : block.shape[3]], block)
        # A smaller block repeats its last row and column.
        assert torch.equal(cut_up[:, i, j, :, -1, -1], block[:, :, -1, -1])


def test_channels_last_images() -> None:
    images = torch.rand(2, 3, 9, 7).contiguous(memory_format=torch.channels_last)
    grid = Grid.of(9, 7, 3)
    assert torch.equal(to_blocks(images, grid), to_blocks(images.contiguous(), grid))
    torch.testing.assert_close(pool(images, grid), pool(images.contiguous(), grid))


@pytest.mark.parametrize("cell", [1, 2, 3, 4, 100])
def test_cells_fit_into_blocks(cell: int) -> None:
    grid = Grid.of(24, 20, 4, cell)
    assert (grid.rows.cells, grid.cols.cells) == (max(1, 6 // cell), max(1, 5 // cell))
