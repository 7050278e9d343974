"""Scenes as packed cells: what lies beside a cell, and the patches in which cells attend.

Vocabulary: M occupied cells of all scenes of a batch, one scene after another; S slots of patches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

import dapt_ext


class Patches(NamedTuple):
    """Runs of cells along a curve: a cell attends to those of its own patch.

    Args:
        cells: int64 [S], the cell in each slot. Some are in two patches, to fill the second one.
        slots: int64 [M], where each cell's own slot is.
        shapes: (patches, slots of each), one group of patches after another.
        coords: [M, 3], of the cells.
    """

    cells: Tensor
    slots: Tensor
    shapes: tuple[tuple[int, int], ...]
    coords: Tensor


@dataclass(frozen=True)
class Cells:
    """The occupied cells of a batch of scenes.

    Args:
        places: int64 [M, 3], counted from 0 in each scene.
        coords: [M, 3], of a point in each cell, or the mean of finer cells.
        scenes: int64 [M], ascending.
        num_scenes: B.
    """

    places: Tensor
    coords: Tensor
    scenes: Tensor
    num_scenes: int

    def sizes(self) -> tuple[int, ...]:
        """How many cells each scene has."""
        return tuple(torch.bincount(self.scenes, minlength=self.num_scenes).tolist())

    def depths(self) -> Tensor:  # int64 [B]
        """Bits of a coordinate along a curve: those of the scene alone, so that what becomes of it
        does not depend on the others."""
        extent = self.scenes.new_zeros(self.num_scenes)
        extent = extent.scatter_reduce(0, self.scenes, self.places.amax(1), "amax")
        return torch.frexp((extent + 1).double()).exponent.long()  # the bit length, exactly

    def coarser(self) -> tuple["Cells", Tensor, Tensor]:
        """(cells of twice the size in the order of scene, x, y and z; int64 [P, 8], the cells in
        each, -1 for none; int64 [M], the one around each cell)."""
        halves = self.places // 2
        first, around, counts = dapt_ext.unique_cells(halves, self.scenes)
        keys = self.scenes[first]
        for axis in range(3):
            keys = keys << dapt_ext.CELL_BITS | halves[first, axis]
        order = keys.argsort()
        first, counts = first[order], counts[order]
        around = _inverse(order)[around]

        corners = (self.places % 2 * self.places.new_tensor([4, 2, 1])).sum(1)
        inside = around.new_full((len(first), 8), -1)
        inside[around, corners] = torch.arange(len(around), device=around.device)
        coords = dapt_ext.gather(self.coords[None], inside[None])[0].sum(1) / counts[:, None]
        coarse = Cells(
            halves[first], coords.to(self.coords.dtype), self.scenes[first], self.num_scenes
        )
        return coarse, inside, around


@dataclass(frozen=True)
class Geometry:
    """What the blocks of one scale need to know of its cells.

    Args:
        cells: Where they are.
        sizes: Cells of each scene.
        neighbors: int64 [M, 27] of `dapt_ext.neighbor_map`.
        patches: Along each curve.
    """

    cells: Cells
    sizes: tuple[int, ...]
    neighbors: Tensor
    patches: tuple[Patches, ...]

    @classmethod
    def of(
        cls, cells: Cells, curves: Sequence[str], patch_size: int, alike: bool = False
    ) -> "Geometry":
        """Curves and neighbors of cells.

        Args:
            cells: Of all scenes of a batch.
            curves: Their names, one patch order each.
            patch_size: Cells in a patch.
            alike: Whether no patch may be larger than the smallest scene, so that all patches of a
                batch are equally large.
        """
        sizes = cells.sizes()
        if alike and sizes:
            patch_size = max(1, min(patch_size, *sizes))
        places, slots, shapes = _cut(sizes, patch_size)
        places, slots = (index.to(cells.scenes.device) for index in (places, slots))
        codes = dapt_ext.curve_codes(cells.places, cells.depths(), cells.scenes, curves)
        patches = tuple(
            Patches(order[places], slots[_inverse(order)], shapes, cells.coords)
            for order in codes.argsort(1)
        )
        return cls(cells, sizes, dapt_ext.neighbor_map(cells.places, cells.scenes), patches)


def _inverse(order: Tensor) -> Tensor:
    number = torch.arange(len(order), device=order.device)
    return torch.empty_like(order).scatter_(0, order, number)


def _cut(
    sizes: Sequence[int], patch_size: int
) -> tuple[Tensor, Tensor, tuple[tuple[int, int], ...]]:
    """How scenes along a curve are cut: the place along it of each slot's cell [S], the slot of
    each place [M], and the shapes of the patches.

    A scene of up to a patch is one. A larger one is cut into full patches; what the last one lacks
    it borrows from the end of the one before.
    """
    starts = [sum(sizes[:scene]) for scene in range(len(sizes))]
    large = [scene for scene, size in enumerate(sizes) if size > patch_size]
    small = [scene for scene, size in enumerate(sizes) if 0 < size <= patch_size]
    slots = torch.empty(sum(sizes), dtype=torch.int64)
    places, count, full = [slots[:0]], 0, 0
    for scene in large + small:
        size, start = sizes[scene], starts[scene]
        patches = -(-size // patch_size)
        length = size if scene in small else patches * patch_size
        place = torch.arange(length)
        places.append(start + torch.where(place < size, place, place - patch_size))
        slots[start : start + size] = torch.arange(count, count + size)
        count += length
        full += 0 if scene in small else patches
    shapes = [(full, patch_size)] if full else []
    shapes += [(1, sizes[scene]) for scene in small]
    return torch.cat(places), slots, tuple(shapes)
