"""Walls, gates and towers, and doors and windows."""

import numpy as np

from dapt.synthetic.grammars.grammar import grammar
from dapt.synthetic.shapes import (
    arc,
    around,
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
    turn,
)


@grammar(
    "wall",
    "teeth",
    "gate",
    stone_wall=dict(long=(1.6, 2.4), high=(0.5, 0.8), thick=(0.15, 0.3), teeth=(6, 12)),
    palisade=dict(long=(1.4, 2.2), high=(0.6, 0.9), thick=0.08, stakes=(10, 18)),
    gatehouse=dict(
        long=(0.9, 1.3),
        high=(0.7, 1.0),
        thick=(0.3, 0.5),
        teeth=(4, 8),
        towers=(0.15, 0.25),
        gate=True,
    ),
    wooden_gate=dict(
        long=(0.8, 1.2), high=(0.6, 0.9), thick=0.05, stakes=(6, 12), gate=True, beam=True
    ),
    watch_tower=dict(
        long=(0.3, 0.5), high=(1.2, 1.8), thick=(0.3, 0.5), legs=True, roofed=[True, False]
    ),
    stone_tower=dict(
        long=(0.4, 0.6), high=(1.0, 1.6), thick=(0.4, 0.6), teeth=(3, 5), batter=(0.75, 1.0)
    ),
    round_tower=dict(
        long=(0.4, 0.6), high=(1.0, 1.6), thick=(0.4, 0.6), round_=True, roofed=[True, False]
    ),
    corner_wall=dict(
        long=(1.0, 1.5), high=(0.4, 0.7), thick=(0.15, 0.25), teeth=(5, 9), corner=True
    ),
    railing=dict(
        long=(1.4, 2.0), high=(0.4, 0.6), thick=0.03, stakes=(12, 22), slim=0.25, beam=True
    ),
)
def ramparts(
    r,
    long,
    high,
    thick,
    teeth=0,
    stakes=0,
    towers=0.0,
    gate=False,
    beam=False,
    legs=False,
    roofed=False,
    batter=1.0,
    round_=False,
    corner=False,
    slim=0.85,
):
    """Walls with merlons, stakes, towers and gates."""
    pieces = []
    if stakes:
        step = long / stakes
        for i in range(stakes):
            if gate and abs(i - stakes / 2 + 0.5) < stakes * 0.2:
                continue
            stake = lathe(
                [(step * slim / 2, 0), (step * slim / 2, high * r(0.85, 1.0)), (0, high * 1.08)],
                segments=6,
            )
            pieces.append(shift(stake, (i + 0.5) * step - long / 2))
    elif legs:
        yield (
            "wall",
            mirror(
                rod((long * 0.5, 0, thick * 0.5), (long * 0.38, high, thick * 0.38), 0.03), "x", "z"
            ),
        )
        for y in (0.3, 0.6):
            yield (
                "wall",
                mirror(
                    rod(
                        (long * 0.48, high * y, thick * 0.48),
                        (-long * 0.42, high * (y + 0.25), thick * 0.42),
                        0.02,
                    ),
                    "z",
                ),
            )
        yield "wall", box(long * 1.1, 0.05, thick * 1.1, (0, high, 0))
        yield "teeth", mirror(box(0.03, 0.25, thick * 1.1, (long * 0.53, high, 0)), "x")
    elif round_:
        pieces.append(cylinder(long / 2, high, top=r(0.8, 1.05), segments=16))
        pieces.append(around(box(0.1, 0.12, 0.06, (long * 0.45, high, 0)), 9))
    else:
        pieces.append(box(long, high, thick, top=batter))
    if pieces:
        yield "wall", np.concatenate(pieces)
    if teeth:
        step = long / teeth
        tooth = box(step * 0.55, 0.1, 0.06)
        spots = [((i + 0.5) * step - long / 2, high, thick * 0.45) for i in range(teeth)]
        row = copies(tooth, np.array(spots) * (batter, 1, batter))
        yield "teeth", mirror(row, "z")
        if thick > 0.35:
            yield "teeth", turn(mirror(row, "z"), "y", 90) * (1, 1, thick / long)
    if corner:
        yield "wall", box(thick, high, long, (-long / 2, 0, long / 2))
        yield "wall", box(thick * 1.8, high * 1.3, thick * 1.8, (-long / 2, 0, 0))
    if towers:
        yield (
            "wall",
            mirror(
                cylinder(towers, high * r(1.1, 1.6), (long * 0.5, 0, 0), segments=r.pick(4, 12)),
                "x",
            ),
        )
    if gate:
        leaf = box(long * 0.18, high * 0.8, 0.04)
        yield "gate", mirror(shift(turn(leaf, "y", r(-50, 50)), long * 0.11, 0, thick * 0.5), "x")
        yield (
            "gate",
            tube(
                in_plane(arc(long * 0.2, 0, 180, 9), "xy", (0, high * 0.75, thick * 0.5)), 0.025, 5
            ),
        )
    if beam:
        yield (
            "gate",
            copies(
                box(long, 0.05, 0.05), [(0, high * 0.3, thick * 0.6), (0, high * 0.85, thick * 0.6)]
            ),
        )
    if roofed:
        yield (
            "teeth",
            shift(
                lathe([(long * 0.75, 0), (0, r(0.3, 0.6))], segments=4 if legs else 14),
                0,
                high + (0.3 if legs else 0.1),
            ),
        )


