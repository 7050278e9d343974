"""Animals, people and plants, facing +z."""

import numpy as np

from dapt.synthetic.families.family import family
from dapt.synthetic.shapes import (
    around,
    ball,
    cylinder,
    join,
    lathe,
    mirror,
    rod,
    shift,
    slab,
    tube,
    turn,
)


@family("body", "head", "legs", "tail")
def quadruped(r):
    length, girth, stand = r(0.7, 1.1), r(0.14, 0.28), r(0.3, 0.75)
    hip = stand + girth
    yield "body", ball(girth, girth * r(0.9, 1.2), length / 2, (0, hip, 0))
    raise_by, reach = r(0.05, 0.6), r(0.1, 0.3)
    neck = np.array([0, hip + girth * 0.4, length * 0.4])
    head = neck + (0, raise_by, reach)
    size = r(0.09, 0.15)
    yield "head", rod(neck, head, girth * 0.6, size * 0.8)
    yield "head", ball(size, size, size * r(1.2, 2.0), head + (0, 0, size))
    ear = rod((size * 0.6, 0, 0), (size * r(0.8, 1.3), size * r(1.0, 2.2), 0), 0.035, 0.01)
    yield "head", mirror(shift(ear, *(head + (0, size * 0.5, 0))), "x")
    thick = r(0.03, 0.07)
    x, z = girth * 0.6, length * 0.36
    for side in (-1, 1):
        for end in (-1, 1):
            step = r(-0.12, 0.12)
            knee = (side * x, hip * 0.5, end * z + step * 0.3)
            yield "legs", rod((side * x, hip, end * z), knee, thick * 1.5, thick)
            yield "legs", rod(knee, (side * x, 0, end * z + step), thick, thick * 0.8)
    tail = np.array([0, hip + girth * 0.3, -length * 0.45])
    drop, long = r(-0.4, 0.3), r(0.1, 0.45)
    yield "tail", tube([tail, tail + (0, 0.05, -long * 0.5), tail + (0, drop, -long)], 0.025)


@family("body", "head", "wings", "legs", "tail")
def bird(r):
    length, girth = r(0.35, 0.5), r(0.14, 0.22)
    lean = r(-10, 40)
    yield "body", turn(ball(girth, girth, length / 2), "x", -lean)
    size = girth * r(0.5, 0.75)
    head = np.array([0, girth * 0.6 + 0.12, length * 0.5])
    yield "head", rod((0, 0, length * 0.25), head, girth * 0.6, size * 0.7)
    yield "head", ball(size, size, size, head)
    yield (
        "head",
        rod(head + (0, 0, size * 0.8), head + (0, -0.02, size + r(0.06, 0.25)), 0.03, 0.005),
    )
    span, chord = r(0.4, 0.9), r(0.2, 0.32)
    wing = slab(
        [(0, chord / 2), (0, -chord / 2), (span, -chord * r(0.4, 1.0)), (span * 0.6, chord * 0.5)],
        0.025,
    )
    if r.chance(0.6):  # spread
        yield "wings", mirror(shift(turn(turn(wing, "x", 90), "z", r(-20, 35)), girth * 0.5), "x")
    else:
        folded = ball(0.04, girth * 0.8, length * 0.5, (girth * 0.9, 0, -0.05))
        yield "wings", mirror(folded, "x")
    yield (
        "tail",
        slab([(-0.04, 0), (0.04, 0), (0.1, -0.3), (-0.1, -0.3)], 0.02) @ _TO_BACK
        + (0, 0, -length * 0.4),
    )
    legs = r(0.12, 0.5)
    yield "legs", mirror(rod((0.07, -girth * 0.7, 0), (0.07, -girth - legs, 0.02), 0.014), "x")
    yield "legs", mirror(rod((0.07, -girth - legs, -0.03), (0.07, -girth - legs, 0.1), 0.014), "x")


