"""Vessels that are surfaces of revolution."""

import numpy as np

from dapt.synthetic.families.vessels import handle, hollow
from dapt.synthetic.grammars.grammar import grammar
from dapt.synthetic.shapes import (
    arc,
    copies,
    cylinder,
    in_plane,
    lathe,
    mirror,
    slab,
    tube,
    turn,
)


def profile(radii, height, points=14):
    """A smooth outline through radii at equally spaced heights."""
    at = np.linspace(0, 1, points)
    knots = np.linspace(0, 1, len(radii))
    blend = np.exp(-(((at[:, None] - knots) * len(radii)) ** 2))
    smooth = blend @ np.asarray(radii) / blend.sum(1)
    return np.stack([np.maximum(smooth, 0.004), at * height], 1)


@grammar(
    "body",
    "handles",
    "lid",
    "foot",
    amphora=dict(
        radii=((0.05, 0.1), (0.2, 0.32), (0.22, 0.34), (0.06, 0.1), (0.1, 0.14)),
        high=(0.8, 1.2),
        ears=2,
    ),
    jug=dict(
        radii=((0.14, 0.22), (0.22, 0.32), (0.1, 0.2), (0.12, 0.2)),
        high=(0.6, 0.9),
        ears=1,
        spout=True,
    ),
    goblet=dict(
        radii=((0.2, 0.26), (0.03, 0.06), (0.04, 0.08), (0.2, 0.3), (0.18, 0.3)), high=(0.7, 1.0)
    ),
    urn=dict(
        radii=((0.15, 0.2), (0.05, 0.1), (0.25, 0.35), (0.25, 0.35), (0.12, 0.2)),
        high=(0.8, 1.1),
        ears=[0, 2],
        lid=True,
    ),
    cooking_pot=dict(
        radii=((0.3, 0.4), (0.32, 0.44), (0.3, 0.42)), high=(0.3, 0.5), ears=2, lid=[True, False]
    ),
    plate=dict(radii=((0.2, 0.3), (0.35, 0.45), (0.5, 0.55)), high=(0.04, 0.12)),
    barrel=dict(
        radii=((0.25, 0.3), (0.3, 0.38), (0.25, 0.3)), high=(0.7, 0.9), hoops=(2, 5), shut=True
    ),
    flask=dict(radii=((0.3, 0.38), (0.28, 0.36), (0.05, 0.1), (0.05, 0.08)), high=(0.7, 1.0)),
    beaker=dict(radii=((0.2, 0.3), (0.22, 0.32)), high=(0.4, 0.8), ears=[0, 1]),
    big_jar=dict(
        radii=((0.15, 0.25), (0.3, 0.4), (0.35, 0.45), (0.2, 0.3)),
        high=(0.8, 1.1),
        lid=[True, False],
    ),
    watering_can=dict(radii=((0.22, 0.3), (0.2, 0.3)), high=(0.35, 0.5), ears=1, pipe=(0.4, 0.6)),
    kettle=dict(
        radii=((0.3, 0.36), (0.3, 0.36), (0.1, 0.16)),
        high=(0.3, 0.45),
        bail=True,
        lid=True,
        pipe=(0.2, 0.3),
    ),
    tub=dict(radii=((0.3, 0.4), (0.36, 0.45)), high=(0.25, 0.45), stretch=(1.3, 2.0), feet=True),
    trough=dict(
        radii=((0.25, 0.3), (0.3, 0.35)),
        high=(0.2, 0.3),
        stretch=(1.8, 3.0),
        sides=4,
        feet=[True, False],
    ),
    crate_pot=dict(radii=((0.25, 0.35), (0.3, 0.4)), high=(0.3, 0.6), sides=4),
)
def turned(
    r,
    radii=None,
    high=0.8,
    ears=0,
    spout=False,
    lid=False,
    hoops=0,
    shut=False,
    pipe=0.0,
    bail=False,
    stretch=1.0,
    feet=False,
    sides=18,
):
    """A vessel: a surface of revolution with handles, a spout or other additions."""
    line = profile(radii, high)
    radii = line[:, 0]
    wide = (stretch, 1, 1)
    yield "body", lathe(line if shut else hollow(line, 0.02), segments=sides) * wide
    if shut:
        yield "lid", copies(cylinder(radii[0] * 0.97, 0.01), [(0, 0.02, 0), (0, high - 0.03, 0)])
    for i in range(ears):
        low, top = sorted((high * r(0.3, 0.6), high * r(0.65, 0.95)))
        at = min(np.interp([low, top], line[:, 1], radii))
        loop = handle(at * 0.95 * stretch, low, top, r(0.08, 0.2), r(0.02, 0.035))
        yield "handles", turn(loop, "y", 180 * i)
    if spout:
        yield (
            "body",
            slab([(0, 0), (r(0.06, 0.14), 0.06), (0, 0.08)], 0.08) * (-1, 1, 1)
            - (radii[-1] * 0.9, 0.05 - high, 0),
        )
    if lid:
        yield (
            "lid",
            lathe(
                [
                    (radii[-1] * 1.05, high),
                    (radii[-1] * 0.6, high + 0.05),
                    (0.03, high + 0.08),
                    (0.04, high + 0.12),
                    (0, high + 0.14),
                ],
                segments=sides,
            ),
        )
    for i in range(hoops):
        y = high * (i + 0.5) / hoops
        at = np.interp(y, line[:, 1], radii) * 1.03
        yield "foot", lathe([(at, y - 0.02), (at, y + 0.02)], segments=sides)
    if pipe:
        way = np.array(
            [
                (-radii[3] * 0.8, high * 0.25, 0),
                (-radii[3] - pipe * 0.4, high * 0.45, 0),
                (-radii[3] - pipe, high * r(0.9, 1.3), 0),
            ]
        )
        yield "handles", tube(way, [0.05, 0.035, r(0.02, 0.07)], 8)
    if bail:
        yield "handles", tube(in_plane(arc(radii[4], 0, 180, 9), "xy", (0, high * 0.9, 0)), 0.025)
    if feet:
        yield (
            "foot",
            mirror(
                cylinder(0.03, 0.12, (radii[0] * 0.6 * stretch, -0.1, radii[0] * 0.6), segments=6),
                "x",
                "z",
            ),
        )
