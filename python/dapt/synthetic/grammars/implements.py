"""Tools and weapons with a shaft and a head."""

import numpy as np

from dapt.synthetic.grammars.grammar import grammar
from dapt.synthetic.shapes import (
    arc,
    around,
    ball,
    box,
    copies,
    cylinder,
    in_plane,
    lathe,
    mirror,
    rod,
    slab,
    tube,
    turn,
)


@grammar(
    "shaft",
    "head",
    "guard",
    sword=dict(
        shaft=(0.18, 0.28), head="blade", long=(0.7, 1.1), wide=(0.03, 0.07), guard=(0.12, 0.25)
    ),
    dagger=dict(
        shaft=(0.15, 0.2), head="blade", long=(0.25, 0.45), wide=(0.03, 0.06), guard=(0.06, 0.14)
    ),
    sabre=dict(
        shaft=(0.15, 0.2),
        head="blade",
        long=(0.7, 0.9),
        wide=(0.03, 0.05),
        guard=(0.08, 0.12),
        curve=(0.1, 0.3),
    ),
    spear=dict(shaft=(1.2, 1.8), head="blade", long=(0.15, 0.3), wide=(0.03, 0.07)),
    trident=dict(shaft=(0.9, 1.4), head="tines", long=(0.15, 0.3), count=3),
    rake=dict(shaft=(1.0, 1.4), head="comb", long=(0.25, 0.4), count=(6, 12)),
    pitchfork=dict(shaft=(0.9, 1.3), head="tines", long=(0.25, 0.4), count=(3, 5)),
    broom=dict(shaft=(0.9, 1.3), head="bristles", long=(0.2, 0.35), wide=(0.1, 0.25)),
    paddle=dict(shaft=(0.7, 1.1), head="plate", long=(0.3, 0.5), wide=(0.08, 0.16)),
    spade=dict(shaft=(0.7, 1.0), head="plate", long=(0.25, 0.4), wide=(0.12, 0.2), grip=True),
    hoe=dict(shaft=(0.9, 1.3), head="cross", long=(0.15, 0.25), wide=(0.12, 0.2)),
    pickaxe=dict(shaft=(0.7, 1.0), head="pick", long=(0.5, 0.8), wide=0.05),
    mallet=dict(shaft=(0.5, 0.9), head="block", long=(0.2, 0.35), wide=(0.06, 0.1)),
    battle_axe=dict(
        shaft=(0.6, 1.0), head="moon", long=(0.2, 0.35), wide=(0.2, 0.35), twin=[True, False]
    ),
    halberd=dict(shaft=(1.2, 1.7), head="moon", long=(0.15, 0.25), wide=(0.2, 0.3), spike=True),
    club=dict(shaft=(0.3, 0.5), head="club", long=(0.3, 0.5), wide=(0.05, 0.1)),
    mace=dict(shaft=(0.5, 0.7), head="ball", long=0.1, wide=(0.07, 0.12), count=(5, 8)),
    scythe=dict(shaft=(1.1, 1.4), head="sickle", long=(0.5, 0.8), wide=0.06),
    sickle=dict(shaft=(0.15, 0.22), head="sickle", long=(0.3, 0.45), wide=0.05),
    spoon=dict(shaft=(0.4, 0.6), head="bowl", long=(0.1, 0.18), wide=(0.07, 0.12)),
    brush=dict(shaft=(0.3, 0.5), head="bristles", long=(0.1, 0.2), wide=(0.03, 0.08)),
    chisel=dict(shaft=(0.2, 0.3), head="plate", long=(0.25, 0.4), wide=(0.02, 0.05), fat=True),
    pliers=dict(shaft=(0.3, 0.4), head="jaws", long=(0.12, 0.2), wide=0.03, fat=True),
    bow=dict(shaft=0.15, head="bow", long=(1.0, 1.6), wide=(0.2, 0.4)),
    crossbow=dict(shaft=(0.5, 0.7), head="cross_bow", long=(0.4, 0.6), wide=(0.1, 0.2), fat=True),
    rifle=dict(shaft=(0.3, 0.4), head="barrel", long=(0.5, 0.8), wide=0.02, fat=True, stock=True),
    pistol=dict(
        shaft=(0.15, 0.2), head="barrel", long=(0.2, 0.35), wide=0.025, fat=True, stock=True
    ),
)
def implements(
    r,
    shaft,
    head,
    long,
    wide=0.03,
    count=1,
    guard=0.0,
    curve=0.0,
    grip=False,
    twin=False,
    spike=False,
    fat=False,
    stock=False,
):
    """A shaft with a head above it."""
    thick = r(0.03, 0.05) if fat else r(0.014, 0.025)
    if head != "jaws":
        yield (
            "shaft",
            lathe(
                [
                    (0, 0),
                    (thick, 0.01),
                    (thick * r(0.8, 1.2), shaft * 0.5),
                    (thick * 0.9, shaft),
                    (0, shaft),
                ],
                segments=8,
            ),
        )
    flat = r(0.01, 0.02)
    if head == "blade":
        t = np.linspace(0, 1, 7)
        edge = wide * np.clip((1 - t ** r(3, 8)), 0.02, 1) * (1 + r(-0.3, 0.3) * np.sin(np.pi * t))
        middle = curve * t**2
        outline = np.concatenate(
            [np.stack([middle - edge, t * long], 1), np.stack([middle + edge, t * long], 1)[::-1]]
        )
        yield "head", slab(outline, flat, (0, shaft, 0))
    elif head in ("tines", "comb"):
        spread = long * (0.5 if head == "tines" else 1.0)
        bar = box(spread, 0.03, 0.03, (0, shaft, 0))
        xs = np.linspace(-0.5, 0.5, count) * spread
        tine = (
            cylinder(0.014, long, top=0.2, segments=5)
            if head == "tines"
            else turn(cylinder(0.012, 0.12, segments=4), "x", 90)
        )
        yield "head", np.concatenate([bar, copies(tine, [(x, shaft, 0) for x in xs])])
    elif head == "bristles":
        yield "guard", box(wide * 1.1, 0.05, 0.06, (0, shaft, 0))
        yield "head", box(wide, long, 0.05, (0, shaft + 0.05, 0), top=r(0.7, 2.0))
    elif head == "plate":
        outline = [
            (-wide * 0.6, 0),
            (wide * 0.6, 0),
            (wide, long * 0.3),
            (wide, long * 0.7),
            (wide * r(0, 0.9), long),
            (-wide * r(0, 0.9), long),
            (-wide, long * 0.7),
            (-wide, long * 0.3),
        ]
        yield "head", slab(outline, flat, (0, shaft, 0))
    elif head == "cross":
        yield (
            "head",
            turn(
                slab(
                    [(-wide / 2, 0), (wide / 2, 0), (wide * 0.6, long), (-wide * 0.6, long)], flat
                ),
                "x",
                r(70, 110),
            )
            + (0, shaft, 0),
        )
    elif head == "pick":
        yield (
            "head",
            tube(
                in_plane(arc(long, 60, 120, 9), "xy", (0, shaft - long * 0.97, 0)),
                wide * np.array([0.1, 0.4, 0.7, 0.9, 1, 0.9, 0.7, 0.4, 0.1]),
                6,
            ),
        )
    elif head == "block":
        yield (
            "head",
            turn(cylinder(wide, long, (0, -long / 2, 0), segments=r.pick(4, 12)), "z", 90)
            + (0, shaft, 0),
        )
    elif head == "moon":
        outline = np.concatenate(
            [[(0, -0.04), (0, 0.04)], arc(wide / 2, 80, -80, 9) * (0.5, 1) + (long * 0.8, 0)]
        )
        moon = slab(outline, flat * 1.5, (0, shaft * 0.92, 0))
        yield "head", mirror(moon, "x") if twin else moon
        if spike:
            yield "head", cylinder(0.03, long, (0, shaft, 0), top=0.05, segments=6)
    elif head == "club":
        yield (
            "head",
            lathe(
                [
                    (thick, shaft),
                    (wide, shaft + long * 0.7),
                    (wide * 0.8, shaft + long),
                    (0, shaft + long * 1.02),
                ],
                segments=9,
            ),
        )
    elif head == "ball":
        yield "head", ball(wide, wide, wide, (0, shaft, 0))
        yield "head", around(rod((0, 0, 0), (wide * 1.6, 0, 0), 0.03, 0.005), count) + (0, shaft, 0)
    elif head == "sickle":
        sweep = arc(long * 0.5, 180, r(-20, 60), 11)
        yield (
            "head",
            tube(in_plane(sweep, "xy", (long * 0.5, shaft, 0)), wide * np.linspace(0.6, 0.1, 11), 4)
            * (1, 1, 0.4),
        )
    elif head == "bowl":
        yield "head", ball(wide / 1.5, long / 1.5, wide * 0.25, (0, shaft + long * 0.5, 0))
    elif head == "jaws":
        for side in (-1, 1):
            line = [
                (side * 0.12, 0, 0),
                (side * 0.08, shaft * 0.6, 0),
                (-side * 0.02, shaft, 0),
                (-side * wide, shaft + long * 0.5, 0),
                (-side * 0.004, shaft + long, 0),
            ]
            yield "shaft" if side < 0 else "head", tube(line, [0.03, 0.025, 0.04, 0.03, 0.012], 6)
    elif head in ("bow", "cross_bow"):
        limbs = arc(long / 2, -90, 90, 13, 1.0) * (wide * 2 / long, 1)
        line = in_plane(limbs, "xy") - (wide, -shaft / 2, 0)
        if head == "cross_bow":
            line = in_plane(limbs[:, ::-1], "xy") + (0, shaft - wide, 0)
        yield "head", tube(line, 0.01 + 0.015 * np.sin(np.linspace(0, np.pi, 13)), 5)
        yield "guard", rod(line[0], line[-1], 0.005, segments=3)
    elif head == "barrel":
        yield "head", cylinder(wide, long, (0.0, shaft, 0), segments=8)
        yield "guard", tube(in_plane(arc(0.05, 0, 360, 9), "xy", (0.07, shaft * 0.8, 0)), 0.01, 4)
    if guard:
        yield "guard", box(guard, 0.03, 0.04, (0, shaft, 0))
        yield "guard", ball(0.03, 0.03, 0.03)
    if grip:
        yield "guard", box(0.16, 0.03, 0.03)
    if stock:
        way = np.array([(0, shaft * 0.3, 0), (r(0.05, 0.2), -0.05, 0), (r(0.1, 0.25), -0.2, 0)])
        yield "guard", tube(way, [0.035, 0.05, 0.06], 5) * (1, 1, 0.6)
