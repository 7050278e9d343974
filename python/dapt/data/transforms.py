"""Augmentation of whole batches on their device: small callables (points, generator) -> points.

points: [B, N, 3], with color [B, N, 6], or with color and normal [B, N, 9]. All random numbers are
drawn from the generator on its own device, so a CPU generator gives the same numbers on every
device.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import dapt_ext
from dapt.errors import UsageError, look_up


@dataclass
class Share:
    """A generator shared by several processes; transforms accept it instead of a plain one.

    Each process draws numbers for the whole batch and keeps those of its own rows, so W processes
    with the same seed together draw what a single one would. All processes must have batches of the
    same size.

    Args:
        generator: A generator with the same seed in all processes.
        rank: The rank of this process.
        world_size: W, the number of processes.
    """

    generator: torch.Generator
    rank: int = 0
    world_size: int = 1


def _draw(sample: Callable, shape: tuple, points: Tensor, generator) -> Tensor:
    """sample(shape) for this process's rows, where `sample` is torch.rand or torch.randn."""
    share = generator if isinstance(generator, Share) else Share(generator)
    rows = shape[0]
    whole = sample(
        (rows * share.world_size, *shape[1:]),
        generator=share.generator,
        device=share.generator.device,
    )
    return whole[rows * share.rank : rows * (share.rank + 1)].to(points.device)


def _uniform(low: float, high: float, shape: tuple, points: Tensor, generator) -> Tensor:
    return (_draw(torch.rand, shape, points, generator) * (high - low) + low).to(points.dtype)


def _random_order(shape: tuple, points: Tensor, generator) -> Tensor:
    """A random permutation of 0 ... n - 1 in each row [B, n]; equal draws keep their order."""
    return _draw(torch.rand, shape, points, generator).argsort(dim=1, stable=True)


@dataclass
class Compose:
    """Applies transforms one after another.

    Args:
        transforms: The transforms, in order.
    """

    transforms: list

    def __call__(self, points: Tensor, generator) -> Tensor:
        for transform in self.transforms:
            points = transform(points, generator)
        return points


PLACE, NORMAL = slice(0, 3), slice(6, 9)  # channels of a point; the color is between them


def _moved(points: Tensor, place: Tensor) -> Tensor:
    """The points with new coordinates and their other channels unchanged."""
    return place if points.shape[-1] == 3 else torch.cat([place, points[..., 3:]], -1)


def _turned(points: Tensor, turn: Callable[[Tensor], Tensor]) -> Tensor:
    """The points with the same turn applied to coordinates and normals."""
    place, rest = turn(points[..., PLACE]), points[..., 3:]
    if points.shape[-1] >= NORMAL.stop:
        rest = torch.cat([points[..., 3:6], turn(points[..., NORMAL])], -1)
    return place if points.shape[-1] == 3 else torch.cat([place, rest], -1)


@dataclass
class Scale:
    """Multiplies by one random factor per axis, or by one for all three.

    Args:
        low: The smallest factor.
        high: The largest factor.
        per_axis: Whether each axis has its own factor.
    """

    low: float = 2 / 3
    high: float = 3 / 2
    per_axis: bool = True

    def __call__(self, points: Tensor, generator) -> Tensor:
        shape = (len(points), 1, 3 if self.per_axis else 1)
        factor = _uniform(self.low, self.high, shape, points, generator)
        return _moved(points, points[..., PLACE] * factor)


@dataclass
class Translate:
    """Shifts each cloud by up to `limit` along every axis.

    Args:
        limit: The largest shift along an axis.
    """

    limit: float = 0.2

    def __call__(self, points: Tensor, generator) -> Tensor:
        shift = _uniform(-self.limit, self.limit, (len(points), 1, 3), points, generator)
        return _moved(points, points[..., PLACE] + shift)


@dataclass
class Rotate:
    """Rotates each cloud about one axis; in most datasets y points up.

    Args:
        axis: "x", "y" or "z".
        max_angle: The largest angle to either side, in radians.
    """

    axis: str = "y"
    max_angle: float = math.pi

    def __post_init__(self):
        if self.axis not in ("x", "y", "z"):
            raise UsageError(f"the axis of a rotation must be x, y or z, got {self.axis!r}")

    def __call__(self, points: Tensor, generator) -> Tensor:
        angle = _uniform(-self.max_angle, self.max_angle, (len(points), 1), points, generator)
        cos, sin = angle.cos(), angle.sin()  # [B, 1]
        fixed = "xyz".index(self.axis)
        first, second = (fixed + 1) % 3, (fixed + 2) % 3

        def turn(vectors: Tensor) -> Tensor:
            turned = vectors.clone()
            turned[..., first] = cos * vectors[..., first] - sin * vectors[..., second]
            turned[..., second] = sin * vectors[..., first] + cos * vectors[..., second]
            return turned

        return _turned(points, turn)


