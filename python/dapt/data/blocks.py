"""Cut scenes of any size into blocks: columns of space above squares of the ground."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from dapt.data.channels import Channels, beside, check_channels
from dapt.data.clouds import check_finite, check_up, upright
from dapt.data.convert import Sample
from dapt.data.file_dataset import FileDataset
from dapt.errors import DataError, UsageError


def windows(points: np.ndarray, size: float, stride: float, up: str = "z") -> Iterator[np.ndarray]:
    """Yield the indices of the points above each non-empty square of the ground, in order.

    The last squares end with the scene, so every point is in at least one square.

    Args:
        points: [N, 3].
        size: The side of a square.
        stride: The distance from one square to the next.
        up: The vertical axis.
    """
    return Grid.around(points.min(0), points.max(0), size, stride, up).windows(points)


class Grid(NamedTuple):
    """The squares of a scene. They depend only on its bounds, so a part of it may be in memory.

    Args:
        low: The smallest coordinates of the scene [3].
        high: The largest coordinates of the scene [3].
        size: The side of a square.
        stride: The distance from one square to the next.
        up: The vertical axis.
    """

    low: np.ndarray
    high: np.ndarray
    size: float
    stride: float
    up: str = "z"

    @classmethod
    def around(
        cls, low: np.ndarray, high: np.ndarray, size: float, stride: float, up: str
    ) -> "Grid":
        """Create the grid of a scene from checked settings.

        Args:
            low: The smallest coordinates of the scene [3].
            high: The largest coordinates of the scene [3].
            size: The side of a square.
            stride: The distance from one square to the next.
            up: The vertical axis.
        """
        check_grid(size, stride)
        check_up(up)
        return cls(low, high, size, stride, up)

    @property
    def ground(self) -> list[int]:
        """The two horizontal axes."""
        return [axis for axis in range(3) if axis != "xyz".index(self.up)]

    def windows(self, points: np.ndarray, needed: np.ndarray | None = None) -> Iterator[np.ndarray]:
        """Yield the indices of the points above each non-empty square of the ground, in order.

        Args:
            points: The points of the whole scene or of a part of it [N, 3].
            needed: The needed points, bool [N]; squares without one are skipped. The part must
                contain all points of every square that contains a needed point.
        """
        if len(points) == 0:
            return
        one, other = self.ground
        first, second = points[:, one], points[:, other]
        order = np.argsort(first, kind="stable")
        rows = self._starts(second, other)
        for strip in _slices(first[order], self._starts(first, one), self.size):
            inside = order[strip]
            if needed is not None and not needed[inside].any():
                continue
            inside = inside[np.argsort(second[inside], kind="stable")]
            for square in _slices(second[inside], rows, self.size):
                if square.start == square.stop:
                    continue
                index = np.sort(inside[square])
                if needed is None or needed[index].any():
                    yield index

    def _starts(self, values: np.ndarray, axis: int) -> np.ndarray:
        """The starts of intervals that contain values; outliers do not add empty ones."""
        low, high = self.low[axis], self.high[axis]
        steps = np.ceil(max(high - low - self.size, 0) / self.stride)
        last = np.unique(np.floor((values - low) / self.stride))  # last interval of each value
        before = np.arange(-1, np.ceil(self.size / self.stride) + 1)  # 1 extra for rounding
        numbers = np.unique(last[:, None] - before)
        numbers = numbers[(numbers >= 0) & (numbers < steps)]
        return np.append(low + self.stride * numbers, max(high - self.size, low))


def check_grid(size: float, stride: float) -> None:
    """Refuse blocks that would leave points out.

    Args:
        size: The side of a square.
        stride: The distance from one square to the next.
    """
    if not 0 < stride <= size:
        raise UsageError(
            f"stride must be above 0 and at most the block of {size}, or points would be left out, "
            f"got {stride}"
        )


def _slices(values: np.ndarray, starts: np.ndarray, size: float) -> Iterator[slice]:
    """The slice of the sorted values in each interval; rounding never leaves a value out."""
    low = np.searchsorted(values, starts, "left")
    high = np.searchsorted(values, starts + size, "right")
    low[0], high[-1] = 0, len(values)
    high[:-1] = np.maximum(high[:-1], low[1:])
    return map(slice, low, high)


def at_least(index: np.ndarray, count: int) -> np.ndarray:
    """Repeat indices until there are enough.

    Args:
        index: At least one index [n].
        count: The smallest number of indices to return.
    """
    return np.resize(index, max(len(index), count))


class Scene(NamedTuple):
    """A labeled scene.

    Args:
        where: The name to use in errors.
        points: [N, 3].
        labels: [N].
        kind: The class of scenes that it belongs to.
        colors: Colors from 0 to 1 or from 0 to 255 [N, 3].
        normals: [N, 3].
        intensity: Intensities from 0 to 1, in 8 or in 16 bits [N].
        heights: Heights above the ground [N].
    """

    where: str
    points: np.ndarray  # [N, 3]
    labels: np.ndarray  # [N]
    kind: int = 0
    colors: np.ndarray | None = None  # [N, 3]
    normals: np.ndarray | None = None  # [N, 3]
    intensity: np.ndarray | None = None  # [N]
    heights: np.ndarray | None = None  # [N]


@dataclass(kw_only=True)
class BlockDataset(FileDataset):
    """Blocks of labeled scenes, which overlap in the training split but hardly in the test split.

    Args:
        num_points: Points per block, by farthest point sampling; a block of fewer repeats points.
        block: The side of the square under a block, in the unit of the scenes.
        stride: The distance from one training block to the next.
        min_points: Blocks of fewer points are left out.
        up: The vertical axis; blocks are turned so that it is y, as in the data that the backbones
            were pre-trained on.
        channels: What a point has besides its coordinates, for backbones that read it: xyz for
            nothing, color, normal for color and normal, intensity, or height above the ground.
            Channels that a scene lacks are zero.
    """

    num_points: int = 4096
    block: float = 1.0
    stride: float = 0.5
    min_points: int = 100
    up: Literal["x", "y", "z"] = "z"
    channels: Channels = "xyz"

    def __post_init__(self):
        super().__post_init__()
        check_grid(self.block, self.stride)
        check_up(self.up)
        check_channels(self.channels)
        if self.min_points < 1:
            raise UsageError(f"min_points must be at least 1, got {self.min_points}")

    def blocks(self, scenes: Iterable[Scene], split: str) -> Iterator[Sample]:
        """Cut scenes into samples of `num_points` points.

        Args:
            scenes: The scenes, read on demand.
            split: The split; "train" takes overlapping blocks.
        """
        stride = self.stride if split == "train" else self.block
        for number, scene in enumerate(scenes):
            points, labels = _checked(scene)
            channels = self.channels_of(scene)
            for count, index in enumerate(windows(points, self.block, stride, self.up)):
                if len(index) < self.min_points:
                    continue
                index = at_least(index, self.num_points)
                where, block = f"block {count} of {scene.where}", upright(points[index], self.up)
                of_block = None if channels is None else channels[index]
                yield Sample(where, block, scene.kind, labels[index], number, of_block)

    def channels_of(self, scene: Scene) -> np.ndarray | None:  # [N, D - 3]
        """The channels of each point besides its coordinates [N, D - 3]; unknown ones are zero.

        Args:
            scene: The scene.
        """
        if self.channels == "xyz":
            return None
        known = beside(scene.where, self.channels, len(scene.points), scene._asdict())
        if self.channels != "normal":
            return known
        return np.concatenate([known[:, :3], upright(known[:, 3:], self.up)], 1)


def _checked(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    points, labels = np.asarray(scene.points, np.float64), np.asarray(scene.labels)
    if points.ndim != 2 or points.shape[1] != 3 or len(points) == 0:
        raise DataError(f"{scene.where} must have points [N, 3], got {list(points.shape)}")
    if labels.shape != points.shape[:1]:
        raise DataError(
            f"{scene.where} must have a label for each of its {len(points)} points, "
            f"got {list(labels.shape)}"
        )
    check_finite(scene.where, points)
    return points, labels


def by_name(paths: Iterable[Path]) -> list[Path]:
    """Sort paths by name, in the same order on every machine.

    Args:
        paths: The paths.
    """
    return sorted(paths, key=lambda path: path.as_posix())
