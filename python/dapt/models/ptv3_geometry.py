"""Scenes as packed cells: the neighbors of each cell, and the patches within which cells attend.

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
        cells: The cell in each slot, int64 [S]. Some cells are in two patches, to fill the second.
        slots: The slot of each cell, int64 [M].
        shapes: (number of patches, slots per patch) for each group of patches, in order.
        coords: The coordinates of the cells [M, 3].
    """

    cells: Tensor
    slots: Tensor
    shapes: tuple[tuple[int, int], ...]
    coords: Tensor


@dataclass(frozen=True)
class Cells:
    """The occupied cells of a batch of scenes.

    Args:
        places: The grid index of each cell, int64 [M, 3], from 0 in each scene.
        coords: The coordinates of a point in each cell, or the mean of finer cells, [M, 3].
        scenes: The scene of each cell, int64 [M], ascending.
        num_scenes: B, the number of scenes.
    """

    places: Tensor
    coords: Tensor
    scenes: Tensor
    num_scenes: int

    def sizes(self) -> tuple[int, ...]:
        """The number of cells in each scene."""
        return tuple(torch.bincount(self.scenes, minlength=self.num_scenes).tolist())

    def depths(self) -> Tensor:  # int64 [B]
        """The number of bits per coordinate of each scene's curve codes. It depends on that scene
        alone, so the scenes of a batch do not affect each other."""
        extent = self.scenes.new_zeros(self.num_scenes)
        extent = extent.scatter_reduce(0, self.scenes, self.places.amax(1), "amax")
        return torch.frexp((extent + 1).double()).exponent.long()  # the bit length, exactly

    def coarser(self) -> tuple["Cells", Tensor, Tensor]:
        """Merge cells into cells of twice the size.

        Returns:
            The coarse cells, sorted by scene, x, y and z.
            The cells in each coarse cell, int64 [P, 8]; -1 for none.
            The coarse cell around each cell, int64 [M].
        """
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
    """What the blocks of one scale need to know about its cells.

    Args:
        cells: The cells of the scale.
        sizes: The number of cells in each scene.
        neighbors: The result of `dapt_ext.neighbor_map`, int64 [M, 27].
        patches: The patches along each curve.
    """

    cells: Cells
    sizes: tuple[int, ...]
    neighbors: Tensor
    patches: tuple[Patches, ...]

    @classmethod
    def of(
        cls, cells: Cells, curves: Sequence[str], patch_size: int, alike: bool = False
    ) -> "Geometry":
        """Find the neighbors of cells and cut their patches.

        Args:
            cells: The cells of all scenes of a batch.
            curves: The names of the curves; patches are cut along each of them.
            patch_size: The number of cells in a patch.
            alike: Whether to limit patches to the size of the smallest scene, so that all patches
                of a batch have the same size.
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
    """Cut scenes along a curve into patches.

    A scene no larger than a patch is one patch. A larger one is cut into full patches; the last one
    is filled with cells from the end of the one before.

    Returns:
        The position of each slot's cell along the curve [S].
        The slot of each position [M].
        The shapes of the patches.
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
