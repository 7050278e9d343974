"""Scenes of any size in tiles: points are sorted by ground cell on disk, one tile is in memory.

Only cells that contain points exist, so a stray point far away costs a single cell. A cell is
slightly wider than a block, so all blocks that contain a point of a cell lie within the cell and
its eight neighbors.

Vocabulary: C occupied cells, whose two indices on the ground form one complex number; n points in a
piece; m points in a tile and the cells around it.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dapt.data.streams import Stream, Told
from dapt.errors import reading
from dapt.files import writing

WIDER = 1 + 2**-10  # cell to block, so that rounding reaches no further than a neighbor
MOST_CELLS = 2**18  # beyond this, the side of a cell is doubled
AROUND = [x + 1j * y for x in (-1, 0, 1) for y in (-1, 0, 1) if (x, y) != (0, 0)]


class Region(NamedTuple):
    """The points of a tile and of the cells around it, in the order of the file.

    Args:
        index: The numbers of the points in the file, int64 [m].
        points: Coordinates and channels, float64 [m, D].
        own: Whether a point belongs to the tile, bool [m].
    """

    index: np.ndarray
    points: np.ndarray
    own: np.ndarray


class Cells:
    """The occupied cells of a scene, counted piece by piece.

    Args:
        block: The side of the square blocks that the network reads.
        ground: The two horizontal axes.
    """

    def __init__(self, block: float, ground: list[int]):
        self.side, self.ground = block * WIDER, ground
        self.keys, self.counts = np.empty(0, np.complex128), np.empty(0, np.int64)

    def key(self, places: np.ndarray) -> np.ndarray:  # [n, 3] -> complex [n]
        """The cell of each point.

        Args:
            places: [n, 3].
        """
        one, other = (np.floor(places[:, axis] / self.side) for axis in self.ground)
        return one + 1j * other

    def look(self, places: np.ndarray) -> None:
        """Count the points of a piece.

        Args:
            places: [n, 3].
        """
        keys, counts = np.unique(self.key(places), return_counts=True)
        self._add(np.concatenate([self.keys, keys]), np.concatenate([self.counts, counts]))
        while len(self.keys) > MOST_CELLS:
            self.side *= 2
            self._add(_halved(self.keys), self.counts)

    def _add(self, keys: np.ndarray, counts: np.ndarray) -> None:
        self.keys, cell = np.unique(keys, return_inverse=True)
        self.counts = np.bincount(cell.ravel(), counts, len(self.keys)).astype(np.int64)

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Find the numbers of cells among the occupied ones; -1 for empty cells.

        Args:
            keys: Complex keys of any shape.
        """
        at = np.searchsorted(self.keys, keys).clip(max=len(self.keys) - 1)
        return np.where(self.keys[at] == keys, at, -1)

    def tiles(self, most: int) -> list[np.ndarray]:
        """The numbers of the cells in each tile: squares of up to `most` points, or one cell.

        Args:
            most: The largest number of points per tile.
        """
        origin = self.keys.real.min() + 1j * self.keys.imag.min()
        keys = self.keys - origin
        span = max(keys.real.max(), keys.imag.max())
        return list(self._split(keys, np.arange(len(keys)), int(np.ceil(np.log2(span + 2))), most))

    def _split(
        self, keys: np.ndarray, cells: np.ndarray, level: int, most: int
    ) -> Iterator[np.ndarray]:
        """Yield a square of cells as a whole, or split into its four quarters."""
        if level == 0 or len(cells) == 1 or self.counts[cells].sum() <= most:
            yield cells
            return
        width = 2.0 ** (level - 1)
        scaled = keys[cells] / width
        quarters = np.floor(scaled.real) + 1j * np.floor(scaled.imag)
        for quarter in np.unique(quarters):
            yield from self._split(keys, cells[quarters == quarter], level - 1, most)

    def around(self, cells: np.ndarray) -> np.ndarray:
        """The numbers of the occupied cells that touch these, without these.

        Args:
            cells: The numbers of cells.
        """
        near = self.find((self.keys[cells][:, None] + AROUND).ravel())
        return np.setdiff1d(near[near >= 0], cells)


def _halved(keys: np.ndarray) -> np.ndarray:
    return np.floor(keys.real / 2) + 1j * np.floor(keys.imag / 2)


