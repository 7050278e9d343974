"""Vehicles on land, in the air and on water, with the nose toward +z."""

import numpy as np

from dapt.synthetic.families.family import family
from dapt.synthetic.shapes import (
    arc,
    around,
    ball,
    box,
    copies,
    cylinder,
    in_plane,
    join,
    lathe,
    mirror,
    rod,
    sheet,
    shift,
    slab,
    tube,
    turn,
)


def wheel(radius, width, at):
    """A wheel on the ground, its axle along x.

    Args:
        radius: The radius of the tire.
        width: The width of the tire.
        at: The (x, z) of its center.
    """
    rim = [
        (0, -0.3),
        (0.6, -0.3),
        (0.8, -0.5),
        (1, -0.5),
        (1, 0.5),
        (0.8, 0.5),
        (0.6, 0.3),
        (0, 0.3),
    ]
    tire = turn(lathe(np.array(rim) * (radius, width), segments=14), "z", 90)
    return shift(tire, at[0], radius, at[1])


def along_z(outline, width):
    """Extrude a side view to a solid.

    Args:
        outline: The (z, y) of the outline [P, 2].
        width: The size along x.
    """
    return turn(slab(np.asarray(outline) * (-1, 1), width), "y", 90)


@family("body", "cabin", "wheels")
def car(r):
    length, width, height = r(1.5, 1.9), r(0.65, 0.8), r(0.24, 0.34)
    low = r(0.12, 0.2)
    hood, trunk, roof = r(0.2, 0.34), r(0.05, 0.25), r(0.22, 0.32)
    half = length / 2
    body = [
        (-half, low),
        (half, low),
        (half, low + height * 0.7),
        (half * 0.9, low + height),
        (-half, low + height),
    ]
    yield "body", along_z(body, width)
    base = low + height
    front, rear = half - hood * length, -half + trunk * length
    slope = r(0.1, 0.3)
    top = [
        (rear, base),
        (front, base),
        (front - slope, base + roof),
        (rear + slope * r(0.2, 0.8), base + roof),
    ]
    yield "cabin", along_z(top, width * r(0.85, 0.95))
    radius = r(0.14, 0.2)
    yield "wheels", mirror(wheel(radius, 0.13, (width / 2, half * 0.62)), "x", "z")
    if r.chance(0.2):
        yield "body", box(width, 0.03, 0.12, (0, base + 0.12, -half))


@family("cab", "cargo", "wheels")
def truck(r):
    width, low = r(0.6, 0.75), r(0.18, 0.26)
    cab, cargo = r(0.4, 0.6), r(0.9, 1.8)
    tall = r(0.55, 0.75)
    yield "cab", box(width, tall, cab, (0, low, cargo / 2 + cab / 2 + 0.06), top=r(0.85, 1.0))
    if r.chance(0.3):
        yield "cab", box(width * 0.9, tall * 0.5, 0.35, (0, low, cargo / 2 + cab + 0.2))
    style = r.count(0, 2)
    if style == 0:
        yield "cargo", box(width * 1.05, tall * r(1.0, 1.4), cargo, (0, low + 0.05, 0))
    elif style == 1:
        tank = turn(cylinder(width * 0.5, cargo), "x", 90)
        yield "cargo", shift(tank, 0, low + width * 0.55, -cargo / 2)
    else:
        wall = tall * r(0.25, 0.5)
        yield "cargo", mirror(box(0.03, wall, cargo, (width / 2, low + 0.05, 0)), "x")
        yield "cargo", mirror(box(width, wall, 0.03, (0, low + 0.05, cargo / 2)), "z")
    yield "cargo", box(width, 0.06, cargo + cab, (0, low, cab / 2))
    radius = r(0.15, 0.2)
    places = [cargo / 2 + cab * 0.6, -cargo * 0.3] + ([-cargo * 0.3 - 2.2 * radius] * r.chance(0.5))
    yield "wheels", mirror(join(*(wheel(radius, 0.14, (width / 2, z)) for z in places)), "x")


