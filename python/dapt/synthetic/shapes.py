"""Surfaces to build objects from: every function returns triangles [T, 3, 3]; y is up.

Lengths are relative to the approximate size of the object. Shapes that stand on something are
placed by the center of their bottom, shapes that hang or turn by their center.
"""

import math

import numpy as np

Array = np.ndarray
ORIGIN = (0.0, 0.0, 0.0)
_AXES = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}


class Dice:
    """Concise random choices, which make each object different. Calling it draws a number from low
    to high.

    Args:
        rng: The random generator.
    """

    def __init__(self, rng: np.random.Generator):
        self.rng = rng

    def __call__(self, low: float, high: float) -> float:
        return low + (high - low) * self.rng.random()

    def chance(self, probability: float) -> bool:
        """Return True with a given probability.

        Args:
            probability: The probability, from 0 to 1.
        """
        return self.rng.random() < probability

    def count(self, low: int, high: int) -> int:
        """Draw an integer.

        Args:
            low: The smallest value.
            high: The largest value.
        """
        return low + int((high + 1 - low) * self.rng.random())

    def pick(self, *options):
        """Choose one of the options."""
        return options[int(len(options) * self.rng.random())]


# --- surfaces


def sheet(grid: Array) -> Array:
    """A surface through a grid of points.

    Args:
        grid: The points [U, V, 3].
    """
    a, b, c, d = grid[:-1, :-1], grid[1:, :-1], grid[1:, 1:], grid[:-1, 1:]
    return np.stack([a, b, c, a, c, d], 2).reshape(-1, 3, 3)


def _unit_box() -> Array:
    corner = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (0, 1) for z in (-0.5, 0.5)])
    faces = [(0, 1, 3, 2), (4, 5, 7, 6), (0, 1, 5, 4), (2, 3, 7, 6), (0, 2, 6, 4), (1, 3, 7, 5)]
    return np.concatenate([corner[[[a, b, c], [a, c, d]]] for a, b, c, d in faces])


_UNIT_BOX = _unit_box()


def box(width: float, height: float, depth: float, at=ORIGIN, top: float = 1.0) -> Array:
    """A box that stands on the ground.

    Args:
        width: The size along x.
        height: The size along y.
        depth: The size along z.
        at: The center of its bottom.
        top: The size of the upper face relative to the lower one.
    """
    shape = _UNIT_BOX * (width, height, depth)
    if top != 1.0:
        shape[..., ::2] *= 1 + (top - 1) * _UNIT_BOX[..., 1:2]
    return shape + at


def _circle(segments: int) -> Array:
    angle = np.linspace(0, 2 * math.pi, segments + 1)
    return np.stack([np.cos(angle), np.sin(angle)], 1)  # [segments + 1, 2]


_CIRCLES = {segments: _circle(segments) for segments in range(3, 33)}


def lathe(profile, at=ORIGIN, segments: int = 16) -> Array:
    """A surface of revolution about a vertical axis.

    Args:
        profile: The (radius, height) of each point of the outline.
        at: The position of the axis.
        segments: The number of segments in a full turn.
    """
    line = np.asarray(profile, dtype=float)  # [P, 2]
    circle = _CIRCLES[segments]
    grid = np.empty((len(line), segments + 1, 3))
    grid[..., 0] = line[:, :1] * circle[:, 0]
    grid[..., 1] = line[:, 1:]
    grid[..., 2] = line[:, :1] * circle[:, 1]
    return sheet(grid + at)


def cylinder(radius: float, height: float, at=ORIGIN, top: float = 1.0, segments=16) -> Array:
    """A closed cylinder or cone.

    Args:
        radius: The radius of the lower face.
        height: The size along y.
        at: The center of its bottom.
        top: The upper radius relative to the lower one.
        segments: The number of segments in a full turn.
    """
    upper = radius * top
    return lathe([(0, 0), (radius, 0), (upper, height), (0, height)], at, segments)


