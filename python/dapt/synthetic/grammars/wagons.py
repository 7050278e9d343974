"""Wagons and carts, and siege engines."""

import numpy as np

from dapt.synthetic.families.vehicles import wheel
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
    sheet,
    slab,
    tube,
    turn,
)


def spoked(radius, thick, at, spokes):
    """A wooden wheel with rim, hub and spokes; `at` is the (x, z) of its center."""
    rim = tube(in_plane(arc(radius, 0, 360, 17), "zy"), thick, 5)
    hub = turn(cylinder(radius * 0.2, thick * 4, (0, -thick * 2, 0), segments=8), "z", 90)
    spoke = around(rod((0, 0, 0), (0, radius, 0), thick * 0.5, segments=4), spokes, "x")
    return np.concatenate([rim, hub, spoke]) + (at[0], radius, at[1])


@grammar(
    "wheels",
    "bed",
    "shaft",
    "load",
    handcart=dict(
        long=(0.7, 1.0),
        wide=(0.4, 0.6),
        axles=1,
        radius=(0.2, 0.3),
        sides=(0.1, 0.25),
        poles=(0.4, 0.7),
    ),
    ox_cart=dict(
        long=(0.9, 1.3),
        wide=(0.5, 0.7),
        axles=1,
        radius=(0.3, 0.42),
        sides=(0.15, 0.4),
        poles=(0.6, 0.9),
        pole_count=1,
    ),
    farm_wagon=dict(
        long=(1.3, 1.8),
        wide=(0.5, 0.7),
        axles=2,
        radius=(0.22, 0.34),
        sides=(0.15, 0.35),
        poles=(0.4, 0.8),
    ),
    covered_wagon=dict(
        long=(1.2, 1.6),
        wide=(0.5, 0.7),
        axles=2,
        radius=(0.22, 0.34),
        sides=(0.15, 0.3),
        cover=(0.35, 0.55),
    ),
    chariot=dict(
        long=(0.4, 0.6),
        wide=(0.4, 0.6),
        axles=1,
        radius=(0.2, 0.3),
        sides=(0.3, 0.45),
        poles=(0.7, 1.0),
        pole_count=1,
        open_=True,
    ),
    barrow=dict(
        long=(0.5, 0.7),
        wide=(0.3, 0.45),
        axles=1,
        radius=(0.12, 0.2),
        sides=(0.12, 0.25),
        poles=(0.5, 0.8),
        narrow=True,
    ),
    trolley=dict(
        long=(0.6, 0.9), wide=(0.4, 0.6), axles=2, radius=(0.05, 0.09), sides=(0.3, 0.5), caged=True
    ),
    pram=dict(
        long=(0.5, 0.7),
        wide=(0.3, 0.4),
        axles=2,
        radius=(0.12, 0.2),
        sides=(0.2, 0.3),
        cover=(0.25, 0.4),
        half=True,
        lift=0.2,
    ),
    loaded_cart=dict(
        long=(0.9, 1.3),
        wide=(0.5, 0.7),
        axles=(1, 2),
        radius=(0.25, 0.38),
        sides=(0.1, 0.2),
        poles=(0.4, 0.8),
        load=(3, 7),
    ),
    coach=dict(
        long=(1.0, 1.3),
        wide=(0.5, 0.65),
        axles=2,
        radius=(0.22, 0.36),
        sides=(0.5, 0.7),
        poles=(0.4, 0.8),
        closed=True,
        lift=0.1,
    ),
)
def wagons(
    r,
    long,
    wide,
    axles,
    radius,
    sides,
    poles=0.0,
    pole_count=2,
    cover=0.0,
    half=False,
    open_=False,
    narrow=False,
    caged=False,
    lift=0.0,
    load=0,
    closed=False,
):
    """A bed on one or two axles, pulled or pushed."""
    spokes, thick = r.count(6, 12), r(0.018, 0.035)
    spots = [0.0] if axles == 1 else [-long * 0.35, long * 0.35]
    if narrow:
        spots = [long * 0.6]
    for z in spots:
        if narrow:
            yield "wheels", spoked(radius, thick, (0, z), spokes)
        else:
            one = (
                spoked(radius, thick, (wide / 2 + 0.06, z), spokes)
                if radius > 0.1
                else wheel(radius, 0.04, (wide * 0.45, z))
            )
            yield "wheels", mirror(one, "x")
            yield "shaft", rod((-wide * 0.6, radius, z), (wide * 0.6, radius, z), 0.02)
    y = radius * (1.1 if radius > 0.1 else 2.0) + lift
    yield "bed", box(wide, 0.05, long, (0, y, 0))
    if closed:
        yield "bed", box(wide, sides, long * 0.8, (0, y, 0), top=r(0.85, 1.15))
        yield "load", box(wide * 0.7, 0.05, 0.3, (0, y + sides * 0.5, long * 0.5))
    elif caged:
        bar = box(0.012, sides, 0.012)
        yield (
            "bed",
            mirror(copies(bar, [(wide / 2, y, z * long) for z in np.linspace(-0.5, 0.5, 9)]), "x"),
        )
        yield (
            "bed",
            mirror(copies(bar, [(x * wide, y, long / 2) for x in np.linspace(-0.5, 0.5, 6)]), "z"),
        )
        yield (
            "bed",
            copies(box(wide, 0.02, long), [(0, y + sides, 0)]) * (1, 1, 1)
            if r.chance(0.3)
            else rod((-wide / 2, y + sides, long / 2), (wide / 2, y + sides, long / 2), 0.02),
        )
    else:
        lean = r(1.0, 1.3)
        plank = slab(
            [(-long / 2, 0), (long / 2, 0), (long / 2 * lean, sides), (-long / 2 * lean, sides)],
            0.025,
        )
        yield "bed", mirror(turn(plank, "y", 90) + (wide / 2, y, 0), "x")
        yield "bed", box(wide, sides * r(0.8, 1.5), 0.025, (0, y, long / 2))
        if not open_:
            yield "bed", box(wide, sides, 0.025, (0, y, -long / 2))
    for i in range(pole_count if poles else 0):
        x = 0 if pole_count == 1 else (i - 0.5) * wide * 0.7
        sign = -1 if narrow else 1
        yield (
            "shaft",
            rod(
                (x, y, sign * long * 0.4),
                (x, y + r(-0.1, 0.15), sign * (long * 0.5 + poles)),
                0.022,
            ),
        )
    if poles and pole_count == 1:
        yield "shaft", rod((-0.25, y, long * 0.45 + poles), (0.25, y, long * 0.45 + poles), 0.02)
    if cover:
        bow = arc(wide / 2, 0, 180, 9, cover * 2 / wide)
        z = np.linspace(-0.5 if not half else 0.0, 0.5, 5) * long
        yield "load", sheet(np.stack([in_plane(bow, "xy", (0, y + sides, at)) for at in z]))
    for _ in range(load):
        at = (wide * r(-0.3, 0.3), y + sides * r(0.2, 1.0), long * r(-0.4, 0.4))
        yield (
            "load",
            r.pick(ball(0.13, 0.1, 0.15, at), box(0.2, 0.2, 0.2, at), cylinder(0.1, 0.25, at)),
        )


