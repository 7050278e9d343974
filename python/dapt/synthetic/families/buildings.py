"""Buildings and outdoor structures."""

import numpy as np

from dapt.synthetic.families.family import family
from dapt.synthetic.shapes import (
    arc,
    around,
    box,
    copies,
    cylinder,
    in_plane,
    join,
    lathe,
    mirror,
    rod,
    slab,
    tube,
)


@family("walls", "roof", "chimney")
def house(r):
    width, length, height = r(0.6, 0.9), r(0.7, 1.3), r(0.4, 0.8)
    yield "walls", box(width, height, length)
    rise, over = r(0.2, 0.45), 1.12
    if r.chance(0.75):
        gable = [(-width / 2 * over, height), (width / 2 * over, height), (0, height + rise)]
        yield "roof", slab(gable, length * over)
    else:
        yield "roof", box(width * over, rise, length * over, (0, height, 0), top=r(0.1, 0.5))
    if r.chance(0.6):
        at = (width * r(0.15, 0.3), height + rise * 0.2, length * r(-0.3, 0.3))
        yield "chimney", box(0.1, rise, 0.1, at)
    yield "walls", box(0.16, height * 0.6, 0.05, (r(-0.15, 0.15), 0, length / 2))
    if r.chance(0.5):
        yield "walls", box(width * 0.6, height * 0.6, length * 0.5, (width * 0.7, 0, 0))


@family("shaft", "top")
def tower(r):
    radius, height = r(0.16, 0.28), r(1.0, 1.6)
    sides = r.pick(4, 6, 8, 16)
    yield "shaft", cylinder(radius, height, top=r(0.6, 1.0), segments=sides)
    style = r.count(0, 2)
    if style == 0:
        yield "top", lathe([(radius * 1.2, height), (0, height + r(0.3, 0.6))], segments=sides)
    elif style == 1:
        yield "top", cylinder(radius * 1.25, 0.12, (0, height, 0), segments=sides)
        tooth = box(0.08, 0.12, 0.08, (radius * 1.1, height + 0.12, 0))
        yield "top", around(tooth, r.count(5, 8))
    else:
        yield "top", cylinder(radius * 0.7, 0.3, (0, height, 0), segments=sides)
        yield "top", lathe([(radius * 0.8, height + 0.3), (0, height + 0.5)], segments=sides)


@family("deck", "arches", "rails")
def bridge(r):
    length, width = r(1.5, 2.2), r(0.35, 0.5)
    bow = r(0.05, 0.35)
    x = np.linspace(-1, 1, 13)
    y = bow * (1 - x**2)
    grid = np.stack([x * length / 2, y], 1)
    top = np.concatenate([grid, grid[::-1] - (0, 0.07)])
    yield "deck", join(*(slab(top[[i, i + 1, -2 - i, -1 - i]], width) for i in range(12)))
    if r.chance(0.5):
        arch = tube(
            in_plane(arc(length * 0.42, 0, 180, 15, r(0.4, 0.8)), "xy", (0, -0.1, width / 2)), 0.035
        )
        yield "arches", mirror(arch, "z")
    else:
        piers = [(at, -0.55, 0) for at in np.linspace(-0.36, 0.36, r.count(2, 4)) * length]
        yield "arches", copies(box(0.1, 0.65, width * 0.9), piers)
    posts = [(a * length / 2, bow * (1 - a * a), width / 2) for a in np.linspace(-0.95, 0.95, 9)]
    yield "rails", mirror(copies(box(0.025, 0.18, 0.025), posts), "z")
    rail = np.stack([x * length / 2, y + 0.18, np.full(13, width / 2)], 1)
    yield "rails", mirror(tube(rail, 0.014, 4), "z")


@family("pickets", "rails", "posts")
def fence(r):
    length, height, count = r(1.3, 2.0), r(0.5, 0.9), r.count(7, 13)
    places = [(x, 0.04, 0.03) for x in np.linspace(-0.47, 0.47, count) * length]
    wide = length / count * r(0.3, 0.75)
    picket = box(wide, height, 0.02, top=1.0)
    if r.chance(0.5):
        picket = slab(
            [
                (-wide / 2, 0),
                (wide / 2, 0),
                (wide / 2, height),
                (0, height + wide),
                (-wide / 2, height),
            ],
            0.02,
        )
    yield "pickets", copies(picket, places)
    yield "rails", copies(box(length, 0.06, 0.025), [(0, height * 0.25, 0), (0, height * 0.75, 0)])
    if r.chance(0.6):
        yield "posts", mirror(box(0.09, height * 1.15, 0.09, (length / 2, 0, 0)), "x")


@family("steps", "rails")
def stairs(r):
    count, width = r.count(5, 9), r(0.5, 0.9)
    rise, run = r(0.12, 0.18), r(0.16, 0.24)
    solid = r.chance(0.5)
    for i in range(count):
        z = (i - count / 2) * run
        tall = (i + 1) * rise if solid else 0.035
        yield "steps", box(width, tall, run, (0, (i + 1) * rise - tall, z))
    if not solid or r.chance(0.5):
        low, high = (
            np.array([width / 2, 0, -count / 2 * run]),
            np.array([width / 2, count * rise, count / 2 * run]),
        )
        up = np.array([0, 0.5, 0])
        rail = rod(low + up, high + up, 0.02)
        posts = [
            rod(low + t * (high - low), low + t * (high - low) + up, 0.014)
            for t in (0.05, 0.5, 0.95)
        ]
        yield "rails", mirror(join(rail, *posts), "x")
        if not solid:
            yield "rails", mirror(rod(low, high, 0.03), "x")


@family("tower", "blades", "hub")
def windmill(r):
    height, radius = r(1.0, 1.5), r(0.1, 0.24)
    yield "tower", cylinder(radius, height, top=r(0.4, 0.7), segments=10)
    yield "hub", lathe([(radius * 0.9, height), (0, height + 0.2)], segments=10)
    length, wide = r(0.5, 0.8), r(0.06, 0.16)
    blade = box(wide, length, 0.02, (0, 0.05, 0), top=r(0.5, 1.3))
    sails = around(blade, r.count(3, 4), "z", start=r(0, 90)) + (0, height * 0.95, radius)
    yield "blades", sails
    yield "hub", rod((0, height * 0.95, 0), (0, height * 0.95, radius + 0.05), 0.05)