@dataclass(frozen=True)
class Plan:
    """The division of a scene into tiles.

    Args:
        cells: The occupied cells.
        tiles: The numbers of the cells in each tile.
        first: The position of each cell's first point when points are sorted by tile and cell [C].
    """

    cells: Cells
    tiles: list[np.ndarray]
    first: np.ndarray

    @classmethod
    def of(cls, cells: Cells, most: int) -> "Plan":
        """Divide cells into tiles.

        Args:
            cells: The occupied cells.
            most: The largest number of points per tile; a single cell may have more.
        """
        tiles = cells.tiles(most)
        order = np.concatenate(tiles)
        counts = cells.counts[order]
        first = np.empty(len(order), np.int64)
        first[order] = np.cumsum(counts) - counts
        return cls(cells, tiles, first)

    def count(self, tile: int) -> int:
        """The number of points in a tile.

        Args:
            tile: The number of the tile.
        """
        return int(self.cells.counts[self.tiles[tile]].sum())


class Spill:
    """Points on disk, sorted by tile and cell, and in the order of the file within a cell.

    Args:
        path: The file.
        plan: The tiles of the scene.
        told: What the network reads besides coordinates.
    """

    def __init__(self, path: Path, plan: Plan, told: Told):
        self.path, self.plan, self._told = path, plan, told
        fields = [("index", "<i8"), ("place", "<f8", 3), ("beside", "<f4", (told.width,))]
        self._dtype = np.dtype(fields)

    def fill(self, stream: Stream) -> None:
        """Sort all points of a file on disk, one piece at a time.

        Args:
            stream: The file.
        """
        cursor = self.plan.first.copy()
        with writing(self.path), open(self.path, "wb") as file:
            for piece in stream.pieces(self._told.names):
                cell = self.plan.cells.find(self.plan.cells.key(piece.places))
                order = np.argsort(cell, kind="stable")
                records = np.empty(len(order), self._dtype)
                records["index"] = piece.start + order
                records["place"] = piece.places[order]
                records["beside"] = self._told.of(piece)[order]
                cells, begin, counts = np.unique(cell[order], return_index=True, return_counts=True)
                for each, start, count in zip(cells, begin, counts, strict=True):
                    at = int(cursor[each]) * self._dtype.itemsize
                    os.pwrite(file.fileno(), records[start : start + count].tobytes(), at)
                cursor[cells] += counts
            os.fsync(file.fileno())

    def read(self, tile: int) -> Region:
        """Read a tile and the cells around it.

        Args:
            tile: The number of the tile.
        """
        own = self.plan.tiles[tile]
        around = self.plan.cells.around(own)
        with reading(self.path), open(self.path, "rb", buffering=0) as file:
            parts = [self._cells(file, own), self._cells(file, around)]
        records = np.concatenate(parts)
        order = np.argsort(records["index"], kind="stable")
        is_own = np.arange(len(records)) < len(parts[0])
        records, is_own = records[order], is_own[order]
        points = np.concatenate([records["place"], records["beside"]], 1)
        return Region(records["index"], points, is_own)

    def _cells(self, file, cells: np.ndarray) -> np.ndarray:
        """Read the records of some cells; consecutive cells are read at once."""
        if len(cells) == 0:
            return np.empty(0, self._dtype)
        first, counts = self.plan.first[cells], self.plan.cells.counts[cells]
        order = np.argsort(first)
        first, end = first[order], (first + counts)[order]
        breaks = np.flatnonzero(first[1:] != end[:-1]) + 1
        parts = []
        for begin, after in zip([0, *breaks], [*breaks, len(first)], strict=True):
            file.seek(int(first[begin]) * self._dtype.itemsize)
            parts.append(np.fromfile(file, self._dtype, int(end[after - 1] - first[begin])))
        return np.concatenate(parts)


class InMemory:
    """The only tile of a small scene, read as a whole.

    Args:
        stream: The file.
        told: What the network reads besides coordinates.
    """

    def __init__(self, stream: Stream, told: Told):
        self._stream, self._told = stream, told

    def read(self, tile: int) -> Region:
        """Read all points.

        Args:
            tile: The number of the tile, which is 0.
        """
        pieces = [
            np.concatenate([piece.places, self._told.of(piece)], 1)
            for piece in self._stream.pieces(self._told.names)
        ]
        points = np.concatenate(pieces)
        return Region(np.arange(len(points)), points, np.ones(len(points), bool))
