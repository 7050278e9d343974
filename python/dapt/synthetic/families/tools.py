"""Tools and other handheld objects, upright with the grip at the bottom."""

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
    slab,
    tube,
    turn,
)


def grip(r, length, radius):
    """The handle of a tool.

    Args:
        r: The dice.
        length: The size along y.
        radius: The approximate radius.
    """
    middle = r(0.85, 1.3)
    line = [(0, 0), (radius, 0.02), (radius * middle, length * 0.5), (radius * 0.8, length)]
    return lathe(line, segments=10)


@family("handle", "head")
def hammer(r):
    length = r(0.7, 0.95)
    yield "handle", grip(r, length, r(0.03, 0.045))
    size = r(0.06, 0.1)
    head = turn(cylinder(size, r(0.16, 0.24), segments=12), "z", 90)
    yield "head", shift(head, 0.0, length)
    if r.chance(0.6):  # a claw
        claw = np.array([(0, 0), (0.12, 0.02), (0.24, -0.08)])
        for side in (-0.03, 0.03):
            yield "head", tube(in_plane(claw, "xy", (0, length, side)), (0.05, 0.03, 0.012))
    else:
        yield "head", shift(turn(cylinder(size, 0.2, segments=12), "z", -90), 0, length)


@family("handle", "blade")
def axe(r):
    length = r(0.8, 1.1)
    yield "handle", grip(r, length, r(0.025, 0.04))
    reach, wide = r(0.2, 0.32), r(0.14, 0.24)
    blade = [
        (-0.05, -0.05),
        (0.05, -0.06),
        (reach, -wide),
        (reach * 1.1, 0),
        (reach, wide * 0.9),
        (0.05, 0.06),
        (-0.05, 0.05),
    ]
    yield "blade", slab(blade, 0.05, (0, length * 0.9, 0))
    if r.chance(0.3):
        yield "blade", slab(blade, 0.05) * (-1, 1, 1) + (0, length * 0.9, 0)


@family("handle", "shaft")
def screwdriver(r):
    length, radius = r(0.35, 0.5), r(0.06, 0.1)
    sides = r.pick(6, 8, 12)
    line = [
        (0, 0),
        (radius * 0.8, 0),
        (radius, length * 0.3),
        (radius * 0.7, length * 0.85),
        (radius, length),
        (0, length),
    ]
    yield "handle", lathe(line, segments=sides)
    shaft = r(0.4, 0.65)
    yield "shaft", cylinder(0.022, shaft, (0, length, 0), segments=8)
    yield "shaft", box(0.06, 0.06, 0.015, (0, length + shaft - 0.02, 0))


@family("handle", "jaws")
def wrench(r):
    length, wide, thick = r(0.7, 1.0), r(0.06, 0.1), r(0.03, 0.05)
    yield "handle", box(wide, length, thick)

    def fork(size):
        jaw = in_plane(arc(size, 35, 325, 11), "xy")
        return tube(jaw, size * 0.35) * (1, 1, thick / (0.5 * size))

    head = turn(fork(wide * r(1.3, 1.7)), "z", 90 + r(-20, 20))
    yield "jaws", shift(head, 0, length + wide)
    if r.chance(0.6):
        ring = in_plane(arc(wide * 1.1, 0, 360, 15), "xy", (0, -wide, 0))
        yield "jaws", tube(ring, 0.035)


@family("handle", "blade")
def knife(r):
    length, radius = r(0.3, 0.42), r(0.03, 0.045)
    yield "handle", box(radius * 2, length, radius * 1.4, top=r(0.7, 1.1))
    wide, tall = r(0.06, 0.13), r(0.45, 0.8)
    edge = [
        (-wide / 2, 0),
        (wide / 2, 0),
        (wide / 2, tall * r(0.5, 0.8)),
        (-wide / 2 * r(0.2, 1.0), tall),
    ]
    yield "blade", slab(edge, 0.014, (0, length, 0))
    if r.chance(0.25):
        yield "handle", box(r(0.15, 0.3), 0.03, 0.05, (0, length, 0))


@family("handle", "bowl")
def spoon(r):
    length = r(0.6, 0.8)
    wide = r(0.09, 0.16)
    bend = np.array([(0, 0), (length * 0.5, 0.03), (length, 0.0)])
    yield "handle", tube(in_plane(bend, "yx"), (0.035, 0.018, 0.02))
    if r.chance(0.6):
        cup = lathe([(np.sin(t), -np.cos(t)) for t in np.linspace(0, np.pi / 2, 6)], segments=14)
        cup = turn(cup * (wide, wide * r(0.4, 0.9), wide * 1.5), "x", 90)
        yield "bowl", shift(cup, 0, length + wide * 1.4)
        return
    yield "bowl", box(wide, wide * 0.8, 0.02, (0, length, 0))  # a fork
    for x in np.linspace(-0.45, 0.45, r.count(3, 4)) * wide:
        yield "bowl", box(0.02, 0.22, 0.02, (x, length + wide * 0.7, 0))