def tube(path, radius, segments: int = 6) -> Array:
    """A surface around a line, with closed ends.

    Args:
        path: The points of the line [P, 3].
        radius: One radius, or one per point.
        segments: The number of segments in a full turn.
    """
    path = np.asarray(path, dtype=float)
    along = np.gradient(path, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True) + 1e-12
    aside = np.zeros(3)
    aside[np.abs(along).sum(0).argmin()] = 1  # the axis that the line follows least
    u = np.cross(along, aside)
    u /= np.linalg.norm(u, axis=1, keepdims=True) + 1e-12
    v = np.cross(along, u)
    circle = _CIRCLES[segments][:, None]  # [segments + 1, 1, 2]
    ring = circle[..., :1] * u + circle[..., 1:] * v  # [segments + 1, P, 3]
    wall = path + ring * np.broadcast_to(np.asarray(radius, dtype=float), len(path))[:, None]
    ends = np.broadcast_to(path[[0, -1]], (segments + 1, 2, 3))
    return sheet(np.concatenate([ends[:, :1], wall, ends[:, 1:]], 1))


def rod(start, end, radius: float, end_radius: float | None = None, segments: int = 6) -> Array:
    """A straight tube between two points.

    Args:
        start: The first point.
        end: The second point.
        radius: The radius at the start.
        end_radius: The radius at the end; the same by default.
        segments: The number of segments in a full turn.
    """
    radii = (radius, radius if end_radius is None else end_radius)
    return tube([start, end], radii, segments)


def _unit_ball() -> Array:
    polar, circle = np.linspace(0, math.pi, 9), _circle(14)
    return sheet(
        np.stack(
            [
                np.sin(polar)[:, None] * circle[:, 0],
                np.cos(polar)[:, None] * np.ones(len(circle)),
                np.sin(polar)[:, None] * circle[:, 1],
            ],
            2,
        )
    )


_UNIT_BALL = _unit_ball()


def ball(rx: float, ry: float, rz: float, at=ORIGIN) -> Array:
    """An ellipsoid.

    Args:
        rx, ry, rz: Its radii.
        at: Its center.
    """
    return _UNIT_BALL * (rx, ry, rz) + at


def slab(outline, thickness: float, at=ORIGIN) -> Array:
    """A plate perpendicular to z, with any outline that is star-shaped about its center.

    Args:
        outline: The outline in the x-y plane [P, 2].
        thickness: The size along z.
        at: Its center.
    """
    line = np.asarray(outline, dtype=float)
    line = np.concatenate([line, line[:1]])
    middle = np.broadcast_to(line[:-1].mean(0), line.shape)
    grid = np.empty((4, len(line), 3))
    grid[0, :, :2] = grid[3, :, :2] = middle
    grid[1, :, :2] = grid[2, :, :2] = line
    grid[:2, :, 2] = -thickness / 2
    grid[2:, :, 2] = thickness / 2
    return sheet(grid + at)


def cushion(width: float, height: float, depth: float, at=ORIGIN, roundness: float = 2.0) -> Array:
    """A soft box: thick in the middle, thin along the seams.

    Args:
        width: The size along x.
        height: The size along y.
        depth: The size along z.
        at: The center of its bottom.
        roundness: How full it is.
    """
    u = np.linspace(-1, 1, 9)
    bulge = (1 - np.abs(u) ** (2 * roundness)) ** 0.5
    grid = np.empty((2, 9, 9, 3))
    grid[..., 0] = u[:, None] * width / 2 * (1 - 0.08 * (1 - bulge))
    grid[..., 2] = u[None] * depth / 2 * (1 - 0.08 * (1 - bulge[:, None]))
    grid[..., 1] = bulge[:, None] * bulge * height / 2
    grid[1, ..., 1] *= -1
    grid[..., 1] += height / 2
    return np.concatenate([sheet(grid[0]), sheet(grid[1])]) + at


# --- lines


def arc(radius: float, start: float, end: float, points: int = 9, squash: float = 1.0) -> Array:
    """An arc of a circle [points, 2].

    Args:
        radius: The radius of the circle.
        start: The start angle in degrees.
        end: The end angle in degrees.
        points: The number of points.
        squash: A factor for the second coordinate.
    """
    angle = np.radians(np.linspace(start, end, points))
    return np.stack([radius * np.cos(angle), radius * squash * np.sin(angle)], 1)