_TO_BACK = np.array([[1, 0, 0], [0, 0, 1], [0, 1, 0]], dtype=float)  # y to z


@family("body", "fins", "tail")
def fish(r):
    length, height, width = r(0.9, 1.3), r(0.16, 0.36), r(0.07, 0.18)
    yield "body", ball(width, height, length / 2)
    spread = r(0.14, 0.3)
    fork = [
        (0.12, 0),
        (-0.06, spread),
        (-0.2, spread * 1.1),
        (-0.1, 0),
        (-0.2, -spread * 1.1),
        (-0.06, -spread),
    ]
    tail = turn(slab(np.array(fork) * (-1, 1), 0.02), "y", 90)
    yield "tail", shift(tail, 0, 0, -length / 2 - 0.02)
    dorsal = np.array([(0.2, 0), (-0.05, r(0.12, 0.3)), (-0.2, 0.05), (-0.2, 0)]) * (-1, 1)
    yield "fins", shift(turn(slab(dorsal, 0.018), "y", 90), 0, height * 0.85)
    side = slab([(0, 0.05), (0, -0.05), (r(0.15, 0.3), -0.2), (0.15, -0.02)], 0.015)
    yield (
        "fins",
        mirror(shift(turn(side, "x", r(50, 90)), width * 0.8, -height * 0.3, length * 0.2), "x"),
    )


@family("torso", "head", "arms", "legs")
def person(r):
    leg, torso, wide = r(0.75, 0.95), r(0.5, 0.65), r(0.15, 0.24)
    hip, shoulder = leg, leg + torso
    yield (
        "torso",
        lathe(
            [
                (0, hip - 0.05),
                (wide * 0.85, hip),
                (wide * r(0.6, 0.9), hip + torso * 0.5),
                (wide, shoulder - 0.06),
                (0.06, shoulder),
            ],
            segments=12,
        )
        * (1, 1, 0.6),
    )
    yield "head", ball(0.1, 0.13, 0.115, (0, shoulder + 0.2, 0.01))
    yield "head", cylinder(0.05, 0.12, (0, shoulder - 0.02, 0))
    for side in (-1, 1):
        out, swing = r(0.05, 1.5), r(-0.4, 0.6)
        start = np.array([side * wide, shoulder - 0.06, 0])
        way = np.array([side * np.sin(out), -np.cos(out), swing])
        elbow = start + 0.3 * way / np.linalg.norm(way)
        bend = way + (0, r(0, 1.2), r(0, 1.0))
        hand = elbow + 0.27 * bend / np.linalg.norm(bend)
        yield "arms", join(rod(start, elbow, 0.055, 0.042), rod(elbow, hand, 0.042, 0.035))
        yield "arms", ball(0.045, 0.055, 0.03, hand)
        step, splay = r(-0.3, 0.3), r(0.0, 0.15)
        foot = np.array([side * (wide * 0.5 + splay), 0.05, step])
        knee = (np.array([side * wide * 0.5, hip, 0]) + foot) / 2 + (0, 0, 0.05 + abs(step) * 0.2)
        thigh = rod((side * wide * 0.5, hip, 0), knee, 0.085, 0.06)
        yield (
            "legs",
            join(
                thigh, rod(knee, foot, 0.06, 0.04), ball(0.05, 0.04, 0.12, foot + (0, -0.02, 0.06))
            ),
        )


@family("body", "legs")
def spider(r):
    size = r(0.16, 0.26)
    yield "body", ball(size, size * 0.8, size * r(1.0, 1.5), (0, 0, -size * 0.9))
    yield "body", ball(size * 0.65, size * 0.5, size * 0.7, (0, 0, size * 0.5))
    reach, knee = r(0.5, 0.8), r(0.2, 0.5)
    pairs = r.pick(3, 4, 4, 4)
    for angle in np.linspace(-55, 55, pairs) + r(-6, 6):
        line = [(size * 0.5, 0, 0), (reach * 0.5, knee, 0), (reach, -size, 0)]
        yield "legs", mirror(turn(tube(line, (0.03, 0.022, 0.01)), "y", angle), "x")