@family("bar", "weights")
def dumbbell(r):
    length, radius = r(0.4, 1.0), r(0.14, 0.26)
    yield "bar", turn(cylinder(0.03, length, (0, -length / 2, 0)), "z", 90)
    if r.chance(0.3):
        yield "weights", mirror(ball(radius, radius, radius, (length / 2, 0, 0)), "x")
        return
    sides = r.pick(6, 8, 16)
    at = length / 2
    for i in range(r.count(1, 3)):
        thick, size = r(0.06, 0.14), radius * (1 - 0.15 * i)
        disc = shift(turn(cylinder(size, thick, segments=sides), "z", -90), at)
        yield "weights", mirror(disc, "x")
        at += thick * 1.1


@family("barrel", "grip", "trigger")
def pistol(r):
    length, wide = r(0.55, 0.8), r(0.06, 0.1)
    yield "barrel", box(length, r(0.12, 0.18), wide)
    tall = r(0.3, 0.42)
    hold = turn(box(0.16, tall, wide * 1.1, (0, -tall, 0)), "z", -r(8, 22))
    yield "grip", shift(hold, -length * 0.36, 0.04)
    guard = in_plane(arc(0.08, 180, 360, 9), "xy", (-length * 0.12, 0, 0))
    yield "trigger", tube(guard, 0.016)
    if r.chance(0.4):
        yield "barrel", turn(cylinder(wide * 1.1, 0.16, segments=8), "z", 90) + (0, 0.08, 0)


@family("body", "lens", "knobs")
def camera(r):
    width, height, depth = r(0.5, 0.7), r(0.32, 0.45), r(0.18, 0.28)
    yield "body", box(width, height, depth)
    radius, reach = r(0.12, 0.18), r(0.1, 0.4)
    lens = lathe([(0, 0), (radius, 0), (radius * 0.9, reach), (radius * 0.6, reach)])
    yield "lens", shift(turn(lens, "x", 90), r(-0.05, 0.05), height * 0.48, depth / 2)
    yield "knobs", cylinder(0.05, 0.05, (width * 0.35, height, 0))
    if r.chance(0.5):
        yield "knobs", box(0.18, 0.1, depth * 0.7, (0, height, 0), top=0.6)


@family("frames", "bridge", "temples")
def glasses(r):
    size, gap = r(0.16, 0.22), r(0.05, 0.1)
    round_ = r.pick(17, 17, 5)
    rim = in_plane(arc(size, 45, 405, round_, r(0.75, 1.0)), "xy", (size + gap / 2, 0, 0))
    yield "frames", mirror(tube(rim, r(0.012, 0.028)), "x")
    yield (
        "bridge",
        tube([(-gap / 2 - 0.02, 0.03, 0), (0, 0.06, 0), (gap / 2 + 0.02, 0.03, 0)], 0.014),
    )
    edge, length = 2 * size + gap / 2, r(0.5, 0.65)
    line = [(edge, 0.03, 0), (edge + 0.02, 0.03, -length), (edge + 0.01, -0.1, -length - 0.1)]
    yield "temples", mirror(tube(line, 0.014), "x")


@family("blades", "rings")
def scissors(r):
    length, spread = r(0.5, 0.7), r(4, 28)
    blade = slab([(-0.03, 0), (0.04, 0), (0.03, length * 0.5), (-0.02, length)], 0.02)
    size = r(0.09, 0.13)
    ring = tube(in_plane(arc(size, 0, 360, 15, r(1.0, 1.5)), "xy", (0.1, -0.38, 0)), 0.022)
    shank = rod((0, 0, 0), (0.05, -0.26, 0), 0.025)
    yield "blades", turn(blade, "z", spread / 2)
    yield "rings", turn(join(ring, shank), "z", spread / 2)
    yield "blades", turn(blade * (-1, 1, 1) + (0, 0, 0.02), "z", -spread / 2)
    yield "rings", turn(join(ring, shank) * (-1, 1, 1), "z", -spread / 2)


@family("brush", "handle")
def broom(r):
    length = r(1.1, 1.4)
    yield "handle", rod((0, 0.25, 0), (0, length, 0), 0.018)
    if r.chance(0.5):
        yield "brush", box(r(0.3, 0.45), 0.28, 0.08, top=r(0.4, 0.8))
    else:
        stalks = rod((0.12, 0, 0), (0.03, 0.32, 0), 0.012, segments=4)
        yield "brush", join(around(stalks, 12), lathe([(0.1, 0), (0.03, 0.32)]))
