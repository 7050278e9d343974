"""Simulate how a depth camera sees an object in a room, with the difficulties of ScanObjectNN.

The camera sees one side, and objects in front hide what is behind. The floor, a wall and neighbors
are in view, parts are missing, and every point is slightly off.
"""

import math

import numpy as np

from dapt.synthetic.families import FAMILIES
from dapt.synthetic.shapes import Dice, bounds, box, sample, turn

Array = np.ndarray

PIXELS = 48  # per side of the depth image, coarse enough that points in front leave no gaps
SLACK = 0.08  # relative to the scene's radius: the depth of a slanted surface within one pixel
SURPLUS = 3  # points sampled per point needed: half are hidden, others are cropped
BACKGROUND = -1  # the part label of points that do not belong to the object

_NEIGHBORS = ("box", "chair", "cabinet", "table", "bin", "bag", "shelf", "plant", "stool", "sofa")


def scan(triangles: Array, parts: Array, variant: str, count: int, rng) -> tuple[Array, Array]:
    """Simulate a scan of an object: points [count, 3], and the part of each.

    Args:
        triangles: The triangles of the object [T, 3, 3].
        parts: The part of each triangle [T].
        variant: "only" keeps the object's own points; "bg" keeps everything in its box; "hardest"
            first shifts, turns and scales the box, so it cuts the object and contains more
            background.
        count: The number of points.
        rng: The random generator.
    """
    dice = Dice(rng)
    scene, owner = triangles, parts
    if variant != "only":
        low, high = bounds(triangles)
        background = _background(low, high, dice)
        scene = np.concatenate([triangles, background])
        owner = np.concatenate([parts, np.full(len(background), BACKGROUND)])
    middle, size, heading = _crop(triangles, variant, dice)
    points, which = sample(scene, SURPLUS * count, rng)  # [SURPLUS * count, 3]
    owner = owner[which]
    inside = _inside(points, middle, size, heading)
    seen = inside & _visible(points, dice) & ~_dropped(points, size, dice)
    chosen = _choose(seen, inside, owner, count, rng)
    noise = dice(0.002, 0.01) * float(np.linalg.norm(size)) / 2
    return points[chosen] + noise * rng.standard_normal((count, 3)), owner[chosen]


def _choose(seen: Array, inside: Array, owner: Array, count: int, rng) -> Array:
    """Choose `count` of the visible points, at least two in five of them the object's."""
    mine = np.flatnonzero(seen & (owner != BACKGROUND))
    if len(mine) < count // 16:  # the box or missing parts left almost nothing
        mine = np.flatnonzero(inside & (owner != BACKGROUND))
    if len(mine) == 0:
        mine = np.flatnonzero(owner != BACKGROUND)
    if len(mine) == 0:  # possible if there are very few points
        mine = np.arange(len(owner))
    others = rng.permutation(np.flatnonzero(seen & (owner == BACKGROUND)))[: len(mine) * 3 // 2]
    found = rng.permutation(np.concatenate([mine, others]))[:count]
    return np.concatenate([found, rng.choice(found, count - len(found))])


def _background(low: Array, high: Array, dice: Dice) -> Array:
    """A floor, perhaps a wall behind, perhaps neighbors, around an object's bounding box."""
    size, middle = high - low, (low + high) / 2
    reach = float(size.max())
    floor = (size[0] + 0.5 * reach, 0.02, size[2] + 0.5 * reach)
    pieces = [box(*floor, (middle[0], low[1] - 0.02, middle[2]))]
    if dice.chance(0.5):
        place = (0, low[1], -size[2] / 2 - reach * dice(0.02, 0.2))
        wall = box(1.5 * reach, size[1] + 0.4 * reach, 0.02, place)
        pieces.append(turn(wall, "y", dice.pick(0, 0, 90, -90)) + (middle[0], 0, middle[2]))
    for _ in range(dice.count(0, 2)):
        other, _ = FAMILIES[dice.pick(*_NEIGHBORS)].surfaces(dice.rng)
        other = turn(other, "y", dice(0, 360))
        floor, ceiling = bounds(other)
        other = (other - (0, floor[1], 0)) * (reach * dice(0.5, 1.1) / (ceiling - floor).max())
        angle, apart = dice(0, 2 * math.pi), reach * dice(0.7, 1.1)
        x, z = apart * math.cos(angle), apart * math.sin(angle)
        pieces.append(other + (middle[0] + x, low[1], middle[2] + z))
    return np.concatenate(pieces)


def _crop(triangles: Array, variant: str, dice: Dice) -> tuple[Array, Array, float]:
    """Center, size and heading of the box that is cut out of the scene."""
    low, high = bounds(triangles)
    size, middle, heading = (high - low) + 0.04, (low + high) / 2, 0.0
    if variant == "bg":
        size = size * (dice(1.0, 1.15), 1.05, dice(1.0, 1.15))
    elif variant == "hardest":
        shift = np.array([dice(-0.35, 0.35), dice(-0.2, 0.2), dice(-0.35, 0.35)])
        middle = middle + shift * size
        size = size * dice(0.85, 1.25)
        heading = dice(-math.pi / 4, math.pi / 4)
    return middle, np.maximum(size, 0.15 * size.max()), heading


def _inside(points: Array, middle: Array, size: Array, heading: float) -> Array:
    x, y, z = (points - middle).T
    cos, sin = math.cos(heading), math.sin(heading)
    across, along = cos * x - sin * z, sin * x + cos * z
    half = size / 2
    return (np.abs(across) <= half[0]) & (np.abs(y) <= half[1]) & (np.abs(along) <= half[2])


def _visible(points: Array, dice: Dice) -> Array:
    """Which points are in front in at least one of a few depth images, taken while walking past."""
    first, step = dice(-70, 70), dice(20, 70)
    height = dice(10, 40)
    seen = np.zeros(len(points), dtype=bool)
    for i in range(dice.pick(1, 1, 2, 2, 3)):
        seen |= _in_front(points, first + i * step, height)
    return seen


def _in_front(points: Array, heading: float, height: float) -> Array:
    """Which points are in front in a perspective view from a heading and a height, in degrees."""
    a, e = math.radians(heading), math.radians(height)
    back = np.array([math.sin(a) * math.cos(e), math.sin(e), math.cos(a) * math.cos(e)])
    right = np.array([math.cos(a), 0.0, -math.sin(a)])
    up = np.cross(back, right)
    low, high = bounds(points)
    radius = float(np.linalg.norm(high - low)) / 2
    x, y, depth = ((points - (low + high) / 2) @ np.stack([right, up, -back], 1)).T
    depth = depth + 2.5 * radius
    column = ((x / depth * 2.2 + 1) * (PIXELS / 2)).astype(np.int64).clip(0, PIXELS - 1)
    row = ((y / depth * 2.2 + 1) * (PIXELS / 2)).astype(np.int64).clip(0, PIXELS - 1)
    pixel = row * PIXELS + column
    nearest = np.full(PIXELS * PIXELS, np.inf)
    np.minimum.at(nearest, pixel, depth)
    return depth <= nearest[pixel] + SLACK * radius


def _dropped(points: Array, size: Array, dice: Dice) -> Array:
    """Which points are missing because the sensor failed, in a few balls."""
    gone = np.zeros(len(points), dtype=bool)
    radius = float(np.linalg.norm(size)) / 2
    for _ in range(dice.count(0, 3)):
        middle = points[int(len(points) * dice.rng.random())]
        gone |= ((points - middle) ** 2).sum(1) < (radius * dice(0.08, 0.25)) ** 2
    return gone
