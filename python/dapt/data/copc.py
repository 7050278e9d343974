"""Regions of a COPC file: a LAZ file with its own index, so nothing has to be sorted on disk.

https://copc.io
"""

from pathlib import Path

import numpy as np

from dapt.data.las import decoding
from dapt.data.las_stream import piece_of
from dapt.data.streams import Told
from dapt.data.tiles import Plan, Region
from dapt.errors import reading


class CopcRegions:
    """Reads tiles through the octree of the file.

    Args:
        path: The file.
        plan: The tiles of the scene.
        told: What the network reads besides coordinates.
    """

    def __init__(self, path: Path, plan: Plan, told: Told):
        import laspy
        from laspy.copc import load_octree_for_query

        self.path, self._plan, self._told = path, plan, told
        self._reader = laspy.CopcReader.open(path)
        reader = self._reader
        nodes = load_octree_for_query(reader.source, reader.copc_info, reader.root_page)
        nodes = sorted((node for node in nodes if node.point_count), key=lambda node: node.offset)
        self._nodes = nodes  # in the order of the file
        counts = [node.point_count for node in nodes]
        self._starts = np.cumsum([0, *counts])[:-1]
        self.count = sum(counts)

    @classmethod
    def of(cls, path: Path, plan: Plan, told: Told, count: int) -> "CopcRegions | None":
        """Open the regions of a file; None if it has no index of all of its points.

        Args:
            path: The file.
            plan: The tiles of the scene.
            told: What the network reads besides coordinates.
            count: The number of points in the file.
        """
        import laspy

        with reading(path), laspy.open(path) as file:
            if not any(type(table).__name__ == "CopcInfoVlr" for table in file.header.vlrs):
                return None
        try:
            with decoding():
                regions = cls(path, plan, told)
        except Exception:  # without a readable index, the points can still be read
            return None
        return regions if regions.count == count else None

    def read(self, tile: int) -> Region:
        """Read a tile and the cells around it.

        Args:
            tile: The number of the tile.
        """
        cells, own = self._plan.cells, self._plan.tiles[tile]
        wanted = np.zeros(len(cells.keys) + 1, np.int8)  # the last entry is for empty cells
        wanted[cells.around(own)], wanted[own] = 1, 2
        indices, points, is_own = [], [], []
        for node, start in self._near(np.flatnonzero(wanted[:-1])):
            piece = piece_of(start, self._decoded(node), self._told.names)
            kind = wanted[cells.find(cells.key(piece.places))]
            rows = np.flatnonzero(kind)
            columns = np.concatenate([piece.places, self._told.of(piece)], 1)
            indices.append(start + rows)
            points.append(columns[rows])
            is_own.append(kind[rows] == 2)
        return Region(*map(np.concatenate, (indices, points, is_own)))

    def _near(self, cells: np.ndarray):
        """(node, number of its first point) of the nodes that may overlap these cells."""
        table, ground = self._plan.cells, self._plan.cells.ground
        keys = table.keys[cells]
        low, high = np.full(3, -np.inf), np.full(3, np.inf)
        low[ground] = keys.real.min() - 0.5, keys.imag.min() - 0.5  # half a cell for rounding
        high[ground] = keys.real.max() + 1.5, keys.imag.max() + 1.5
        low, high = low * table.side, high * table.side
        for node, start in zip(self._nodes, self._starts, strict=True):
            if (node.bounds.mins <= high).all() and (node.bounds.maxs >= low).all():
                yield node, int(start)

    def _decoded(self, node):
        """The records of a node."""
        import laspy
        import lazrs

        reader = self._reader
        with reading(self.path), decoding():
            reader.source.seek(node.offset)
            packed = reader.source.read(node.byte_size)
            content = np.zeros(node.point_count * reader.header.point_format.size, np.uint8)
            lazrs.decompress_points_with_chunk_table(
                packed,
                reader.laszip_vlr.record_data,
                content,
                [(node.point_count, node.byte_size)],
                reader.decompression_selection,
            )
            record = laspy.PackedPointRecord.from_buffer(content, reader.header.point_format)
            scales, offsets = reader.header.scales, reader.header.offsets
            return laspy.ScaleAwarePointRecord(record.array, record.point_format, scales, offsets)
