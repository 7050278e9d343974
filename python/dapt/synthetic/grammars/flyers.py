"""Aircraft."""

import numpy as np

from dapt.synthetic.families.vehicles import wheel
from dapt.synthetic.grammars.grammar import grammar
from dapt.synthetic.shapes import (
    around,
    box,
    copies,
    cylinder,
    lathe,
    mirror,
    rod,
    shift,
    slab,
    tube,
    turn,
)


@grammar(
    "body",
    "wings",
    "tail",
    "engines",
    airliner=dict(
        long=(1.7, 2.1), girth=(0.09, 0.12), span=(0.8, 1.0), sweep=(0.3, 0.5), pods=(1, 2)
    ),
    fighter=dict(
        long=(1.4, 1.8),
        girth=(0.08, 0.12),
        span=(0.35, 0.55),
        sweep=(0.3, 0.6),
        twin=[True, False],
        root=(0.4, 0.7),
    ),
    glider=dict(
        long=(1.0, 1.3), girth=(0.05, 0.08), span=(1.1, 1.5), sweep=(0.0, 0.05), root=(0.12, 0.18)
    ),
    light_plane=dict(
        long=(1.0, 1.3),
        girth=(0.1, 0.14),
        span=(0.7, 0.95),
        sweep=(0.0, 0.06),
        propeller=True,
        wheels=True,
        top=[True, False],
    ),
    biplane=dict(
        long=(0.9, 1.2),
        girth=(0.09, 0.13),
        span=(0.6, 0.8),
        sweep=(0.0, 0.1),
        propeller=True,
        wheels=True,
        second=(0.2, 0.32),
    ),
    drone=dict(long=(0.3, 0.5), girth=(0.06, 0.1), span=0.0, sweep=0.0, rotors=[4, 6, 8]),
    airship=dict(long=(1.6, 2.0), girth=(0.25, 0.35), span=0.0, sweep=0.0, gondola=True),
    missile=dict(
        long=(1.4, 2.0),
        girth=(0.05, 0.1),
        span=(0.12, 0.25),
        sweep=(0.05, 0.2),
        cross=True,
        root=(0.15, 0.3),
    ),
)
def flyers(
    r,
    long,
    girth,
    span,
    sweep,
    pods=0,
    twin=False,
    root=None,
    propeller=False,
    wheels=False,
    top=False,
    second=0.0,
    rotors=0,
    gondola=False,
    cross=False,
):
    """A body along z, with wings, rotors or whatever else keeps it in the air."""
    z = np.linspace(-1, 1, 13)
    shape = (
        girth
        * np.sqrt(np.clip(1 - np.abs(z) ** r(2, 6), 0.01, 1))
        * np.where(z < 0, 1 + z * r(0.1, 0.6), 1)
    )
    yield "body", tube(np.stack([0 * z, 0 * z, z * long / 2], 1), shape, 10)
    if rotors:
        for i in range(rotors):
            way = 2 * np.pi * (i + 0.5) / rotors
            end = np.array([np.cos(way), 0.05, np.sin(way)]) * long
            yield "wings", rod((0, 0, 0), end, 0.02)
            yield "engines", cylinder(0.03, 0.05, end, segments=8)
            yield "engines", turn(box(long * 0.7, 0.008, 0.03), "y", r(0, 180)) + end + (0, 0.05, 0)
        yield (
            "tail",
            mirror(
                tube(
                    [
                        (girth, -girth, -0.1),
                        (girth * 1.5, -girth * 2, -0.1),
                        (girth * 1.5, -girth * 2, 0.15),
                    ],
                    0.012,
                    4,
                ),
                "x",
            ),
        )
        return
    root = root or r(0.2, 0.32)
    tip = root * r(0.3, 0.9)
    outline = [
        (0, root / 2),
        (0, -root / 2),
        (span, -root / 2 - sweep),
        (span, tip - root / 2 - sweep),
    ]
    wing = turn(slab(outline, 0.025), "x", 90) + (0, 0, r(-0.05, 0.2))
    if gondola:
        yield "engines", box(girth * 0.5, girth * 0.35, long * 0.2, (0, -girth * 1.3, 0.1))
        fin = slab(
            [(girth * 0.2, 0), (girth * 1.2, -0.15), (girth * 1.2, -0.35), (0, -0.35)], 0.015
        )
        yield "tail", around(turn(fin, "x", 90), 4, "z", 45) - (0, 0, long * 0.25)
        return
    if cross:
        yield "wings", around(wing, 4, "z", r(0, 45))
        yield "tail", around(wing * (0.7, 0.7, 0.7), 4, "z", 45) - (0, 0, long * 0.42)
        return
    lift = turn(wing, "z", r(0, 8))
    level = girth * (0.9 if top else r(-0.6, 0.2))
    yield "wings", mirror(shift(lift, 0, level), "x")
    if second:
        yield "wings", mirror(shift(lift, 0, level + second), "x")
        yield (
            "wings",
            mirror(
                copies(
                    rod((span * 0.6, level, 0), (span * 0.6, level + second, 0), 0.01, segments=4),
                    [(0, 0, 0), (0, 0, 0.12)],
                ),
                "x",
            ),
        )
    back = -long * 0.44
    fin = slab([(0.1, 0), (-0.12, 0), (-0.18, r(0.2, 0.35)), (-0.06, 0.3)], 0.02)
    fin = turn(fin, "y", -90)
    yield (
        "tail",
        mirror(turn(fin, "z", -15) + (girth * 0.7, 0.02, back), "x")
        if twin
        else fin + (0, 0.02, back),
    )
    yield "tail", mirror(wing * (0.35, 1, 0.5) + (0, 0.02, back), "x")
    for i in range(pods):
        at = span * (0.35 + 0.3 * i)
        pod = turn(lathe([(0.02, 0), (0.05, 0.05), (0.05, 0.25), (0.02, 0.3)], segments=9), "x", 90)
        yield "engines", mirror(shift(pod, at, level - 0.06, -sweep * 0.4), "x")
    if propeller:
        yield (
            "engines",
            around(box(0.035, r(0.18, 0.28), 0.012), r.count(2, 4), "z") + (0, 0, long / 2),
        )
    if wheels:
        yield (
            "engines",
            mirror(
                rod((girth * 0.5, -girth, 0.15), (girth * 1.4, -girth - 0.16, 0.18), 0.014), "x"
            ),
        )
        yield "engines", mirror(wheel(0.06, 0.03, (girth * 1.4, 0.18)) - (0, girth + 0.22, 0), "x")
