"""Vessels and containers: mostly surfaces of revolution, open at the top."""

import numpy as np

from dapt.synthetic.families.family import family
from dapt.synthetic.shapes import (
    arc,
    around,
    ball,
    box,
    cylinder,
    in_plane,
    join,
    lathe,
    mirror,
    rod,
    shift,
    tube,
)


def hollow(outline, wall=0.03):
    """The outline of a vessel's outside from bottom to rim, followed by that of its inside.

    Args:
        outline: The (radius, height) of the outside, from the bottom up [P, 2].
        wall: The thickness of the wall.
    """
    outside = np.asarray(outline, dtype=float)
    bottom = outside[0, 1]
    inside = np.maximum(outside[::-1] - (wall, 0), (0, bottom + wall))
    return np.concatenate([[(0, bottom)], outside, inside, [(0, bottom + wall)]])


def handle(x, low, high, reach, thick=0.03):
    """A loop at the side.

    Args:
        x: The distance of its ends from the axis.
        low: The height of its lower end.
        high: The height of its upper end.
        reach: How far it extends outward.
        thick: The radius of the loop's cross-section.
    """
    bow = arc(1, -90, 90, 9) * (reach, (high - low) / 2)
    return tube(in_plane(bow, "xy", (x, (low + high) / 2, 0)), thick)


def curve(r, radii, height):
    """A smooth outline, [12, 2].

    Args:
        r: The dice.
        radii: The radii at equally spaced heights.
        height: The total height.
    """
    knots = np.linspace(0, 1, len(radii))
    at = np.linspace(0, 1, 12)
    fit = np.polynomial.polynomial.polyfit(knots, radii, len(radii) - 1)
    return np.stack([np.polynomial.polynomial.polyval(at, fit), at * height], 1)


@family("body", "neck", "cap")
def bottle(r):
    radius, height = r(0.16, 0.26), r(0.55, 0.75)
    neck, shoulder = radius * r(0.25, 0.45), r(0.1, 0.22)
    rise = r(0.12, 0.3)
    square = 4 if r.chance(0.15) else 16
    yield "body", lathe([(0, 0), (radius, 0), (radius, height)], segments=square)
    bend = [(neck + (radius - neck) * np.cos(t), height + shoulder * np.sin(t)) for t in _quarter]
    top = height + shoulder
    yield "neck", join(lathe(bend, segments=square), lathe([(neck, top), (neck, top + rise)]))
    yield "cap", cylinder(neck * r(1.05, 1.4), r(0.05, 0.12), (0, top + rise, 0))


_quarter = np.linspace(0, np.pi / 2, 6)


@family("body", "foot")
def vase(r):
    height = r(0.7, 1.1)
    radii = [r(0.1, 0.2), r(0.18, 0.38), r(0.06, 0.2), r(0.1, 0.28)]
    yield "body", lathe(hollow(curve(r, radii, height), 0.02), segments=18)
    yield "foot", cylinder(radii[0] * r(1.0, 1.3), 0.04, (0, -0.04, 0))


@family("body", "handle")
def mug(r):
    radius, height = r(0.26, 0.36), r(0.5, 0.8)
    yield "body", lathe(hollow([(radius * r(0.8, 1.0), 0), (radius, height)]))
    yield "handle", handle(radius * 0.95, height * 0.2, height * 0.8, r(0.16, 0.28), r(0.03, 0.05))


@family("body", "foot")
def bowl(r):
    radius, height = r(0.4, 0.55), r(0.2, 0.42)
    line = [(radius * np.sin(t) ** r(0.6, 0.9), height * (1 - np.cos(t))) for t in _quarter]
    line[0] = (radius * 0.3, 0)
    yield "body", lathe(hollow(line), segments=20)
    yield "foot", cylinder(radius * r(0.3, 0.45), 0.05, (0, -0.05, 0))


@family("body", "lid")
def jar(r):
    radius, height = r(0.25, 0.38), r(0.4, 0.7)
    mouth = radius * r(0.7, 0.95)
    yield "body", lathe([(0, 0), (radius, 0.02), (radius, height * 0.85), (mouth, height)])
    yield "lid", cylinder(mouth * 1.08, r(0.06, 0.14), (0, height, 0))
    if r.chance(0.4):
        yield "lid", ball(0.06, 0.06, 0.06, (0, height + 0.14, 0))


