"""Images and maps to blocks and back, for any height, width and number of channels.

Block borders: a side of S pixels that is cut into n blocks has its borders at ``floor(i * S / n)`` for i = 0..n. Where n
divides S all blocks are equal (as in the reference); elsewhere they differ by at most one pixel. A block can be cut further
into k x k cells by the same rule, inside the block, so that cells never straddle a block border.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Axis:
    """One side of an image, cut into ``blocks`` blocks of ``cells`` cells each.

    Attributes:
        size: Length in pixels.
        blocks: Blocks along the side.
        cells: Cells along each block; 1 leaves the blocks whole.
    """

    size: int
    blocks: int
    cells: int = 1

    @property
    def parts(self) -> int:
        """Cells along the whole side."""
        return self.blocks * self.cells

    @property
    def uniform(self) -> bool:
        """Whether all cells have the same length."""
        return self.size % self.parts == 0

    @property
    def longest(self) -> int:
        """Length in pixels of the longest cell."""
        longest_block = -(-self.size // self.blocks)
        return -(-longest_block // self.cells)

    def edges(self, device: torch.device) -> Tensor:
        """Return the ``parts + 1`` borders of the cells in pixels, as integers, computed on the device itself."""
        blocks = torch.arange(self.blocks + 1, device=device) * self.size // self.blocks
        start, length = blocks[:-1, None], (blocks[1:] - blocks[:-1])[:, None]
        inner = start + torch.arange(self.cells, device=device) * length // self.cells
        return torch.cat([inner.reshape(-1), blocks[-1:]])

    def cell_of_pixel(self, device: torch.device) -> Tensor:
        """Return the (size,) index of the cell that each pixel lies in."""
        pixels = torch.arange(self.size, device=device)
        if self.uniform:
            return pixels // self.longest
        return torch.bucketize(pixels, self.edges(device), right=True) - 1

    def pixels_of_cell(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return (parts, longest) pixel indices and whether each is real; a shorter cell repeats its last pixel."""
        edges = self.edges(device)
        indices = edges[:-1, None] + torch.arange(self.longest, device=device)
        last = edges[1:, None] - 1
        return torch.minimum(indices, last), indices <= last


@dataclass(frozen=True)
class Grid:
    """How an image is cut: ``rows`` along its height, ``cols`` along its width."""

    rows: Axis
    cols: Axis

    @classmethod
    def of(cls, height: int, width: int, blocks_per_side: int, cell_size: int | None = None) -> Grid:
        """Cut (height, width) into n x n blocks and each block into cells of about ``cell_size`` pixels a side.

        Args:
            height: Image height in pixels.
            width: Image width in pixels.
            blocks_per_side: n, between 1 and the shorter side.
            cell_size: Target side of a cell in pixels; a block holds as many whole cells as fit, at least one.
                ``None`` leaves the blocks whole.
        """

        def axis(size: int) -> Axis:
            cells = 1 if cell_size is None else max(1, (size // blocks_per_side) // cell_size)
            return Axis(size, blocks_per_side, cells)

        return cls(axis(height), axis(width))

    @property
    def shape(self) -> tuple[int, int]:
        """Cells along the height and along the width."""
        return self.rows.parts, self.cols.parts

    @property
    def uniform(self) -> bool:
        """Whether all cells have the same shape."""
        return self.rows.uniform and self.cols.uniform


def pool(maps: Tensor, grid: Grid) -> Tensor:
    """Average (..., H, W) over each cell of the grid to (..., rows, cols)."""
    if grid.uniform:
        kernel = (grid.rows.longest, grid.cols.longest)
        if kernel == (1, 1):
            return maps
        leading = maps.shape[:-2]
        return F.avg_pool2d(maps.reshape(-1, 1, *maps.shape[-2:]), kernel).reshape(*leading, *grid.shape)
    # Gathering each cell with zero weights for the missing pixels keeps the sums in full precision and deterministic,
    # which a matrix product (TF32) or a scatter (atomic additions) would not.
    return _pool_last(_pool_last(maps.transpose(-1, -2), grid.rows).transpose(-1, -2), grid.cols)


def _pool_last(maps: Tensor, axis: Axis) -> Tensor:
    pixels, real = axis.pixels_of_cell(maps.device)
    weights = real.to(maps.dtype) / real.sum(1, keepdim=True).to(maps.dtype)
    cells = maps.index_select(-1, pixels.reshape(-1)).unflatten(-1, pixels.shape)
    return (cells * weights).sum(-1)


def expand(maps: Tensor, grid: Grid) -> Tensor:
    """Repeat (..., rows, cols) so that every pixel of (..., H, W) holds the value of its cell."""
    rows = grid.rows.cell_of_pixel(maps.device)
    cols = grid.cols.cell_of_pixel(maps.device)
    return maps.index_select(-2, rows).index_select(-1, cols)


def pixel_share(mask: Tensor, grid: Grid) -> Tensor:
    """Return the (B,) mean over all pixels of a mask (B, rows, cols), whose cells may differ in size."""
    if grid.uniform:
        return mask.mean((1, 2))
    rows, cols = (axis.edges(mask.device).diff() for axis in (grid.rows, grid.cols))
    # Whole pixels, so that the mask of a single image has exactly the share 1.
    return (mask * (rows[:, None] * cols)).sum((1, 2)) / (grid.rows.size * grid.cols.size)


def to_blocks(images: Tensor, grid: Grid) -> Tensor:
    """Cut (B, C, H, W) into (B, rows * cols, C * h * w); a smaller cell repeats its last row or column up to h x w."""
    batch, channels = images.shape[:2]
    if not grid.uniform:
        rows, _ = grid.rows.pixels_of_cell(images.device)
        cols, _ = grid.cols.pixels_of_cell(images.device)
        images = images.index_select(2, rows.reshape(-1)).index_select(3, cols.reshape(-1))
    height, width = grid.rows.longest, grid.cols.longest
    cut = images.reshape(batch, channels, grid.rows.parts, height, grid.cols.parts, width)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(batch, grid.rows.parts * grid.cols.parts, channels * height * width)


def from_blocks(blocks: Tensor, grid: Grid, channels: int) -> Tensor:
    """Put (B, rows * cols, C * h * w) back together to (B, C, H, W); the inverse of :func:`to_blocks`."""
    height, width = grid.rows.longest, grid.cols.longest
    cut = blocks.reshape(len(blocks), grid.rows.parts, grid.cols.parts, channels, height, width)
    images = cut.permute(0, 3, 1, 4, 2, 5).reshape(
        len(blocks), channels, grid.rows.parts * height, grid.cols.parts * width
    )
    if grid.uniform:
        return images
    return images.index_select(2, _kept(grid.rows, images.device)).index_select(3, _kept(grid.cols, images.device))


def _kept(axis: Axis, device: torch.device) -> Tensor:
    """Return where each pixel of the side lies among the padded cells (no boolean mask: its size would need a sync)."""
    cell = axis.cell_of_pixel(device)
    return cell * axis.longest + torch.arange(axis.size, device=device) - axis.edges(device)[cell]