@grammar(
    "frame",
    "wheels",
    "arm",
    "cover",
    catapult=dict(
        long=(0.9, 1.2), wide=(0.5, 0.6), arm=(0.8, 1.1), upright=(0.5, 0.8), wheeled=[True, False]
    ),
    trebuchet=dict(
        long=(0.8, 1.1),
        wide=(0.5, 0.7),
        arm=(1.3, 1.8),
        upright=(0.8, 1.1),
        wheeled=False,
        weight=True,
    ),
    ballista=dict(
        long=(0.8, 1.1),
        wide=(0.3, 0.4),
        arm=(0.8, 1.2),
        upright=(0.3, 0.5),
        wheeled=[True, False],
        bow=True,
    ),
    ram=dict(
        long=(1.2, 1.6),
        wide=(0.5, 0.7),
        arm=(1.4, 1.8),
        upright=(0.5, 0.6),
        wheeled=True,
        roofed=True,
    ),
    siege_tower=dict(
        long=(0.6, 0.8), wide=(0.5, 0.7), arm=0.0, upright=(1.2, 1.8), wheeled=True, storeys=(3, 5)
    ),
    field_gun=dict(
        long=(0.7, 1.0),
        wide=(0.35, 0.5),
        arm=(0.7, 1.0),
        upright=0.1,
        wheeled=True,
        gun=(0.06, 0.1),
    ),
    crane=dict(
        long=(0.7, 0.9),
        wide=(0.4, 0.6),
        arm=(1.0, 1.6),
        upright=(0.7, 1.0),
        wheeled=False,
        hook=True,
    ),
    mortar=dict(
        long=(0.5, 0.7),
        wide=(0.35, 0.5),
        arm=(0.35, 0.5),
        upright=0.1,
        wheeled=[True, False],
        gun=(0.12, 0.18),
    ),
)
def engines(
    r,
    long,
    wide,
    arm,
    upright,
    wheeled,
    weight=False,
    bow=False,
    roofed=False,
    storeys=0,
    gun=0.0,
    hook=False,
):
    """A siege engine: a timber frame with its arm, ram or gun."""
    beam, radius = r(0.025, 0.05), r(0.12, 0.2) if gun == 0 else r(0.25, 0.35)
    y = radius if wheeled else beam
    yield "frame", mirror(box(beam * 2, beam * 2, long, (wide / 2, y, 0)), "x")
    yield (
        "frame",
        copies(box(wide, beam * 2, beam * 2), [(0, y, z * long) for z in (-0.45, 0, 0.45)]),
    )
    if wheeled:
        for z in [0.0] if gun else [-long * 0.35, long * 0.35]:
            one = (
                spoked(radius, beam * 0.7, (wide / 2 + 0.08, z), r.count(5, 10))
                if r.chance(0.5)
                else wheel(radius, 0.06, (wide / 2 + 0.06, z))
            )
            yield "wheels", mirror(one, "x")
    high = y + upright
    if storeys:
        yield "cover", box(wide, upright, long, (0, y, 0), top=r(0.6, 1.0))
        for i in range(storeys):
            yield (
                "frame",
                copies(
                    box(wide * 1.05, beam, long * 1.05), [(0, y + upright * (i + 1) / storeys, 0)]
                )
                * (1, 1, 1),
            )
        yield (
            "arm",
            turn(box(wide * 0.7, 0.03, r(0.2, 0.5), (0, 0, 0.2)), "x", r(-70, 10))
            + (0, high * 0.9, long * 0.4),
        )
        return
    for x in (-1, 1):
        yield "frame", rod((x * wide / 2, y, long * 0.1), (x * wide / 2, high, 0), beam)
        yield "frame", rod((x * wide / 2, y, -long * 0.35), (x * wide / 2, high, 0), beam * 0.8)
        if roofed or weight:
            yield "frame", rod((x * wide / 2, y, long * 0.4), (x * wide / 2, high, 0), beam * 0.8)
    yield "frame", rod((-wide / 2, high, 0), (wide / 2, high, 0), beam)
    pitch = np.radians(r(-10, 60))
    way = np.array([0, np.sin(pitch), np.cos(pitch)])
    pivot = np.array([0, high, 0])
    if gun:
        barrel = lathe(
            [
                (0, 0),
                (gun * 1.2, 0.02),
                (gun * 1.2, arm * 0.4),
                (gun * 0.8, arm),
                (gun, arm * 1.03),
                (gun * 0.6, arm * 1.04),
                (gun * 0.5, arm * 0.8),
            ],
            segments=12,
        )
        yield "arm", turn(barrel, "x", 90 - np.degrees(pitch) * 0.5) + (0, y + gun, -arm * 0.4)
        yield "frame", mirror(rod((wide * 0.15, y, 0), (wide * 0.1, 0.03, -long), beam), "x")
    elif bow:
        yield "arm", rod(pivot - way * long * 0.5, pivot + way * long * 0.5, beam)
        limbs = in_plane(arc(arm / 2, 0, 180, 11, r(0.2, 0.5)) * (1, -1), "xz")
        yield "arm", tube(limbs, 0.025, 5) + pivot + way * long * 0.45
        yield (
            "cover",
            rod(limbs[0] + pivot + way * long * 0.45, limbs[-1] + pivot + way * long * 0.45, 0.008),
        )
    elif roofed:
        ridge = slab(
            [(-wide * 0.7, high), (wide * 0.7, high), (0, high + r(0.2, 0.35))], long * 1.05
        )
        yield "cover", ridge
        yield (
            "arm",
            rod(
                (0, y + upright * 0.5, -arm * 0.4), (0, y + upright * 0.5, arm * 0.6), 0.07, 0.08, 9
            ),
        )
    else:
        split = 0.25 if weight else 0.1 if not hook else 0.3
        yield (
            "arm",
            rod(pivot - way * arm * split, pivot + way * arm * (1 - split), beam * 1.2, beam * 0.7),
        )
        tip = pivot + way * arm * (1 - split)
        if weight:
            yield "cover", box(wide * 0.6, 0.3, 0.3, pivot - way * arm * split - (0, 0.3, 0))
        if hook:
            yield "cover", rod(tip, tip - (0, r(0.3, 0.8), 0), 0.01, segments=3)
        else:
            yield "cover", ball(0.08, 0.06, 0.1, tip)
