"""Ships and boats."""

import numpy as np

from dapt.synthetic.grammars.grammar import grammar
from dapt.synthetic.shapes import (
    box,
    copies,
    cylinder,
    in_plane,
    mirror,
    rod,
    sheet,
    slab,
    tube,
    turn,
)


@grammar(
    "hull",
    "deck",
    "rigging",
    "oars",
    galley=dict(
        long=(1.8, 2.4), beam=(0.3, 0.42), deep=(0.16, 0.24), oars=(7, 14), masts=(1, 1), prow=True
    ),
    longship=dict(
        long=(1.6, 2.2),
        beam=(0.35, 0.45),
        deep=(0.14, 0.2),
        oars=[0, 8],
        masts=(1, 1),
        sheer=(0.25, 0.5),
    ),
    sailing_ship=dict(
        long=(1.5, 2.0), beam=(0.4, 0.5), deep=(0.25, 0.35), masts=(2, 3), castle=True, square=True
    ),
    sloop=dict(
        long=(1.2, 1.6),
        beam=(0.38, 0.5),
        deep=(0.2, 0.3),
        masts=(1, 1),
        fore=True,
        cabin=(0.1, 0.15),
    ),
    canoe=dict(
        long=(1.4, 2.0), beam=(0.22, 0.3), deep=(0.12, 0.2), sheer=(0.1, 0.25), benches=(2, 4)
    ),
    rowing_boat=dict(
        long=(1.0, 1.4),
        beam=(0.4, 0.55),
        deep=(0.18, 0.28),
        benches=(2, 4),
        oars=[0, 1],
        transom=True,
    ),
    freighter=dict(
        long=(2.0, 2.8),
        beam=(0.35, 0.45),
        deep=(0.25, 0.35),
        cabin=(0.3, 0.5),
        aft=True,
        stacks=(1, 2),
        containers=(0, 10),
        transom=True,
    ),
    warship=dict(
        long=(2.0, 2.8),
        beam=(0.25, 0.35),
        deep=(0.2, 0.28),
        cabin=(0.25, 0.4),
        stacks=(1, 3),
        turrets=(2, 4),
        masts=(1, 1),
        bare=True,
    ),
    motor_boat=dict(
        long=(1.0, 1.5), beam=(0.4, 0.5), deep=(0.2, 0.3), cabin=(0.15, 0.25), transom=True
    ),
    fishing_boat=dict(
        long=(1.2, 1.7),
        beam=(0.4, 0.5),
        deep=(0.25, 0.35),
        cabin=(0.2, 0.35),
        masts=(1, 2),
        bare=True,
        sheer=(0.1, 0.2),
    ),
    raft=dict(long=(0.9, 1.3), beam=(0.6, 0.9), deep=0.08, logs=(6, 10), masts=(0, 1)),
    submarine=dict(long=(1.8, 2.4), beam=(0.26, 0.34), deep=(0.26, 0.34), sub=True),
)
def hulls(
    r,
    long,
    beam,
    deep,
    oars=0,
    masts=0,
    prow=False,
    sheer=0.1,
    castle=False,
    square=True,
    fore=False,
    cabin=0.0,
    benches=0,
    transom=False,
    aft=False,
    stacks=0,
    containers=0,
    turrets=0,
    bare=False,
    logs=0,
    sub=False,
):
    """A hull and what stands on its deck, with the bow toward +z."""
    z = np.linspace(-1, 1, 13)
    if logs:
        yield (
            "hull",
            copies(
                turn(cylinder(beam / logs / 2, long, (0, -long / 2, 0), segments=7), "x", 90),
                [(x * beam, 0, 0) for x in np.linspace(-0.5, 0.5, logs)],
            ),
        )
    elif sub:
        yield (
            "hull",
            tube(
                np.stack([0 * z, 0 * z, z * long / 2], 1),
                beam / 2 * np.sqrt(np.clip(1 - np.abs(z) ** 3, 0.02, 1)),
                12,
            ),
        )
        yield (
            "deck",
            box(beam * 0.3, deep * 0.9, long * 0.18, (0, beam * 0.4, long * r(0.0, 0.15)), top=0.9),
        )
        yield "rigging", mirror(box(beam * 1.6, 0.02, 0.14, (0, 0, -long * 0.44)), "x")
        yield "rigging", box(0.02, beam * 1.6, 0.14, (0, -beam * 0.8, -long * 0.44))
        return
    else:
        bow, stern = r(1.5, 3.0), 8.0 if transom else r(1.8, 4.0)
        half = (
            beam
            / 2
            * np.clip(np.where(z > 0, 1 - np.abs(z) ** bow, 1 - np.abs(z) ** stern), 0.02, 1)
        )
        rows = []
        for t in np.linspace(0, 1, 6):
            narrow = np.sqrt(np.clip(1 - t ** r(1.8, 2.2), 0, 1))
            rows.append(
                np.stack(
                    [
                        half * narrow,
                        sheer * z**2 * (1 - 0.6 * t) - deep * t,
                        z * long / 2 * (1 - 0.15 * t),
                    ],
                    1,
                )
            )
        side = np.stack(rows)
        yield "hull", mirror(sheet(side), "x")
        floor = side[1] * (0.97, 1, 1)
        if not benches:
            yield "deck", sheet(np.stack([floor, floor * (-1, 1, 1)]))
        if prow:
            yield (
                "hull",
                mirror(
                    rod((0, -deep * 0.6, long * 0.42), (0, -deep * 0.5, long * 0.6), 0.03, 0.005),
                    "x",
                ),
            )
            yield (
                "hull",
                tube(
                    in_plane(
                        np.array(
                            [
                                (-long * 0.48, sheer),
                                (-long * 0.55, sheer + 0.2),
                                (-long * 0.47, sheer + r(0.25, 0.4)),
                            ]
                        ),
                        "zy",
                    ),
                    0.03,
                    5,
                ),
            )
    for i in range(benches):
        yield (
            "deck",
            box(
                beam * 0.85,
                0.025,
                0.08,
                (0, -deep * 0.25, (i - benches / 2 + 0.5) * long * 0.6 / benches),
            ),
        )
    if oars:
        spread = r(0.25, 0.5)
        spots = np.linspace(-0.35, 0.35, oars) * long if oars > 1 else [0.0]
        one = [
            rod((beam * 0.4, 0.0, at), (beam * 0.5 + spread, -deep, at - 0.1), 0.01, 0.016, 4)
            for at in spots
        ]
        yield "oars", mirror(np.concatenate(one), "x")
    if castle:
        yield "deck", box(beam * 0.8, r(0.15, 0.3), long * 0.2, (0, sheer * 0.5, -long * 0.38))
        yield "rigging", rod((0, sheer * 0.8, long * 0.45), (0, sheer + 0.25, long * 0.68), 0.014)
    for i in range(masts):
        at = long * (r(-0.05, 0.1) if masts == 1 else (i + 0.5) / masts * 0.7 - 0.35)
        tall = r(0.7, 1.2) * min(1, long / 1.6)
        yield "rigging", rod((0, -deep * 0.5, at), (0, tall, at), 0.016)
        if bare:
            yield "rigging", rod((0, tall * 0.4, at), (0, tall * 0.8, at - r(0.2, 0.4)), 0.01)
        elif fore:
            for edge in (
                [(0.02, 0.1), (0.02, tall * 0.95), (-long * 0.42, 0.12)],
                [(0.04, 0.08), (0.04, tall * 0.8), (long * 0.4, 0.08)],
            ):
                yield "rigging", turn(slab(np.array(edge) * (-1, 1), 0.01), "y", 90) + (0, 0, at)
        else:
            wide, low, belly = beam * r(1.2, 2.0), tall * 0.35, r(0.05, 0.15)
            u = np.linspace(-1, 1, 6)
            sail = np.stack(
                [
                    np.stack(
                        [
                            u * wide / 2,
                            0 * u + y,
                            at + belly * (1 - u**2) * np.sin(np.pi * (y - low) / (tall - low)),
                        ],
                        1,
                    )
                    for y in np.linspace(low, tall * 0.92, 5)
                ]
            )
            yield "rigging", sheet(sail)
            yield "rigging", rod((-wide / 2, tall * 0.92, at), (wide / 2, tall * 0.92, at), 0.012)
    if cabin:
        at = -long * 0.33 if aft else r(-0.1, 0.1)
        yield "deck", box(beam * 0.7, cabin, long * r(0.12, 0.25), (0, 0, at), top=r(0.8, 1.0))
        yield "deck", box(beam * 0.5, cabin * 0.5, long * 0.1, (0, cabin, at))
    for i in range(stacks):
        yield (
            "rigging",
            cylinder(
                0.05,
                cabin + 0.25,
                (0, 0, long * (-0.25 - 0.08 * i if aft else -0.15 - 0.12 * i)),
                segments=9,
            ),
        )
    for i in range(containers):
        yield (
            "deck",
            box(
                beam * 0.38,
                0.09,
                long * 0.11,
                (beam * (0.2 if i % 2 else -0.2), 0.0, long * (-0.15 + 0.12 * (i // 2))),
            ),
        )
    for i in range(turrets):
        at = long * (0.35 - 0.13 * i if i < 2 else -0.3 - 0.1 * (i - 2))
        yield "deck", cylinder(0.07, 0.07, (0, 0.0, at), segments=8)
        yield (
            "oars",
            mirror(
                rod(
                    (0.02, 0.05, at), (0.02, 0.08, at + (0.2 if i < 2 else -0.2)), 0.012, segments=4
                ),
                "x",
            ),
        )