def in_plane(line: Array, plane: str, at=ORIGIN) -> Array:
    """Place a flat line in space.

    Args:
        line: The points of the line [P, 2].
        plane: "xy", "zy" or "xz".
        at: The position of its origin.
    """
    points = np.zeros((len(line), 3))
    points[:, ["xyz".index(axis) for axis in plane]] = line
    return points + at


# --- placing


def join(*surfaces: Array) -> Array:
    """Join several surfaces into one."""
    return np.concatenate(surfaces)


def shift(surface: Array, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Array:
    """Move a surface.

    Args:
        surface: Triangles [T, 3, 3].
        x, y, z: The shift along each axis.
    """
    return surface + (x, y, z)


def turn(surface: Array, axis: str, degrees: float) -> Array:
    """Rotate a surface about an axis through the origin.

    Args:
        surface: Triangles [T, 3, 3].
        axis: "x", "y" or "z".
        degrees: The angle in degrees.
    """
    a, b = _AXES[axis]
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turned = surface.copy()
    turned[..., a] = cos * surface[..., a] - sin * surface[..., b]
    turned[..., b] = sin * surface[..., a] + cos * surface[..., b]
    return turned


def mirror(surface: Array, *axes: str) -> Array:
    """A surface with its mirror images: two copies with one axis, four with two.

    Args:
        surface: Triangles [T, 3, 3].
        axes: The axes, each "x", "y" or "z".
    """
    for axis in axes:
        image = surface.copy()
        image[..., "xyz".index(axis)] *= -1
        surface = np.concatenate([surface, image])
    return surface


def around(surface: Array, count: int, axis: str = "y", start: float = 0.0) -> Array:
    """Copies of a surface at equal angles about an axis.

    Args:
        surface: Triangles [T, 3, 3].
        count: The number of copies.
        axis: "x", "y" or "z".
        start: The angle of the first copy in degrees.
    """
    return join(*(turn(surface, axis, start + 360 * i / count) for i in range(count)))


def copies(surface: Array, places) -> Array:
    """Copies of a surface at several positions.

    Args:
        surface: Triangles [T, 3, 3].
        places: The positions [P, 3].
    """
    return (surface[None] + np.asarray(places, dtype=float)[:, None, None]).reshape(-1, 3, 3)


# --- points


def bounds(points: Array) -> tuple[Array, Array]:
    """The lower and the upper corner of the points' bounding box.

    Args:
        points: [..., 3].
    """
    columns = np.ascontiguousarray(points.reshape(-1, 3).T)
    return columns.min(1), columns.max(1)


def centered(triangles: Array) -> Array:
    """Center a surface's bounding box at the origin and scale its diagonal to length 2.

    Args:
        triangles: [T, 3, 3].
    """
    low, high = bounds(triangles)
    return (triangles - (low + high) / 2) / (np.linalg.norm(high - low) / 2)


def sample(triangles: Array, count: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Sample points uniformly by area [count, 3], with the triangle of each.

    Args:
        triangles: [T, 3, 3].
        count: The number of points.
        rng: The random generator.
    """
    origin = triangles[:, 0]
    u, v = triangles[:, 1] - origin, triangles[:, 2] - origin
    normal = u[:, [1, 2, 0]] * v[:, [2, 0, 1]] - u[:, [2, 0, 1]] * v[:, [1, 2, 0]]
    areas = np.sqrt(np.einsum("ij,ij->i", normal, normal)).cumsum()
    chance = rng.random((3, count))
    which = np.searchsorted(areas[:-1], chance[0] * areas[-1], side="right")
    outside = chance[1] + chance[2] > 1
    a = np.where(outside, 1 - chance[1], chance[1])[:, None]
    b = np.where(outside, 1 - chance[2], chance[2])[:, None]
    return origin[which] + a * u[which] + b * v[which], which