@dataclass
class RotateFreely:
    """Rotates each cloud by a rotation drawn uniformly from all rotations."""

    def __call__(self, points: Tensor, generator) -> Tensor:
        quaternion = _draw(torch.randn, (len(points), 4), points, generator).to(points.dtype)
        w, *axis = (quaternion / quaternion.norm(dim=1, keepdim=True)).unbind(1)  # [B] each
        axis = torch.stack(axis, 1)[:, None].expand_as(points[..., PLACE])  # [B, N, 3]
        w = w[:, None, None]

        def turn(vectors: Tensor) -> Tensor:
            across = torch.linalg.cross(axis, vectors) + w * vectors
            return vectors + 2 * torch.linalg.cross(axis, across)

        return _turned(points, turn)


@dataclass
class Jitter:
    """Moves every point by Gaussian noise.

    Args:
        sigma: The standard deviation of the noise.
        clip: The largest shift along an axis.
    """

    sigma: float = 0.01
    clip: float = 0.05

    def __call__(self, points: Tensor, generator) -> Tensor:
        place = points[..., PLACE]
        noise = _draw(torch.randn, tuple(place.shape), points, generator).to(points.dtype)
        return _moved(points, place + (noise * self.sigma).clamp(-self.clip, self.clip))


@dataclass
class FarthestPoints:
    """Reduces clouds by farthest point sampling, as is usual at test time.

    Args:
        num_points: The number of points to keep per cloud.
    """

    num_points: int

    def __call__(self, points: Tensor, generator=None) -> Tensor:
        _check_enough(self.num_points, points)
        if self.num_points == points.shape[1]:
            return points
        chosen = dapt_ext.farthest_point_sample(points[..., PLACE], self.num_points)
        return dapt_ext.gather(points, chosen)


@dataclass
class Resample:
    """Reduces clouds by farthest point sampling and a random choice, as is usual in training.

    The first step keeps 75/64 of `num_points` (1200 for 1024, 2400 for 2048, 4800 for 4096), or the
    whole cloud if it has no more than that.

    Args:
        num_points: The number of points to keep per cloud.
    """

    num_points: int

    def __call__(self, points: Tensor, generator) -> Tensor:
        return dapt_ext.gather(points, self.indices(points, generator))

    def indices(self, points: Tensor, generator) -> Tensor:
        """The chosen points [B, num_points], for labels that belong to points.

        Args:
            points: [B, N, D].
            generator: A plain generator or a `Share`.
        """
        _check_enough(self.num_points, points)
        batch, total = points.shape[:2]
        pool = min(self.num_points * 75 // 64, total)
        start = (
            (_draw(torch.rand, (batch,), points, generator) * total).long().clamp_(max=total - 1)
        )
        order = _random_order((batch, pool), points, generator)
        chosen = order[:, : self.num_points]  # [B, num_points]
        if pool == total:
            return chosen
        place = points[..., PLACE]
        return dapt_ext.farthest_point_sample(place, pool, start=start).gather(1, chosen)


@dataclass
class RandomPoints:
    """Reduces clouds by a random choice of points, as in pre-training.

    Args:
        num_points: The number of points to keep per cloud.
    """

    num_points: int

    def __call__(self, points: Tensor, generator) -> Tensor:
        _check_enough(self.num_points, points)
        order = _random_order(tuple(points.shape[:2]), points, generator)
        return dapt_ext.gather(points, order[:, : self.num_points])


def _check_enough(num_points: int, points: Tensor) -> None:
    if num_points > points.shape[1]:
        raise UsageError(
            f"num_points must be at most the {points.shape[1]} points of the clouds, "
            f"got {num_points}"
        )


@dataclass
class Occlude:
    """Cuts off one side of each cloud in a random direction, and replaces the lost points by
    repeating others.

    Args:
        share: The largest share of points to remove.
    """

    share: float = 0.3

    def __call__(self, points: Tensor, generator) -> Tensor:
        way = _draw(torch.randn, (len(points), 3, 1), points, generator).to(points.dtype)
        place = points[..., PLACE].contiguous()  # so that sums do not depend on other channels
        order = (place @ way)[..., 0].argsort(1)  # [B, N], the farthest last
        kept = 1 - _uniform(0, self.share, (len(points), 1), points, generator).float()
        total = points.shape[1]
        kept = (kept * total).long().clamp_(min=1)  # [B, 1]
        rank = torch.arange(total, device=points.device).expand_as(order)
        chance = _draw(torch.rand, tuple(order.shape), points, generator)
        other = (chance * kept).long().clamp_(max=total - 1)
        return dapt_ext.gather(points, order.gather(1, torch.where(rank < kept, rank, other)))


AUGMENTATIONS = {
    "none": Compose([]),
    "scale_translate": Compose([Scale(), Translate()]),
    "slight_scale_translate": Compose([Scale(0.8, 1.25, per_axis=False), Translate(0.1)]),
    "rotate": Compose([Rotate()]),
    "scale_rotate": Compose([Scale(0.9, 1.1), Rotate()]),
    "rotate_freely": Compose([RotateFreely()]),
    "occlude_scale_rotate": Compose(
        [Occlude(), Scale(0.8, 1.25), Rotate(), Translate(0.1), Jitter()]
    ),
}


def augmentation(name: str) -> Compose:
    """Look up one of the augmentations by which published results differ.

    Args:
        name: A name in `AUGMENTATIONS`.
    """
    return look_up("augmentation", name, AUGMENTATIONS)
