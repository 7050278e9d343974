"""Motor vehicles."""

import numpy as np

from dapt.synthetic.families.vehicles import wheel
from dapt.synthetic.grammars.grammar import grammar
from dapt.synthetic.shapes import (
    arc,
    box,
    copies,
    cylinder,
    in_plane,
    mirror,
    rod,
    sheet,
    shift,
    slab,
    turn,
)


@grammar(
    "body",
    "glass",
    "wheels",
    "details",
    sedan=dict(
        long=(1.6, 2.0),
        wide=(0.65, 0.75),
        nose=(0.25, 0.32),
        cab=((0.22, 0.28), (0.71, 0.75)),
        tail=(0.75, 0.9),
        high=(0.2, 0.28),
    ),
    estate=dict(
        long=(1.6, 1.9),
        wide=(0.65, 0.75),
        nose=(0.22, 0.3),
        cab=((0.27, 0.33), (0.94, 0.98)),
        tail=1.0,
        high=(0.22, 0.3),
    ),
    jeep=dict(
        long=(1.2, 1.5),
        wide=(0.6, 0.7),
        nose=(0.3, 0.4),
        cab=((0.37, 0.43), (0.91, 0.95)),
        tail=1.0,
        high=(0.3, 0.4),
        steep=True,
        spare=True,
    ),
    pick_up=dict(
        long=(1.7, 2.1),
        wide=(0.65, 0.75),
        nose=(0.28, 0.33),
        cab=((0.27, 0.33), (0.51, 0.55)),
        tail=0.56,
        high=(0.25, 0.35),
        steep=True,
    ),
    van=dict(
        long=(1.5, 2.0),
        wide=(0.65, 0.75),
        nose=(0.08, 0.15),
        cab=((0.07, 0.13), (0.96, 1.00)),
        tail=1.0,
        high=(0.4, 0.55),
    ),
    lorry=dict(
        long=(2.0, 2.8),
        wide=(0.65, 0.8),
        nose=(0.0, 0.1),
        cab=((0.00, 0.05), (0.21, 0.25)),
        tail=0.26,
        high=(0.45, 0.55),
        cargo=(0.6, 0.8),
        axles=(2, 4),
    ),
    tanker=dict(
        long=(2.0, 2.6),
        wide=(0.65, 0.75),
        nose=(0.0, 0.1),
        cab=((0.00, 0.05), (0.21, 0.25)),
        tail=0.26,
        high=(0.4, 0.5),
        cistern=(0.25, 0.32),
        axles=(2, 4),
    ),
    coach_bus=dict(
        long=(2.0, 2.6),
        wide=(0.6, 0.7),
        nose=0.02,
        cab=((0.00, 0.05), (0.96, 1.00)),
        tail=1.0,
        high=(0.5, 0.65),
        axles=(2, 3),
    ),
    tractor=dict(
        long=(1.0, 1.3),
        wide=(0.4, 0.5),
        nose=(0.45, 0.55),
        cab=((0.52, 0.58), (0.91, 0.95)),
        tail=0.96,
        high=(0.35, 0.45),
        steep=True,
        big=(1.7, 2.2),
    ),
    armored=dict(
        long=(1.4, 1.8),
        wide=(0.7, 0.85),
        nose=(0.1, 0.2),
        cab=((0.17, 0.23), (0.86, 0.90)),
        tail=0.95,
        high=(0.06, 0.1),
        turret=(0.18, 0.25),
        tracks=True,
    ),
    bulldozer=dict(
        long=(1.1, 1.4),
        wide=(0.6, 0.7),
        nose=(0.4, 0.5),
        cab=((0.47, 0.53), (0.86, 0.90)),
        tail=0.92,
        high=(0.35, 0.45),
        steep=True,
        tracks=True,
        blade=True,
    ),
    racer=dict(
        long=(1.6, 2.0),
        wide=(0.3, 0.4),
        nose=(0.5, 0.6),
        cab=((0.52, 0.58), (0.66, 0.70)),
        tail=0.8,
        high=(0.1, 0.15),
        spoiler=True,
        wheels_out=True,
    ),
)
def motors(
    r,
    long,
    wide,
    nose,
    cab,
    tail,
    high,
    steep=False,
    spare=False,
    cargo=0.0,
    axles=2,
    cistern=0.0,
    big=1.0,
    turret=0.0,
    tracks=False,
    blade=False,
    spoiler=False,
    wheels_out=False,
):
    """An extruded side view on wheels or tracks."""
    low, belt, radius = r(0.1, 0.16), r(0.2, 0.3), r(0.14, 0.19)
    start, end = cab
    rake, back = (0.02, 0.0) if steep else (r(0.05, 0.12), r(0.0, 0.1))
    side = [
        (0, low),
        (1, low),
        (1, low + belt * 0.8),
        (tail, low + belt),
        (end, low + belt),
        (end - back, low + belt + high),
        (start + rake, low + belt + high),
        (start, low + belt),
        (min(nose, start), low + belt * r(0.8, 1.0)),
        (0, low + belt * r(0.5, 0.9)),
    ]
    outline = (np.array(side) - (0.5, 0)) * (-long, 1)
    yield "body", turn(slab(outline, wide), "y", -90)
    pane = np.array(
        [
            (start + rake + 0.02, low + belt + high * 0.9),
            (end - back - 0.02, low + belt + high * 0.9),
            (end - 0.03, low + belt),
            (start + 0.03, low + belt),
        ]
    )
    yield "glass", turn(slab((pane - (0.5, 0)) * (-long, 1), wide * 1.02), "y", -90)
    if cargo:
        yield (
            "details",
            box(
                wide * 1.05,
                cargo,
                long * (1 - end - 0.03),
                (0, low + belt * 0.6, -long * (end + 0.02) / 2),
            ),
        )
    if cistern:
        drum = turn(cylinder(cistern, long * 0.68, (0, -long * 0.34, 0)), "x", 90)
        yield "details", shift(drum, 0, low + belt * 0.6 + cistern, -long * 0.14)
    out = wide / 2 + (0.12 if wheels_out else -0.03)
    if tracks:
        track = np.array(
            [(-0.48, 0.1), (-0.38, 0.0), (0.38, 0.0), (0.48, 0.1), (0.45, 0.24), (-0.45, 0.24)]
        ) * (long, 1)
        yield "wheels", mirror(shift(turn(slab(track, 0.16), "y", 90), wide / 2), "x")
    else:
        spots = np.linspace(-0.32, 0.34, axles) * long
        for i, z in enumerate(spots):
            grown = radius * (big if i == 0 else 1)
            yield "wheels", mirror(wheel(grown, r(0.08, 0.14), (out, z)), "x")
    if turret:
        yield (
            "details",
            cylinder(turret, r(0.12, 0.2), (0, low + belt + high, 0), top=0.75, segments=10),
        )
        yield (
            "details",
            rod((0, low + belt + high + 0.08, 0), (0, low + belt + high + 0.1, r(0.6, 1.0)), 0.03),
        )
    if blade:
        yield "details", sheet_of(arc(0.25, -60, 60, 7), wide * 1.2) + (0, 0.25, long * 0.42)
        yield "details", mirror(rod((wide / 2, 0.15, 0), (wide / 2, 0.2, long * 0.55), 0.03), "x")
    if spare:
        yield "details", shift(turn(wheel(radius, 0.08, (0, 0)), "y", 90), 0, low, -long / 2 - 0.05)
    if spoiler:
        yield (
            "details",
            copies(
                box(wide * r(1.5, 2.2), 0.02, 0.12),
                [(0, low + belt + 0.15, -long * 0.47), (0, low, long * 0.48)],
            ),
        )


def sheet_of(line, width):
    """A line in the zy plane, extruded along x."""
    edge = in_plane(np.asarray(line), "zy")
    return sheet(np.stack([edge - (width / 2, 0, 0), edge + (width / 2, 0, 0)]))
