"""Buildings: masses with roofs and windows."""

import numpy as np

from dapt.synthetic.grammars.grammar import grammar
from dapt.synthetic.shapes import (
    box,
    copies,
    cylinder,
    lathe,
    mirror,
    shift,
    slab,
    turn,
)


def roof(style, width, depth, rise, y, over=1.1):
    """A roof over a rectangle at a height: flat, gable, hip, shed, dome or spire."""
    wide, deep = width * over, depth * over
    if style == "gable":
        return slab([(-wide / 2, y), (wide / 2, y), (0, y + rise)], deep)
    if style == "shed":
        return slab([(-wide / 2, y), (wide / 2, y), (wide / 2, y + rise * 0.6)], deep)
    if style == "dome":
        t = np.linspace(0, np.pi / 2, 7)
        line = np.stack([np.cos(t) * width / 2, y + np.sin(t) * rise * 1.4], 1)
        return lathe(line, segments=16) * (1, 1, depth / width)
    if style == "flat":
        return box(wide, 0.05, deep, (0, y, 0))
    return box(
        wide,
        rise * (2.5 if style == "spire" else 1),
        deep,
        (0, y, 0),
        top=0.02 if style == "spire" else 0.3,
    )


def openings(r, width, height, depth, y, rows, columns, size=0.45, proud=0.015):
    """Window surrounds in a grid on all four sides of a mass, slightly in front of its walls."""
    pieces = []
    for across, out, axis in ((width, depth, 0), (depth, width, 90)):
        step_x, step_y = across / columns, height / rows
        pane = box(step_x * size, step_y * size * 1.2, 0.02)
        spots = [
            ((i + 0.5) * step_x - across / 2, y + (k + 0.2) * step_y, out / 2 + proud)
            for i in range(columns)
            for k in range(rows)
        ]
        pieces.append(turn(mirror(copies(pane, spots), "z"), "y", axis))
    return np.concatenate(pieces)