@family("body", "windows", "wheels")
def bus(r):
    length, width, height = r(1.8, 2.5), r(0.55, 0.68), r(0.55, 0.75)
    low = r(0.1, 0.16)
    yield "body", box(width, height, length, (0, low, 0), top=r(0.93, 1.0))
    count = r.count(4, 7)
    panes = [(width / 2, low + height * 0.5, z) for z in np.linspace(-0.4, 0.4, count) * length]
    pane = box(0.03, height * 0.35, length * 0.75 / count)
    yield "windows", mirror(copies(pane, panes), "x")
    yield "windows", box(width * 0.85, height * 0.4, 0.04, (0, low + height * 0.45, length / 2))
    yield "wheels", mirror(wheel(0.14, 0.12, (width / 2, length * 0.33)), "x", "z")


@family("fuselage", "wings", "tail", "engines")
def airplane(r):
    length, radius = r(1.5, 2.0), r(0.08, 0.15)
    ends = np.linspace(-1, 1, 12)
    shape = radius * np.clip(1 - np.abs(ends) ** r(4, 8), 0.02, None)
    yield "fuselage", tube(in_plane(np.stack([0 * ends, ends * length / 2], 1), "xz"), shape, 10)
    span, chord, sweep = r(0.6, 1.0), r(0.2, 0.35), r(0.0, 0.5)
    wing = slab(
        [(0, chord / 2), (0, -chord / 2), (span, -chord / 2 - sweep), (span, -chord * 0.1 - sweep)],
        0.03,
    )
    height = r(-0.5, 0.9) * radius
    yield "wings", mirror(shift(turn(wing, "x", 90), 0, height, r(0, 0.2)), "x")
    if r.chance(0.1):  # a biplane
        yield "wings", mirror(shift(turn(wing, "x", 90), 0, height + 0.25, 0.1), "x")
    back = -length / 2 * 0.88
    rudder = [(0, 0), (0.24, 0), (-0.08, r(0.28, 0.4)), (-0.16, 0.36)]
    yield "tail", shift(along_z(rudder, 0.025), 0, radius * 0.4, back)
    small = turn(wing * (0.38, 0.5, 1), "x", 90)
    yield "tail", mirror(shift(small, 0, r.pick(0.02, 0.34), back), "x")
    if r.chance(0.65):
        for i in range(r.count(1, 2)):
            pod = turn(
                lathe([(0.03, 0), (0.055, 0.06), (0.05, 0.25), (0.02, 0.3)], segments=10), "x", 90
            )
            at = (span * (0.3 + 0.3 * i), height - 0.07, 0.05 - sweep * (0.3 + 0.3 * i))
            yield "engines", mirror(shift(pod, *at), "x")
    else:
        blade = around(box(0.03, 0.22, 0.012), 3, "z")
        yield "engines", shift(blade, 0, 0, length / 2)


@family("cabin", "tail", "rotor", "skids")
def helicopter(r):
    size = r(0.24, 0.32)
    yield "cabin", ball(size * 0.8, size, size * r(1.2, 1.6), (0, 0, 0.1))
    length = r(0.8, 1.1)
    yield "tail", rod((0, size * 0.3, -size * 0.6), (0, size * 0.6, -length), size * 0.4, 0.04)
    yield "tail", shift(around(box(0.02, 0.16, 0.03), 3, "x"), 0.05, size * 0.6, -length)
    yield "rotor", cylinder(0.03, 0.14, (0, size * 0.9, 0))
    blade = box(r(0.75, 1.0), 0.015, 0.07, (0.45, size + 0.14, 0))
    yield "rotor", around(blade, r.count(2, 5), start=r(0, 90))
    skid = rod((size * 0.8, -size * 1.35, -0.35), (size * 0.8, -size * 1.35, 0.5), 0.02)
    strut = rod((size * 0.8, -size * 1.35, 0.15), (size * 0.4, -size * 0.5, 0.15), 0.016)
    yield "skids", mirror(join(skid, strut, shift(strut, z=-0.3)), "x")