@grammar(
    "frame",
    "panes",
    casement=dict(wide=(0.7, 1.2), high=(0.8, 1.3), columns=(1, 3), rows=(2, 4)),
    arched_window=dict(wide=(0.6, 0.8), high=(0.8, 1.2), columns=(2, 3), rows=(2, 4), arched=True),
    round_window=dict(wide=0.8, high=0.0, columns=0, rows=0, spokes=(4, 8)),
    shutter=dict(wide=(0.5, 0.8), high=(0.8, 1.3), columns=(1, 2), rows=(8, 14), louvred=True),
    picture=dict(
        wide=(0.7, 1.2),
        high=(0.6, 1.1),
        columns=(1, 1),
        rows=(1, 1),
        solid=True,
        molding=(0.08, 0.15),
    ),
    folding_screen=dict(
        wide=(0.4, 0.5),
        high=(1.2, 1.5),
        columns=(1, 1),
        rows=(1, 3),
        solid=True,
        ajar=(40.0, 80.0),
        leaves=(3, 4),
    ),
    radiator=dict(wide=(0.9, 1.4), high=(0.5, 0.8), columns=(8, 16), rows=(1, 1), ribs=True),
)
def framed(
    r,
    wide,
    high,
    columns,
    rows,
    arched=False,
    spokes=0,
    solid=False,
    ajar=0.0,
    louvred=False,
    molding=None,
    leaves=1,
    ribs=False,
):
    """A frame with one or several leaves on hinges."""
    bar = molding or r(0.04, 0.08)
    deep = bar * r(0.6, 1.4)
    if spokes:
        ring = in_plane(arc(wide / 2, 0, 360, 25), "xy", (0, 0, 0))
        yield "frame", tube(ring, bar / 2, 6)
        yield "panes", around(rod((0, 0, 0), (wide / 2, 0, 0), 0.02), spokes, "z")
        return
    frame = np.concatenate(
        [
            mirror(box(bar, high, deep, (wide / 2, 0, 0)), "x"),
            copies(box(wide + bar, bar, deep), [(0, 0, 0), (0, high - bar, 0)]),
        ]
    )
    fill = []
    if ribs:
        fill.append(
            copies(
                box(wide / columns * 0.6, high * 0.95, deep * 2),
                [((i + 0.5) * wide / columns - wide / 2, 0, 0) for i in range(columns)],
            )
        )
    elif louvred:
        slat = turn(box(wide * 0.95, 0.012, bar), "x", r(20, 60))
        fill.append(copies(slat, [(0, (i + 0.5) * high / rows, 0) for i in range(rows)]))
    else:
        x, y = wide / columns, high / rows
        if solid:
            fill.append(box(wide, high, deep * 0.3))
            panel = box(x * 0.65, y * 0.65, deep * 0.7, top=0.9)
            fill.append(
                copies(
                    panel,
                    [
                        ((i + 0.5) * x - wide / 2, (k + 0.18) * y, 0)
                        for i in range(columns)
                        for k in range(rows)
                    ],
                )
            )
        else:
            fill += [box(0.025, high, 0.025, (i * x - wide / 2, 0, 0)) for i in range(1, columns)]
            fill += [box(wide, 0.025, 0.025, (0, k * y, 0)) for k in range(1, rows)]
            fill.append(box(wide, high, 0.008))
    filled = np.concatenate(fill)
    if arched:
        frame = np.concatenate(
            [frame, tube(in_plane(arc(wide / 2, 0, 180, 13), "xy", (0, high, 0)), bar / 2, 5)]
        )
        filled = np.concatenate([filled, slab(arc(wide / 2, 0, 180, 11) + (0, high), 0.01)])
    for i in range(leaves):
        hinge = turn(filled + (wide / 2, 0, 0), "y", ajar * (-1) ** i if ajar else 0.0) - (
            wide / 2,
            0,
            0,
        )
        at = (i - leaves / 2 + 0.5) * wide * np.cos(np.radians(ajar)) if leaves > 1 else 0.0
        yield "panes", shift(hinge, at)
        if leaves == 1:
            yield "frame", frame