@grammar(
    "walls",
    "roof",
    "openings",
    "details",
    cottage=dict(
        width=(0.6, 0.9), depth=(0.7, 1.2), floors=(1, 1), top=["gable", "hip"], chimney=True
    ),
    barn=dict(width=(0.7, 1.0), depth=(1.2, 1.8), floors=(1, 1), top=["gable"], grid=0),
    hut=dict(
        width=(0.6, 0.8), depth=(0.6, 0.8), floors=(1, 1), top=["spire", "hip"], grid=0, round_=True
    ),
    villa=dict(
        width=(0.9, 1.3),
        depth=(0.8, 1.1),
        floors=(1, 2),
        top=["hip", "flat"],
        wings=(1, 2),
        porch=True,
    ),
    town_house=dict(
        width=(0.4, 0.6), depth=(0.6, 0.9), floors=(2, 4), top=["gable", "hip"], chimney=True
    ),
    block=dict(width=(0.8, 1.4), depth=(0.5, 0.7), floors=(3, 6), top=["flat"], balconies=True),
    skyscraper=dict(
        width=(0.4, 0.6), depth=(0.4, 0.6), floors=(8, 14), top=["flat", "spire"], setbacks=(0, 3)
    ),
    round_tower_block=dict(
        width=(0.4, 0.6), depth=(0.4, 0.6), floors=(6, 12), top=["flat", "dome"], round_=True
    ),
    church=dict(
        width=(0.5, 0.7),
        depth=(1.0, 1.5),
        floors=(1, 2),
        top=["gable"],
        steeple=(0.8, 1.4),
        wings=(0, 2),
    ),
    domed_hall=dict(
        width=(0.9, 1.2), depth=(0.9, 1.2), floors=(1, 2), top=["dome"], minarets=(0, 4)
    ),
    pagoda=dict(width=(0.6, 0.8), depth=(0.6, 0.8), floors=(1, 1), top=["hip"], tiers=(3, 6)),
    factory=dict(
        width=(1.2, 1.6),
        depth=(0.8, 1.2),
        floors=(1, 2),
        top=["flat", "shed"],
        stacks=(1, 3),
        wings=(0, 2),
    ),
    castle=dict(
        width=(0.8, 1.1), depth=(0.8, 1.1), floors=(1, 2), top=["flat"], corner_towers=True, grid=1
    ),
    warehouse=dict(
        width=(0.9, 1.2),
        depth=(1.2, 1.8),
        floors=(1, 1),
        top=["shed", "gable", "dome"],
        grid=0,
        porch=True,
    ),
    stilt_house=dict(
        width=(0.6, 0.9), depth=(0.7, 1.0), floors=(1, 1), top=["gable", "hip"], stilts=(0.3, 0.6)
    ),
)
def masses(
    r,
    width,
    depth,
    floors,
    top,
    grid=3,
    wings=0,
    chimney=False,
    porch=False,
    balconies=False,
    setbacks=0,
    steeple=0.0,
    minarets=0,
    tiers=0,
    stacks=0,
    corner_towers=False,
    stilts=0.0,
    round_=False,
):
    """A building: a main mass with its roof, windows and additions."""
    style = top if isinstance(top, str) else r.pick(*top)
    storey = r(0.25, 0.4) if floors < 5 else r(0.15, 0.22)
    height, ground = floors * storey * (1.4 if floors == 1 else 1), stilts

    def mass(w, h, d, y):
        return (
            cylinder(w / 2, h, (0, y, 0), segments=r.pick(8, 16)) * (1, 1, d / w)
            if round_
            else box(w, h, d, (0, y, 0))
        )

    yield "walls", mass(width, height, depth, ground)
    y, w, d = ground + height, width, depth
    for _ in range(setbacks):
        w, d, more = w * r(0.6, 0.85), d * r(0.6, 0.85), r(0.2, 0.6)
        yield "walls", mass(w, more, d, y)
        y += more
    for _ in range(tiers):
        yield "roof", roof("hip", w * 1.5, d * 1.5, 0.18, y)
        w, d = w * 0.82, d * 0.82
        yield "walls", mass(w, 0.28, d, y + 0.1)
        y += 0.38
    yield "roof", roof(style, w, d, r(0.25, 0.5), y)
    if grid and not round_:
        yield "openings", openings(r, width, height, depth, ground, floors, r.count(2, grid + 1))
    yield (
        "openings",
        box(
            width * 0.18,
            min(storey, height) * 0.8,
            0.04,
            (width * r(-0.25, 0.25), ground, depth / 2),
        ),
    )
    for i in range(wings):
        side = -1 if i else 1
        ww, wh, wd = width * r(0.4, 0.8), height * r(0.5, 0.95), depth * r(0.3, 0.6)
        at = side * (width + ww) / 2
        yield "walls", box(ww, wh, wd, (at, 0, depth * r(-0.2, 0.2)))
        yield "roof", shift(roof(style, ww, wd, 0.2, wh), at)
    if chimney:
        yield (
            "details",
            box(0.1, r(0.3, 0.6), 0.1, (width * r(-0.35, 0.35), y, depth * r(-0.3, 0.3))),
        )
    if porch:
        yield "details", box(width * 0.8, 0.04, 0.3, (0, ground + height * 0.6, depth / 2 + 0.15))
        yield (
            "details",
            copies(
                cylinder(0.025, height * 0.6, segments=6),
                [(x * width, ground, depth / 2 + 0.28) for x in (-0.38, 0, 0.38)],
            ),
        )
    if balconies:
        spots = [
            (x * width, k * storey + 0.02, depth / 2 + 0.06)
            for k in range(floors)
            for x in (-0.3, 0.0, 0.3)
        ]
        yield "details", mirror(copies(box(width * 0.22, storey * 0.4, 0.12), spots), "z")
    if steeple:
        yield "walls", box(width * 0.45, steeple, width * 0.45, (0, 0, depth / 2))
        yield (
            "roof",
            shift(
                roof("spire", width * 0.45, width * 0.45, r(0.15, 0.35), steeple), 0, 0, depth / 2
            ),
        )
    if minarets or corner_towers:
        tall = height * r(1.3, 2.2) if minarets else height * r(1.1, 1.6)
        post = cylinder(
            0.05 if minarets else 0.16, tall, (width * 0.55, 0, depth * 0.55), segments=10
        )
        yield (
            "walls",
            mirror(post, "x", "z") if corner_towers or minarets > 2 else mirror(post, "x"),
        )
        cone = lathe(
            [(0.08 if minarets else 0.2, tall), (0, tall + r(0.15, 0.4))],
            (width * 0.55, 0, depth * 0.55),
            10,
        )
        yield "roof", mirror(cone, "x", "z") if corner_towers or minarets > 2 else mirror(cone, "x")
    for i in range(stacks):
        yield (
            "details",
            cylinder(
                0.06,
                height + r(0.4, 1.0),
                (width * (0.3 - 0.25 * i), 0, -depth * 0.3),
                top=0.7,
                segments=10,
            ),
        )
    if stilts:
        yield (
            "details",
            mirror(cylinder(0.035, stilts, (width * 0.42, 0, depth * 0.42), segments=6), "x", "z"),
        )
