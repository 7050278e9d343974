"""Lamps."""

import numpy as np

from dapt.synthetic.grammars.grammar import grammar
from dapt.synthetic.shapes import (
    ball,
    box,
    cylinder,
    in_plane,
    lathe,
    mirror,
    shift,
    tube,
    turn,
)


@grammar(
    "base",
    "stem",
    "shade",
    "bulbs",
    floor_lamp=dict(tall=(1.1, 1.5), base=(0.15, 0.25), shade=(0.15, 0.3)),
    bedside_lamp=dict(tall=(0.3, 0.5), base=(0.1, 0.2), shade=(0.18, 0.28), belly=(0.08, 0.16)),
    arc_lamp=dict(tall=(1.0, 1.4), base=(0.15, 0.25), shade=(0.15, 0.25), bend=(0.4, 0.8)),
    task_lamp=dict(tall=(0.5, 0.7), base=(0.1, 0.16), shade=(0.08, 0.14), elbow=True),
    pendant=dict(tall=(0.4, 0.9), base=(0.05, 0.1), shade=(0.15, 0.35), hanging=True),
    chandelier=dict(tall=(0.4, 0.7), base=(0.05, 0.1), shade=0.0, hanging=True, arms=(4, 9)),
    candelabrum=dict(tall=(0.4, 0.7), base=(0.12, 0.2), shade=0.0, arms=(2, 5)),
    street_lamp=dict(
        tall=(1.4, 1.8), base=(0.06, 0.1), shade=(0.08, 0.14), globe=True, arms=[0, 2]
    ),
    lantern=dict(tall=(0.1, 0.2), base=(0.15, 0.22), shade=0.0, cage=True),
    torch=dict(tall=(0.6, 0.9), base=(0.02, 0.04), shade=(0.07, 0.12), flame=True),
    ceiling_spots=dict(
        tall=(0.1, 0.2), base=(0.3, 0.5), shade=(0.06, 0.1), hanging=True, bar=(2, 5)
    ),
    parasol=dict(tall=(1.0, 1.4), base=(0.15, 0.25), shade=(0.6, 0.9), low=(0.15, 0.3)),
)
def lamps(
    r,
    tall,
    base,
    shade,
    belly=0.0,
    bend=0.0,
    elbow=False,
    hanging=False,
    arms=0,
    globe=False,
    cage=False,
    flame=False,
    bar=0,
    low=None,
):
    """A base, a stem and a light; hanging lamps are built upside down."""
    flip = (1, -1, 1) if hanging else (1, 1, 1)
    top = np.array([0.0, tall, 0.0])
    yield "base", lathe([(0, 0), (base, 0), (base, 0.03), (base * 0.3, 0.06), (0.02, 0.08)]) * flip
    if bar:
        yield "stem", box(base * 2.5, 0.04, 0.06) * flip
        for x in np.linspace(-1, 1, bar) * base:
            spot = turn(
                turn(cylinder(shade, 0.2, top=0.6, segments=10), "x", r(-50, 50)), "z", r(-40, 40)
            )
            yield "shade", shift(spot, x, -0.25)
        return
    line = np.array([(0, 0, 0), top / 2, top])
    if bend:
        line = np.array(
            [(0, 0, 0), (0, tall * 0.7, 0), (bend * 0.5, tall, 0), (bend, tall * 0.85, 0)]
        )
    if elbow:
        line = np.array(
            [(0, 0, 0), (-tall * r(0.2, 0.5), tall * 0.55, 0), (tall * r(0.2, 0.5), tall, 0)]
        )
    top = line[-1]
    radius = belly * np.array([0.6, 1, 0.2]) if belly else 0.018
    yield "stem", tube(line, radius, 10 if belly else 6) * flip
    for i in range(arms):
        reach = r(0.2, 0.4)
        bow = in_plane(
            np.array([(0, -0.05), (reach * 0.5, -0.15), (reach, 0)]), "xy", (0, top[1] * 0.9, 0)
        )
        yield "stem", turn(tube(bow, 0.014, 5), "y", 360 * i / arms) * flip
        candle = cylinder(0.025, r(0.08, 0.16), (reach, top[1] * 0.9 * flip[1], 0), segments=8)
        yield "bulbs", turn(candle, "y", 360 * i / arms)
    if cage:
        tall = r(0.3, 0.5)
        yield (
            "stem",
            mirror(cylinder(0.014, tall, (base * 0.7, 0, base * 0.7), segments=5), "x", "z"),
        )
        yield (
            "shade",
            lathe([(base * 1.2, tall), (0.03, tall + 0.15), (0.03, tall + 0.2)], segments=4),
        )
        yield "bulbs", cylinder(base * 0.5, tall * 0.8, segments=8)
    elif flame:
        yield "shade", lathe([(base, 0), (shade, 0.1), (shade, 0.12)], top - (0, 0.1, 0))
        yield "bulbs", lathe([(shade * 0.8, 0), (shade, 0.08), (0, 0.3)], top)
    elif globe and not arms:
        yield "shade", ball(shade, shade * r(1.0, 1.5), shade, top)
    elif shade:
        low = low or r(0.12, 0.35)
        cone = lathe([(shade, -low), (shade * r(0.1, 0.9), 0)], segments=r.pick(4, 8, 16, 16))
        if elbow or bend:
            cone = turn(cone, "z", r(-40, 40))
        yield "shade", cone * (1, 1, 1) + top * flip
        yield "bulbs", ball(0.04, 0.05, 0.04, top * flip - (0, low * 0.4, 0))