@family("body", "shell", "head")
def turtle(r):
    width, length = r(0.4, 0.55), r(0.5, 0.65)
    t = np.linspace(0, np.pi / 2, 7)
    dome = lathe(np.stack([np.sin(t), r(0.4, 0.8) * np.cos(t)], 1), segments=18)
    yield "shell", dome * (width, width, length)
    yield "shell", cylinder(1, 0.06, (0, -0.06, 0)) * (width * 0.95, 1, length * 0.95)
    yield "head", rod((0, 0, length * 0.9), (0, r(0, 0.15), length * 1.3), 0.07)
    yield "head", ball(0.1, 0.09, 0.12, (0, 0.1, length * 1.35))
    leg = ball(0.1, 0.08, 0.17, (width * 0.85, -0.08, length * 0.65))
    yield "body", mirror(leg, "x", "z")
    yield "body", rod((0, -0.03, -length), (0, -0.05, -length * 1.25), 0.04, 0.01)


@family("trunk", "crown")
def tree(r):
    height, radius = r(0.5, 0.9), r(0.04, 0.09)
    yield "trunk", cylinder(radius, height, top=0.6, segments=10)
    style = r.count(0, 2)
    if style == 0:  # a fir
        layers, size, step = r.count(2, 5), r(0.35, 0.5), r(0.22, 0.32)
        for i in range(layers):
            wide = size * (1 - 0.75 * i / layers)
            cone = lathe([(0, 0), (wide, 0), (0, step * 1.7)], (0, height * 0.5 + i * step, 0), 14)
            yield "crown", cone
    elif style == 1:
        for _ in range(r.count(3, 7)):
            size = r(0.18, 0.32)
            yield (
                "crown",
                ball(size, size * 0.85, size, (r(-0.25, 0.25), height + r(0, 0.4), r(-0.25, 0.25))),
            )
    else:  # a palm
        for i in range(r.count(6, 9)):
            droop = r(0.1, 0.35)
            line = [(0, height, 0), (0.28, height + 0.12, 0), (0.55, height - droop, 0)]
            frond = tube(line, (0.02, 0.07, 0.01), 5) * (1, 1, 1)
            yield "crown", turn(frond, "y", 45 * i + r(-12, 12))


@family("stem", "cap")
def mushroom(r):
    height, radius = r(0.35, 0.7), r(0.06, 0.14)
    yield "stem", lathe([(0, 0), (radius * r(1.0, 1.5), 0.02), (radius, height)])
    wide, tall = r(0.25, 0.5), r(0.15, 0.4)
    t = np.linspace(0, np.pi / 2, 7)
    outline = np.stack([wide * np.cos(t), height + tall * np.sin(t)], 1)
    yield "cap", lathe(np.concatenate([[(radius, height + 0.03)], outline]), segments=18)


@family("petals", "stem", "leaves")
def flower(r):
    height, count = r(0.7, 1.1), r.count(5, 9)
    bend = r(-0.15, 0.15)
    top = np.array([bend, height, 0])
    yield "stem", tube([(0, 0, 0), (bend * 0.3, height * 0.5, 0), top], 0.016)
    length, lift = r(0.16, 0.3), r(-10, 60)
    petal = turn(ball(length / 2, 0.015, length * r(0.2, 0.4), (length * 0.6, 0, 0)), "z", lift)
    yield "petals", around(petal, count) + top
    yield "petals", ball(0.06, 0.04, 0.06, top)
    leaf = ball(0.14, 0.012, 0.06, (0.15, 0, 0))
    for level in (0.25, 0.45):
        yield "leaves", turn(turn(leaf, "z", 30), "y", r(0, 360)) + (0, height * level, 0)
