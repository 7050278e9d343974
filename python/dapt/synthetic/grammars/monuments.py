"""Monuments: columns, steps and what stands on them."""

import numpy as np

from dapt.synthetic.grammars.buildings import roof
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
    shift,
    slab,
    tube,
)


@grammar(
    "base",
    "columns",
    "top",
    "figure",
    temple=dict(
        long=(1.2, 1.8), wide=(0.7, 1.0), count=(5, 8), pediment=True, cella=True, steps=(2, 4)
    ),
    stoa=dict(
        long=(1.6, 2.2), wide=(0.4, 0.6), count=(7, 11), pediment=False, cella=True, steps=(1, 2)
    ),
    pergola=dict(long=(0.8, 1.2), wide=(0.6, 0.9), count=(2, 4), pediment=False, beams=(4, 8)),
    rotunda=dict(long=(0.8, 1.0), wide=(0.8, 1.0), count=(6, 10), ring=True, steps=(1, 3)),
    triumphal_arch=dict(
        long=(0.9, 1.2), wide=(0.3, 0.45), count=(2, 2), arch=True, attic=(0.2, 0.4)
    ),
    obelisk=dict(long=0.4, wide=0.4, count=0, needle=(0.9, 1.6), steps=(1, 4)),
    monument=dict(
        long=(0.5, 0.8), wide=(0.5, 0.8), count=0, needle=(0.3, 0.7), steps=(2, 4), figure=True
    ),
    stele=dict(long=(0.4, 0.6), wide=(0.15, 0.25), count=0, tablet=(0.6, 1.1), steps=(1, 2)),
    ruin=dict(long=(1.0, 1.6), wide=(0.6, 0.9), count=(3, 6), broken=True, steps=(1, 3)),
    pyramid=dict(long=1.0, wide=1.0, count=0, steps=(5, 10), taper=True),
    fountain=dict(long=(0.7, 1.0), wide=(0.7, 1.0), count=0, bowls=(1, 3), steps=(0, 2)),
)
def monuments(
    r,
    long,
    wide,
    count,
    pediment=False,
    cella=False,
    steps=0,
    beams=0,
    ring=False,
    arch=False,
    attic=0.0,
    needle=0.0,
    figure=False,
    tablet=0.0,
    broken=False,
    taper=False,
    bowls=0,
):
    """Steps, columns around a hall, and what stands on top."""
    y, rise = 0.0, r(0.04, 0.1)
    for i in range(steps):
        grow = 1 - i / steps * 0.95 if taper else 1 + 0.12 * (steps - i)
        yield "base", box(wide * grow, rise, long * grow, (0, y, 0))
        y += rise
    height, thick = r(0.5, 0.8), r(0.035, 0.06)
    column = lathe(
        [
            (thick * 1.4, 0),
            (thick * 1.4, 0.03),
            (thick, 0.05),
            (thick * 0.85, height * 0.93),
            (thick * 1.5, height),
        ],
        segments=10,
    )
    if ring:
        yield "columns", around(shift(column, wide * 0.42), count) + (0, y, 0)
        yield "top", cylinder(wide * 0.5, 0.08, (0, y + height, 0))
        yield "top", roof("dome", wide, wide, r(0.25, 0.4), y + height + 0.08, 1)
    elif count:
        spots = [
            (x * wide * 0.45, y, z) for x in (-1, 1) for z in np.linspace(-0.46, 0.46, count) * long
        ]
        spots += [
            (0.15 * x * wide, y, z * long * 0.46) for x in (-1, 1) for z in (-1, 1) if pediment
        ]
        if arch:
            pier = box(wide, height, long * 0.25, (0, y, long * 0.37))
            yield "columns", mirror(pier, "z")
            line = in_plane(arc(long * 0.25, 0, 180, 11), "zy", (0, y + height, 0))
            yield "columns", tube(line, 0.06, 4) * (wide / 0.12, 1, 1)
            yield "top", box(wide * 1.1, attic, long * 1.02, (0, y + height + long * 0.27, 0))
        elif broken:
            for x, _, z in spots:
                yield "columns", column * (1, r(0.15, 1.0), 1) + (x, y, z)
            yield (
                "top",
                box(wide * r(0.1, 0.2), 0.08, long * r(0.2, 0.5), (wide * 0.45, y + height, 0)),
            )
        else:
            yield "columns", copies(column, spots)
            yield "top", box(wide * 1.05, 0.1, long * 1.05, (0, y + height, 0))
        if cella:
            yield "base", box(wide * 0.6, height, long * 0.7, (0, y, 0))
        if pediment:
            yield "top", roof("gable", wide, long, r(0.2, 0.35), y + height + 0.1, 1.05)
        if beams:
            yield (
                "top",
                copies(
                    box(wide * 1.3, 0.05, 0.04),
                    [(0, y + height + 0.1, z * long) for z in np.linspace(-0.5, 0.5, beams)],
                ),
            )
    if needle:
        size = r(0.5, 0.8) * wide
        yield "columns", box(size, needle, size, (0, y, 0), top=r(0.5, 1.0))
        y += needle
        if not figure:
            yield "top", box(size * 0.6, 0.12, size * 0.6, (0, y, 0), top=0.05)
    if figure:
        tall = r(0.4, 0.8)
        yield (
            "figure",
            lathe(
                [(0.14, y), (0.1, y + tall * 0.4), (0.14, y + tall * 0.75), (0.04, y + tall * 0.8)],
                segments=8,
            ),
        )
        yield "figure", ball(0.07, 0.09, 0.08, (0, y + tall * 0.93, 0))
        yield (
            "figure",
            rod((0.1, y + tall * 0.7, 0), (r(0.1, 0.4), y + tall * r(0.5, 1.2), r(0, 0.3)), 0.04),
        )
    if tablet:
        half = wide * 0.9
        outline = np.concatenate(
            [[(-half, y), (half, y)], arc(half, 0, 180, 9, r(0.1, 1.0)) + (0, y + tablet)]
        )
        yield "columns", slab(outline, r(0.08, 0.16))
    for i in range(bowls):
        radius = wide * 0.55 * 0.6**i
        yield (
            "top",
            lathe(
                [
                    (0.05, y),
                    (0.06, y + 0.1),
                    (radius, y + 0.22),
                    (radius * 0.95, y + 0.24),
                    (0, y + 0.15),
                ],
                segments=16,
            ),
        )
        y += r(0.25, 0.4)