@family("hull", "deck", "mast")
def boat(r):
    length, width, height = r(1.3, 1.9), r(0.4, 0.6), r(0.22, 0.36)
    z = np.linspace(-1, 1, 12)
    beam = (
        width / 2 * (1 - np.clip(z, 0, 1) ** 2 * 0.98) * (1 - np.clip(-z, 0, 1) ** 4 * r(0.1, 0.6))
    )
    rows = []
    for depth in np.linspace(0, 1, 5):
        narrow = np.sqrt(1 - depth**2 * 0.98)
        row = np.stack([beam * narrow, -height * depth + 0.08 * np.abs(z) ** 2, z * length / 2], 1)
        rows.append(row)
    half = np.stack(rows)
    yield "hull", mirror(sheet(half), "x")
    deck = half[0] * (0.95, 1, 1) - (0, 0.05, 0)
    yield "deck", sheet(np.stack([deck, deck * (-1, 1, 1)]))
    style = r.count(0, 2)
    if style == 0:
        tall = r(0.8, 1.4)
        yield "mast", rod((0, -0.05, 0.1), (0, tall, 0.1), 0.018)
        yield "mast", along_z([(0.08, 0.12), (0.08, tall * 0.95), (-length * 0.42, 0.14)], 0.012)
        if r.chance(0.6):
            yield "mast", along_z([(0.13, 0.08), (0.13, tall * 0.8), (length * 0.45, 0.08)], 0.012)
    elif style == 1:
        yield (
            "deck",
            box(width * 0.55, r(0.16, 0.3), length * r(0.25, 0.45), (0, -0.05, -0.1), top=0.85),
        )
        yield "mast", cylinder(0.05, 0.3, (0, 0.1, -0.2))
    else:
        seats = [(0, -0.06, z) for z in (-0.4, 0.0, 0.35)]
        yield "deck", copies(box(width * 0.8, 0.03, 0.1), seats)


@family("body", "nose", "fins", "engine")
def rocket(r):
    radius, height = r(0.12, 0.2), r(1.0, 1.6)
    yield "body", lathe([(0, 0), (radius, 0), (radius, height)])
    tip = r(0.25, 0.5)
    t = np.linspace(0, 1, 6)
    yield "nose", lathe(np.stack([radius * (1 - t ** r(1.2, 2.2)), height + tip * t], 1))
    wide = r(0.14, 0.3)
    fin = slab(
        [(radius * 0.9, 0), (radius + wide, -0.12), (radius + wide, 0.06), (radius * 0.9, 0.4)],
        0.02,
    )
    yield "fins", around(fin, r.count(3, 4))
    yield "engine", lathe([(radius * 0.4, 0), (radius * 0.8, -0.16)])
    if r.chance(0.3):
        booster = lathe([(0, 0), (0.08, 0), (0.08, height * 0.6), (0, height * 0.7)], segments=10)
        yield "body", mirror(shift(booster, radius + 0.08), "x")


@family("wheels", "frame", "handlebar", "saddle")
def bicycle(r):
    radius, base = r(0.3, 0.36), r(0.95, 1.15)
    ring = in_plane(arc(radius, 0, 360, 21), "zy", (0, radius, 0))
    tire = tube(ring, r(0.018, 0.035))
    spokes = shift(around(rod((0, 0, 0), (0, radius, 0), 0.006, segments=3), 8, "x"), 0, radius)
    for z in (-base / 2, base / 2):
        yield "wheels", shift(join(tire, spokes), 0, 0, z)
    rear, crank = (0, radius, -base / 2), (0, radius * 0.9, -0.05)
    seat, head = (0, radius * 2.0, -0.2), (0, radius * 2.1, base / 2 - 0.2)
    front = (0, radius, base / 2)
    for start, end in (
        (rear, crank),
        (rear, seat),
        (crank, seat),
        (crank, head),
        (seat, head),
        (head, front),
    ):
        yield "frame", rod(start, end, 0.018)
    yield "saddle", ball(0.07, 0.025, 0.14, (0, radius * 2.0 + 0.1, -0.22))
    yield "saddle", rod(seat, (0, radius * 2 + 0.1, -0.22), 0.014)
    rise = r(0.08, 0.2)
    top = (0, head[1] + rise, head[2] - 0.04)
    bar = rod((-r(0.2, 0.28), top[1], top[2] - r(-0.1, 0.1)), top, 0.014)
    yield "handlebar", join(mirror(bar, "x"), rod(head, top, 0.016))


