"""Boxes with a front: appliances, devices, seats."""

import numpy as np

from dapt.synthetic.grammars.grammar import grammar
from dapt.synthetic.shapes import (
    arc,
    box,
    copies,
    cushion,
    cylinder,
    in_plane,
    lathe,
    mirror,
    rod,
    shift,
    slab,
    tube,
    turn,
)


@grammar(
    "case",
    "front",
    "controls",
    "legs",
    cooker=dict(
        wide=(0.5, 0.6), high=(0.7, 0.9), deep=(0.5, 0.6), doors=(1, 1), knobs=(3, 6), rings=4
    ),
    washer=dict(
        wide=(0.5, 0.6),
        high=(0.7, 0.85),
        deep=(0.5, 0.6),
        doors=0,
        porthole=(0.15, 0.2),
        knobs=(1, 3),
    ),
    fridge=dict(wide=(0.5, 0.7), high=(1.2, 1.6), deep=(0.5, 0.65), doors=(1, 3), bars=True),
    oven=dict(
        wide=(0.5, 0.6), high=(0.3, 0.45), deep=(0.3, 0.5), doors=(1, 1), knobs=(2, 4), bars=True
    ),
    computer=dict(wide=(0.18, 0.25), high=(0.4, 0.5), deep=(0.4, 0.5), doors=(2, 4), knobs=(1, 2)),
    radio_set=dict(
        wide=(0.5, 0.8),
        high=(0.25, 0.4),
        deep=(0.15, 0.25),
        doors=0,
        knobs=(2, 5),
        porthole=(0.08, 0.12),
        aerial=True,
    ),
    speaker=dict(
        wide=(0.25, 0.4),
        high=(0.5, 0.9),
        deep=(0.25, 0.4),
        doors=0,
        porthole=(0.08, 0.13),
        twin=True,
    ),
    camera=dict(
        wide=(0.5, 0.6), high=(0.3, 0.4), deep=(0.15, 0.2), doors=0, lens=(0.12, 0.18), knobs=(1, 3)
    ),
    keyboard=dict(wide=(0.9, 1.1), high=(0.03, 0.06), deep=(0.3, 0.4), doors=0, keys=(3, 6)),
    laptop=dict(
        wide=(0.6, 0.8), high=0.04, deep=(0.4, 0.5), doors=0, keys=(4, 5), lid=(90.0, 130.0)
    ),
    telephone=dict(
        wide=(0.3, 0.4), high=(0.1, 0.15), deep=(0.3, 0.4), doors=0, keys=(3, 4), receiver=True
    ),
    printer=dict(
        wide=(0.6, 0.8),
        high=(0.25, 0.45),
        deep=(0.4, 0.55),
        doors=(1, 2),
        lid=(110.0, 150.0),
        knobs=(1, 3),
    ),
    piano=dict(wide=(0.9, 1.1), high=(0.7, 0.9), deep=(0.25, 0.35), doors=(1, 1), ledge=True),
    stove=dict(
        wide=(0.4, 0.6),
        high=(0.4, 0.6),
        deep=(0.4, 0.5),
        doors=(1, 1),
        legs=(0.1, 0.2),
        pipe=(0.5, 1.0),
    ),
    fireplace=dict(
        wide=(0.9, 1.2), high=(0.7, 0.9), deep=(0.3, 0.4), doors=0, hearth=True, pipe=[0.0, 0.8]
    ),
    trunk=dict(wide=(0.7, 1.0), high=(0.3, 0.4), deep=(0.4, 0.5), doors=0, rounded=True, bars=True),
    crate=dict(wide=(0.5, 0.8), high=(0.4, 0.7), deep=(0.5, 0.8), doors=0, slats=(3, 6)),
    clock=dict(
        wide=(0.3, 0.4),
        high=(1.2, 1.6),
        deep=(0.2, 0.3),
        doors=(1, 1),
        porthole=(0.1, 0.14),
        plinth=True,
    ),
    vending=dict(
        wide=(0.6, 0.8), high=(1.2, 1.5), deep=(0.5, 0.6), doors=(1, 1), keys=(3, 5), upright=True
    ),
    stool=dict(
        wide=(0.35, 0.45),
        high=(0.04, 0.1),
        deep=(0.35, 0.45),
        doors=0,
        legs=(0.4, 0.7),
        round_=[True, False],
    ),
    bench=dict(
        wide=(1.0, 1.5),
        high=(0.04, 0.08),
        deep=(0.3, 0.45),
        doors=0,
        legs=(0.35, 0.45),
        back=[0.0, 0.4],
    ),
    ottoman=dict(
        wide=(0.5, 0.9), high=(0.3, 0.4), deep=(0.5, 0.7), doors=0, legs=(0.04, 0.1), soft=True
    ),
)
def cases(
    r,
    wide,
    high,
    deep,
    doors,
    knobs=0,
    rings=0,
    porthole=0.0,
    bars=False,
    aerial=False,
    twin=False,
    lens=0.0,
    keys=0,
    lid=0.0,
    receiver=False,
    ledge=False,
    legs=0.0,
    pipe=0.0,
    hearth=False,
    rounded=False,
    slats=0,
    plinth=False,
    upright=False,
    round_=False,
    back=0.0,
    soft=False,
):
    """A box with doors, dials or keys on its front, and what it stands on."""
    front, y = deep / 2 + 0.008, legs
    if soft:
        yield "case", cushion(wide, high, deep, (0, y, 0), roundness=r(2, 5))
    elif round_:
        yield "case", cylinder(wide / 2, high, (0, y, 0))
    elif slats:
        step = high / slats
        board = box(wide, step * 0.8, 0.02)
        yield (
            "case",
            copies(mirror(shift(board, z=deep / 2), "z"), [(0, i * step, 0) for i in range(slats)]),
        )
        yield (
            "case",
            copies(
                mirror(shift(turn(box(deep, step * 0.8, 0.02), "y", 90), wide / 2), "x"),
                [(0, i * step, 0) for i in range(slats)],
            ),
        )
        yield "front", mirror(box(0.06, high, 0.06, (wide / 2, 0, deep / 2)), "x", "z")
    elif hearth:
        side = wide * r(0.18, 0.3)
        yield "case", mirror(box(side, high, deep, (wide / 2 - side / 2, 0, 0)), "x")
        yield "case", box(wide, high * r(0.2, 0.35), deep, (0, high * 0.75, 0))
        yield "front", box(wide * 1.15, 0.06, deep * 1.25, (0, high * 1.05, 0))
        yield (
            "controls",
            copies(
                turn(cylinder(0.05, wide * 0.4, segments=7), "z", 90),
                [(wide * 0.2, 0.06, z) for z in (-0.06, 0.06)],
            ),
        )
    else:
        yield "case", box(wide, high, deep, (0, y, 0))
    if rounded:
        arch = np.concatenate([arc(deep / 2, 0, 180, 9, r(0.4, 1.0))])
        yield "front", turn(slab(arch + (0, high), wide), "y", 90)
    for i in range(doors):
        tall = high / doors
        yield "front", box(wide * 0.9, tall * 0.9, 0.02, (0, y + tall * (i + 0.05), front))
        if bars:
            yield (
                "controls",
                rod(
                    (-wide * 0.35, y + tall * (i + 0.8), front + 0.05),
                    (wide * r(-0.3, 0.35), y + tall * (i + 0.8), front + 0.05),
                    0.015,
                ),
            )
    if bars and not doors:
        yield (
            "controls",
            copies(
                box(0.05, high * 1.02, deep * 1.03), [(x * wide, 0, 0) for x in (-0.35, 0, 0.35)]
            ),
        )
    dial = turn(cylinder(0.025, 0.04, segments=8), "x", 90)
    if knobs:
        spots = [
            ((i + 0.5) / knobs * wide * 0.9 - wide * 0.45, y + high * 0.94, front)
            for i in range(knobs)
        ]
        yield "controls", copies(dial, spots)
    if rings:
        ring = tube(in_plane(arc(0.09, 0, 360, 13), "xz"), 0.012, 4)
        yield "controls", mirror(ring + (wide * 0.24, y + high + 0.01, deep * 0.22), "x", "z")
    if porthole or lens:
        radius = porthole or lens
        tunnel = lathe(
            [
                (radius, 0),
                (radius, lens * 1.5 + 0.03),
                (radius * 0.75, lens * 1.5 + 0.03),
                (radius * 0.7, 0.01),
            ],
            segments=18,
        )
        spots = [
            (
                wide * r(-0.15, 0.15) * bool(aerial),
                y + high * (0.72 if plinth or twin else 0.5),
                front,
            )
        ]
        if twin:
            spots.append((0, y + high * 0.3, front))
        yield "front", copies(turn(tunnel, "x", 90), spots)
    if keys:
        columns = r.count(3, 4) if receiver or upright else r.count(8, 14)
        cap = box(0.7 * wide / columns * (0.4 if upright else 1), 0.02, 0.6 * deep / keys, top=0.8)
        grid = [
            ((i + 0.5) / columns - 0.5, (k + 0.5) / keys - 0.5)
            for i in range(columns)
            for k in range(keys)
        ]
        if upright:
            yield (
                "controls",
                copies(
                    turn(cap * (1, 1, 0.3), "x", 90),
                    [
                        (wide * 0.35 + a * wide * 0.2, y + high * (0.6 + b * 0.3), front)
                        for a, b in grid
                    ],
                ),
            )
        else:
            yield (
                "controls",
                copies(cap, [(a * wide * 0.92, y + high, b * deep * 0.8) for a, b in grid]),
            )
    if lid:
        cover = turn(box(wide, deep * 0.95, 0.025, (0, 0, 0)), "x", 90 - lid) + (
            0,
            y + high,
            -deep / 2,
        )
        yield "front", cover
    if receiver:
        yield (
            "front",
            tube(
                [
                    (-wide * 0.5, y + high + 0.05, 0),
                    (-wide * 0.4, y + high + 0.1, 0),
                    (wide * 0.4, y + high + 0.1, 0),
                    (wide * 0.5, y + high + 0.05, 0),
                ],
                [0.05, 0.03, 0.03, 0.05],
                7,
            )
            - (0, 0, deep * 0.3),
        )
    if ledge:
        yield "front", box(wide, 0.05, 0.25, (0, high * 0.55, deep / 2 + 0.1))
        yield "legs", mirror(box(0.06, high * 0.55, 0.06, (wide * 0.46, 0, deep / 2 + 0.18)), "x")
    if aerial:
        yield (
            "controls",
            rod((wide * 0.4, y + high, 0), (wide * r(0.0, 0.7), y + high + r(0.3, 0.6), 0), 0.01),
        )
    if plinth:
        yield (
            "legs",
            copies(
                box(wide * 1.2, high * 0.08, deep * 1.2, top=0.9), [(0, 0, 0), (0, high * 0.95, 0)]
            ),
        )
    if pipe:
        yield (
            "controls",
            cylinder(0.06 if legs else wide * 0.25, pipe, (0, y + high, -deep * 0.2), segments=8),
        )
    if back:
        yield (
            "front",
            copies(
                box(wide, 0.06, 0.03),
                [(0, y + high + back * t, -deep / 2 - 0.05 * t) for t in (0.3, 0.6, 0.9)],
            ),
        )
        yield (
            "legs",
            mirror(
                rod(
                    (wide * 0.45, y, -deep / 2),
                    (wide * 0.45, y + high + back, -deep / 2 - 0.05),
                    0.02,
                ),
                "x",
            ),
        )
    if legs:
        spread = r(0.75, 1.1)
        leg = rod(
            (wide * 0.42, y, deep * 0.42),
            (wide * 0.42 * spread, 0, deep * 0.42 * spread),
            r(0.015, 0.035),
        )
        yield "legs", mirror(leg, "x", "z")
