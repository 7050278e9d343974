"""Scenes of any size, cut into blocks: columns of space over squares of the ground."""

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
    """Indices of the points over each square of the ground that has any, in order.

    The last squares end with the scene, so that every point is in at least one.

    Args:
        points: [N, 3].
        size: Side of a square.
        stride: The step between two squares.
        up: The axis that points up.
    """
    return Grid.around(points.min(0), points.max(0), size, stride, up).windows(points)


class Grid(NamedTuple):
    """The squares of a scene, of which a part may be in memory: they depend on its ends alone.

    Args:
        low: [3], the least coordinates of the scene.
        high: [3], the largest.
        size: Side of a square.
        stride: The step between two squares.
        up: The axis that points up.
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
        """The grid of a scene, checked.

        Args:
            low: [3], the least coordinates of the scene.
            high: [3], the largest.
            size: Side of a square.
            stride: The step between two squares.
            up: The axis that points up.
        """
        check_grid(size, stride)
        check_up(up)
        return cls(low, high, size, stride, up)

    @property
    def ground(self) -> list[int]:
        """The two axes that lie on the ground."""
        return [axis for axis in range(3) if axis != "xyz".index(self.up)]

    def windows(self, points: np.ndarray, needed: np.ndarray | None = None) -> Iterator[np.ndarray]:
        """Indices of the points over each square of the ground that has any, in order.

        Args:
            points: [N, 3], of the whole scene or of a part of it.
            needed: [N] bool; a square without such a point is left out. All squares of needed
                points have to be whole within the part.
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
        """Where intervals begin that have values in them, however far some of these lie away."""
        low, high = self.low[axis], self.high[axis]
        steps = np.ceil(max(high - low - self.size, 0) / self.stride)
        last = np.unique(np.floor((values - low) / self.stride))  # of the last interval of each
        before = np.arange(-1, np.ceil(self.size / self.stride) + 1)  # one on either side: rounding
        numbers = np.unique(last[:, None] - before)
        numbers = numbers[(numbers >= 0) & (numbers < steps)]
        return np.append(low + self.stride * numbers, max(high - self.size, low))


def check_grid(size: float, stride: float) -> None:
    """Refuse blocks that would leave points out.

    Args:
        size: Side of a square.
        stride: The step between two squares.
    """
    if not 0 < stride <= size:
        raise UsageError(
            f"stride must be above 0 and at most the block of {size}, or points would be left out, "
            f"got {stride}"
        )


def _slices(values: np.ndarray, starts: np.ndarray, size: float) -> Iterator[slice]:
    """The part of the sorted values in each interval; rounding leaves none between two of them."""
    low = np.searchsorted(values, starts, "left")
    high = np.searchsorted(values, starts + size, "right")
    low[0], high[-1] = 0, len(values)
    high[:-1] = np.maximum(high[:-1], low[1:])
    return map(slice, low, high)


def at_least(index: np.ndarray, count: int) -> np.ndarray:
    """The same indices, repeated until there are enough.

    Args:
        index: [n], at least one.
        count: How many are wanted at least.
    """
    return np.resize(index, max(len(index), count))


class Scene(NamedTuple):
    """A labeled scene.

    Args:
        where: The name to use in errors.
        points: [N, 3].
        labels: [N].
        kind: The class of scenes that it belongs to.
        colors: [N, 3], from 0 to 1 or from 0 to 255.
        normals: [N, 3].
        intensity: [N].
        heights: [N], above the ground.
    """

    where: str
    points: np.ndarray  # [N, 3]
    labels: np.ndarray  # [N]
    kind: int = 0  # which class of scenes it belongs to
    colors: np.ndarray | None = None  # [N, 3], in 0 to 1 or 0 to 255
    normals: np.ndarray | None = None  # [N, 3]
    intensity: np.ndarray | None = None  # [N], in 0 to 1, bytes or 16 bits
    heights: np.ndarray | None = None  # [N]


@dataclass(kw_only=True)
class BlockDataset(FileDataset):
    """Blocks of labeled scenes; those of the training split overlap, those of the test split
    hardly do.

    Args:
        num_points: Points of a block, by farthest point sampling; a block of fewer repeats them.
        block: Side of the square under a block, in the unit of the scenes.
        stride: From one training block to the next.
        min_points: A block of fewer points is left out.
        up: The axis that points up; blocks are turned so that it is y, as in the data that the
            backbones were pre-trained on.
        channels: What a point has beside its place, for backbones that read it: xyz for nothing,
            color, normal for its color and its normal, intensity, or height above the ground. A
            scene that lacks it has zeros.
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
        """Samples cut out of scenes, each as large as the dataset's clouds.

        Args:
            scenes: The scenes, read on demand.
            split: "train" takes overlapping blocks.
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
        """What a network is told of each point, [N, D - 3]; what the scene does not know is zero.

        Args:
            scene: One with its colors and normals, if it has any.
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
    """Paths in the order of their names, the same on every machine.

    Args:
        paths: In any order.
    """
    return sorted(paths, key=lambda path: path.as_posix())
