"""Cells of points in a grid, distinct cells, and the neighbors of cells."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dapt_ext._library import check_tensors, ops, register_fake


class Cells(NamedTuple):
    """The occupied cells of a batch of clouds, one cloud after another.

    Args:
        cells: int64 [M, 3], counted from the minimum corner of each cloud.
        scenes: int64 [M], the cloud of each cell, ascending.
        first: int64 [M], the first point in each cell, as a row of the flattened [B * N] points.
        inverse: int64 [B, N], the cell of each point; -1 past a cloud's length.
        counts: int64 [M], the number of points in each cell.
    """

    cells: Tensor
    scenes: Tensor
    first: Tensor
    inverse: Tensor
    counts: Tensor


def grid_sample(points: Tensor, size: float, lengths: Tensor | None = None) -> Cells:
    """Assign points to the cells of a grid; cells come in order of their first points.

    A point's cell is the floor of (p - corner) / size, where the corner is the cloud's minimum
    along each axis; it is computed in float64 from float32 points.

    Args:
        points: [B, N, 3], any floating dtype and strides.
        size: The side of a cell. A cloud may have up to 65,536 cells along each axis.
        lengths: int64 [B]; points past a cloud's length have no cell.

    Returns:
        `Cells`. Their number depends on the data, so on CUDA the call waits for the device.
    """
    check_tensors(points=points, lengths=lengths)
    cells = ops.grid_cells(points, size, lengths)
    B, N, _ = cells.shape
    scenes = torch.arange(B, device=cells.device)[:, None].expand(B, N).flatten()
    cells = cells.flatten(0, 1)
    first, inverse, counts = unique_cells(cells, scenes)
    return Cells(cells[first], scenes[first], first, inverse.view(B, N), counts)


@register_fake("dapt::grid_cells")
def _(points, size, lengths=None):
    return points.new_empty(points.shape, dtype=torch.long)


def unique_cells(cells: Tensor, scenes: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Find the distinct cells of all scenes, in order of first occurrence.

    Args:
        cells: int64 [N, 3], with coordinates from 0 to 65,535; -1 means no cell.
        scenes: int64 [N], from 0 to 32,767; without it, all cells belong to one scene.

    Returns:
        first [M], the first occurrence of each distinct cell; inverse [N], the number of each cell,
        or -1; counts [M], how often each occurs. On CUDA the call waits for the device to learn M.
    """
    check_tensors(cells=cells, scenes=scenes)
    first, inverse, counts, total = ops.unique_cells(cells, scenes)
    count = int(total)
    return first[:count], inverse, counts[:count]


@register_fake("dapt::unique_cells")
def _(cells, scenes=None):
    N = len(cells)
    return cells.new_empty(N), cells.new_empty(N), cells.new_empty(N), cells.new_empty(1)


def neighbor_map(cells: Tensor, scenes: Tensor | None = None) -> Tensor:
    """Find the cells around each cell, for `submanifold_conv`.

    Args:
        cells: int64 [M, 3], with coordinates from 0 to 65,535.
        scenes: int64 [M], from 0 to 32,767; without it, all cells belong to one scene.

    Returns:
        int64 [M, 27]: column 9 (a + 1) + 3 (b + 1) + (c + 1) is the row of the cell at offset
        (a, b, c) in the same scene (the first of equal cells), or -1 if there is none.
    """
    check_tensors(cells=cells, scenes=scenes)
    return ops.neighbor_map(cells, scenes)


@register_fake("dapt::neighbor_map")
def _(cells, scenes=None):
    return cells.new_empty(len(cells), 27)