@family("tank", "frame", "wheels", "handlebar")
def motorcycle(r):
    radius, base = r(0.24, 0.3), r(0.95, 1.15)
    yield "wheels", wheel(radius, r(0.1, 0.16), (0, base / 2))
    yield "wheels", wheel(radius, r(0.12, 0.2), (0, -base / 2))
    yield "tank", ball(0.14, 0.12, 0.26, (0, radius * 2.1, 0.08))
    yield "frame", box(0.2, 0.26, 0.4, (0, radius * 0.8, 0))
    yield "frame", box(0.2, 0.08, r(0.4, 0.6), (0, radius * 2.1, -0.3))
    fork = rod((0.08, radius, base / 2), (0.08, radius * 2.7, base / 2 - 0.22), 0.025)
    yield "frame", mirror(fork, "x")
    pipe = rod((0.14, radius * 0.8, 0.1), (0.16, radius * 0.9, -base / 2 - 0.1), 0.03, 0.045)
    yield "frame", mirror(pipe, "x")
    bar = rod((0.3, radius * 2.9, base / 2 - 0.35), (0.0, radius * 2.7, base / 2 - 0.22), 0.018)
    yield "handlebar", mirror(bar, "x")


@family("deck", "trucks", "wheels")
def skateboard(r):
    length, width = r(0.9, 1.2), r(0.22, 0.3)
    z = np.linspace(-1, 1, 13)
    rise = 0.09 * np.clip(np.abs(z) - 0.7, 0, 1) / 0.3
    grid = np.zeros((2, 13, 3))
    end = width / 2 * np.sqrt(np.clip(1 - np.clip(np.abs(z) - 0.8, 0, 1) ** 2 * 20, 0.05, 1))
    grid[0, :, 0], grid[1, :, 0] = -end, end
    grid[..., 1], grid[..., 2] = rise + 0.12, z * length / 2
    yield "deck", join(sheet(grid), sheet(grid - (0, 0.025, 0)))
    at = length * 0.3
    yield "trucks", mirror(box(width * 0.9, 0.03, 0.05, (0, 0.05, at)), "z")
    yield "trucks", mirror(box(0.08, 0.07, 0.1, (0, 0.05, at)), "z")
    yield "wheels", mirror(wheel(0.05, 0.06, (width * 0.42, at)), "x", "z")


@family("body", "chimney", "wheels", "cab")
def locomotive(r):
    length, radius = r(1.1, 1.5), r(0.22, 0.3)
    low = r(0.22, 0.3)
    boiler = turn(cylinder(radius, length), "x", 90)
    yield "body", shift(boiler, 0, low + radius, -length / 2 + 0.15)
    yield "body", box(radius * 2.2, 0.08, length * 1.35, (0, low - 0.04, 0))
    tall = r(0.2, 0.36)
    yield (
        "chimney",
        lathe(
            [(0.06, 0), (0.06, tall * 0.6), (r(0.07, 0.14), tall)],
            (0, low + 1.9 * radius, length * 0.42),
        ),
    )
    yield "chimney", ball(0.09, 0.09, 0.09, (0, low + 2 * radius, 0))
    yield "cab", box(radius * 2.3, radius * r(2.4, 2.9), length * 0.32, (0, low, -length * 0.55))
    size, count = low * r(0.8, 1.0) / 2, r.count(3, 5)
    for z in np.linspace(-0.5, 0.5, count) * length:
        yield "wheels", mirror(wheel(size * 1.1, 0.07, (radius, z)), "x")