@family("body", "spout", "handle", "lid")
def teapot(r):
    radius, height = r(0.32, 0.42), r(0.4, 0.6)
    yield "body", ball(radius, height / 2, radius, (0, height / 2, 0))
    yield "lid", lathe([(radius * 0.5, height * 0.9), (radius * 0.4, height), (0, height * 1.06)])
    yield "lid", ball(0.05, 0.05, 0.05, (0, height * 1.1, 0))
    start, reach, rise = radius * 0.85, r(0.2, 0.35), r(0.8, 1.1)
    line = [
        (start, height * 0.35),
        (start + reach * 0.6, height * 0.5),
        (start + reach, height * rise),
    ]
    yield "spout", tube(in_plane(np.array(line), "xy"), (0.09, 0.06, 0.035))
    yield (
        "handle",
        handle(0, height * 0.2, height * 0.85, r(0.2, 0.3), 0.03) * (-1, 1, 1)
        - (
            radius * 0.9,
            0,
            0,
        ),
    )


@family("body", "handle")
def bucket(r):
    low, high, height = r(0.24, 0.32), r(0.34, 0.42), r(0.55, 0.8)
    yield "body", lathe(hollow([(low, 0), (high, height)], 0.015), segments=20)
    up = r.chance(0.6)
    bow = arc(high, 0, 180, 13, r(0.8, 1.1))
    line = in_plane(bow, "xy" if up else "xz", (0, height, 0))
    yield "handle", tube(line, 0.014)


@family("bowl", "stem", "foot")
def wine_glass(r):
    radius, height = r(0.2, 0.3), r(0.3, 0.5)
    stem = r(0.3, 0.55)
    line = [(0.03 + radius * np.sin(t * r(1.0, 1.3)), height * t / 1.6) for t in _quarter]
    yield "bowl", shift(lathe(hollow(line, 0.012)), 0, stem)
    yield "stem", cylinder(0.022, stem)
    yield "foot", lathe([(0, 0), (radius * r(0.7, 1.0), 0), (0.03, 0.05)])


@family("body", "handle")
def pan(r):
    radius, height = r(0.3, 0.45), r(0.08, 0.3)
    yield "body", lathe(hollow([(radius * r(0.8, 1.0), 0), (radius, height)], 0.02), segments=20)
    length = r(0.4, 0.7)
    if r.chance(0.75):
        end = (radius + length, height * r(0.9, 1.5), 0)
        yield "handle", rod((radius, height * 0.8, 0), end, 0.035, 0.04)
    else:
        yield "handle", mirror(handle(radius, height * 0.5, height * 0.8, 0.14, 0.025), "x")


@family("body", "handle")
def basket(r):
    width, depth, height = r(0.5, 0.8), r(0.4, 0.6), r(0.25, 0.45)
    rings = []
    for level in np.linspace(0.04, 1, r.count(4, 7)):
        grow = 0.8 + 0.2 * level
        oval = arc(0.5, 0, 360, 17) * (width * grow, depth * grow)
        rings.append(tube(in_plane(oval, "xz", (0, level * height, 0)), 0.022, 5))
    yield "body", join(*rings, box(width * 0.6, 0.02, depth * 0.6))
    ribs = rod((width * 0.4, 0, 0), (width * 0.5, height, 0), 0.012, segments=4)
    yield "body", around(ribs, 12) * (1, 1, depth / width)
    bow = arc(width * 0.5, 0, 180, 11, r(0.7, 1.2))
    yield "handle", tube(in_plane(bow, "xy", (0, height, 0)), 0.022)


@family("pot", "stem", "leaves")
def plant(r):
    radius, height = r(0.16, 0.26), r(0.22, 0.4)
    yield "pot", lathe(hollow([(radius * 0.75, 0), (radius, height)]))
    count, tall = r.count(5, 12), r(0.4, 0.9)
    for i in range(count):
        lean, length = r(0.1, 0.6), tall * r(0.6, 1.0)
        angle = 2 * np.pi * i / count + r(0, 0.5)
        way = np.array([np.cos(angle) * lean, 1, np.sin(angle) * lean])
        tip = np.array([0, height, 0]) + way * length
        yield "stem", rod((0, height * 0.9, 0), tip, 0.01, segments=4)
        size = r(0.06, 0.14)
        yield "leaves", ball(size, size * r(0.3, 1.2), size, tip)
