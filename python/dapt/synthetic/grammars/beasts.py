"""Animals: with four legs, wings or fins."""

import numpy as np

from dapt.synthetic.grammars.grammar import grammar
from dapt.synthetic.grammars.growth import ribbon
from dapt.synthetic.shapes import (
    ball,
    mirror,
    rod,
    shift,
    slab,
    tube,
    turn,
)


def limb(start, way, length, radius, bend=0.0, segments=6):
    """Two bones from a point along a direction; the joint bends forward."""
    way = np.asarray(way, dtype=float) / (np.linalg.norm(way) + 1e-9)
    knee = start + way * length * 0.5 + (0, 0, bend * length)
    end = start + way * length
    return tube([start, knee, end], [radius * 1.3, radius, radius * 0.7], segments), end


@grammar(
    "body",
    "head",
    "legs",
    "tail",
    horse=dict(
        girth=(0.15, 0.2),
        legs=(0.55, 0.7),
        neck=(0.3, 0.45),
        snout=(1.6, 2.2),
        tail=(0.4, 0.6),
        mane=True,
    ),
    cow=dict(
        girth=(0.2, 0.26),
        legs=(0.35, 0.5),
        neck=(0.12, 0.2),
        snout=(1.4, 1.8),
        tail=(0.3, 0.5),
        horns=(0.1, 0.25),
    ),
    deer=dict(
        girth=(0.12, 0.17),
        legs=(0.55, 0.7),
        neck=(0.25, 0.4),
        snout=(1.4, 1.8),
        tail=(0.05, 0.1),
        horns=(0.25, 0.5),
    ),
    goat=dict(
        girth=(0.15, 0.2),
        legs=(0.35, 0.5),
        neck=(0.12, 0.22),
        snout=(1.3, 1.7),
        tail=(0.05, 0.1),
        horns=(0.12, 0.3),
    ),
    pig=dict(
        girth=(0.2, 0.27), legs=(0.18, 0.28), neck=(0.0, 0.05), snout=(1.4, 1.9), tail=(0.05, 0.1)
    ),
    dog=dict(
        girth=(0.11, 0.16), legs=(0.3, 0.5), neck=(0.1, 0.2), snout=(1.3, 1.9), tail=(0.2, 0.4)
    ),
    cat=dict(
        girth=(0.11, 0.15), legs=(0.25, 0.35), neck=(0.05, 0.12), snout=(0.8, 1.1), tail=(0.4, 0.6)
    ),
    elephant=dict(
        girth=(0.28, 0.36),
        legs=(0.4, 0.5),
        neck=(0.0, 0.1),
        snout=(0.9, 1.1),
        tail=(0.2, 0.4),
        trunk=(0.5, 0.8),
        thick=0.08,
    ),
    giraffe=dict(
        girth=(0.13, 0.18),
        legs=(0.7, 0.9),
        neck=(0.8, 1.1),
        snout=(1.4, 1.8),
        tail=(0.3, 0.5),
        horns=0.06,
    ),
    camel=dict(
        girth=(0.17, 0.22),
        legs=(0.55, 0.7),
        neck=(0.3, 0.5),
        snout=(1.3, 1.7),
        tail=(0.2, 0.4),
        humps=(1, 2),
    ),
    lizard=dict(
        girth=(0.08, 0.13),
        legs=(0.15, 0.22),
        neck=(0.0, 0.03),
        snout=(1.6, 2.4),
        tail=(0.6, 1.0),
        sprawl=1.0,
    ),
    mouse=dict(girth=(0.16, 0.24), legs=(0.08, 0.14), neck=0.0, snout=(1.2, 1.6), tail=(0.4, 0.8)),
)
def beast(
    r,
    girth,
    legs,
    neck,
    snout,
    tail,
    mane=False,
    horns=0.0,
    trunk=0.0,
    humps=0,
    thick=None,
    sprawl=0.1,
):
    """An animal with four legs."""
    length, hip = r(0.8, 1.1), legs + girth
    z = np.linspace(-0.5, 0.5, 7) * length
    waist = girth * (0.85 + 0.15 * np.cos(np.linspace(-3, 3, 7))) * (1, 0.95, 1, 1, 1, 1.05, 0.8)
    yield "body", tube(np.stack([0 * z, hip + 0.04 * np.sin(3 * z), z], 1), waist, 9)
    for i in range(humps):
        yield (
            "body",
            ball(
                girth * 0.5,
                girth * 0.7,
                girth * 0.6,
                (0, hip + girth, (i - humps / 2 + 0.5) * 0.35),
            ),
        )
    size = max(girth * r(0.5, 0.7), 0.06)
    base = np.array([0, hip + girth * 0.5, length * 0.45])
    top = base + neck * np.array([0, r(0.5, 1.0), r(0.2, 0.6)]) + (0, 0, size)
    yield "head", rod(base, top, girth * 0.6, size * 0.8, 8)
    nod = r(-0.5, 0.1)
    nose = top + size * snout * np.array([0, nod, 1.0])
    yield "head", tube([top - (0, 0, size * 0.5), top, nose], [size * 0.7, size, size * 0.5], 8)
    ear = size * r(0.5, 1.5) * (2.2 if trunk else 1)
    yield (
        "head",
        mirror(
            slab([(size * 0.5, 0), (size * 0.6 + ear * 0.6, ear * 0.4), (size * 0.5, ear)], 0.015)
            + top,
            "x",
        ),
    )
    if mane:
        yield (
            "head",
            ribbon(
                np.array([base - (0, 0, 0.1), top]) + (0, size, 0), 0.15, np.array([0, 1, -0.5])
            ),
        )
    if horns:
        line = np.array(
            [
                (size * 0.4, size * 0.6, 0),
                (size + horns * 0.5, size + horns * 0.3, 0),
                (size + horns * r(0.0, 0.5), size + horns, r(-0.5, 0.5) * horns),
            ]
        )
        yield "head", mirror(tube(line, [0.03, 0.022, 0.008], 5), "x") + top
    if trunk:
        hang = nose + trunk * np.array([(0, 0, 0), (0, -0.5, 0.1), (0, -0.9, r(-0.2, 0.5))])
        yield "head", tube(hang, [0.07, 0.05, 0.03], 7)
    thick = thick or r(0.03, 0.05)
    for side in (-1, 1):
        for end in (-1, 1):
            start = np.array([side * girth * 0.6, hip - girth * 0.3, end * length * 0.38])
            way = (side * sprawl * r(0.5, 1.2), -1, r(-0.4, 0.4))
            yield (
                "legs",
                limb(start, way, (legs + girth * 0.6) * r(0.9, 1.0), thick, r(-0.1, 0.1))[0],
            )
    rump = np.array([0, hip + girth * 0.5, -length * 0.5])
    droop = r(-0.9, 0.4)
    yield (
        "tail",
        tube(
            rump
            + tail * np.array([(0, 0, 0), (0, 0.1 + droop * 0.4, -0.4), (0, droop, r(-1.0, -0.3))]),
            [0.04, 0.03, 0.012],
            5,
        ),
    )


@grammar(
    "body",
    "head",
    "wings",
    "legs",
    goose=dict(wings="folded", neck=(0.25, 0.5), legs=(0.1, 0.2), beak=(0.08, 0.15)),
    ostrich=dict(wings="folded", neck=(0.5, 0.8), legs=(0.5, 0.8), beak=0.06),
    hen=dict(wings="folded", neck=(0.05, 0.12), legs=(0.1, 0.2), beak=0.05),
    eagle=dict(
        wings="spread", neck=(0.05, 0.1), legs=(0.05, 0.1), beak=(0.06, 0.1), span=(0.8, 1.2)
    ),
    butterfly=dict(wings="flat", neck=0.0, legs=0.0, beak=0.02, span=(0.5, 0.8), slim=0.3),
    bee=dict(wings="flat", neck=0.0, legs=(0.1, 0.15), beak=0.02, span=(0.3, 0.5), pairs=3),
    beetle=dict(wings="folded", neck=0.0, legs=(0.15, 0.25), beak=0.05, pairs=3),
)
def winged(r, wings, neck, legs, beak, span=0.5, slim=1.0, pairs=1):
    """An animal with wings, folded or spread."""
    length, girth = r(0.3, 0.45), r(0.12, 0.2) * slim
    yield "body", turn(ball(girth, girth * r(0.8, 1.1), length), "x", r(-30, 5))
    top = np.array([0, girth * 0.5 + neck * r(0.6, 1.0), length * 0.8 + neck * 0.3])
    yield (
        "head",
        tube(
            [(0, 0, length * 0.6), (top[0], top[1] * 0.5, top[2]), top],
            [girth * 0.6, 0.05, 0.05],
            7,
        ),
    )
    size = r(0.07, 0.1)
    yield "head", ball(size * 0.8, size, size, top)
    yield "head", rod(top + (0, 0, size * 0.5), top + (0, -beak * 0.3, size + beak), 0.03, 0.004)
    if wings == "folded":
        yield (
            "wings",
            mirror(ball(0.03, girth * 0.7, length * 0.9, (girth * 0.9, 0.02, -0.08)), "x"),
        )
    else:
        chord, lift = r(0.25, 0.4), r(-10, 40) if wings == "spread" else r(-5, 60)
        outline = [
            (0, chord * 0.5),
            (span * 0.5, chord * r(0.4, 0.8)),
            (span, chord * r(-0.2, 0.5)),
            (span * 0.7, -chord * r(0.2, 0.8)),
            (0, -chord * 0.5),
        ]
        wing = turn(turn(slab(outline, 0.015), "x", 90), "z", lift)
        yield "wings", mirror(shift(wing, girth * 0.5), "x")
        if wings == "flat":
            yield "wings", mirror(shift(wing * (0.7, 0.7, 0.7), girth * 0.4, 0, -chord * 0.7), "x")
    yield (
        "body",
        ribbon(
            [(0, 0, -length * 0.8), (0, r(-0.1, 0.15), -length - r(0.1, 0.4))],
            [0.08, r(0.1, 0.3)],
            np.array([1.0, 0, 0]),
        ),
    )
    for z in np.linspace(-0.3, 0.3, pairs) * length if pairs > 1 else [0.0]:
        if legs:
            out = 0.12 * (pairs > 1)
            line = [
                (girth * 0.5, -girth * 0.6, z),
                (girth * 0.6 + out, -girth * 0.7 - legs * 0.3, z),
                (girth * 0.6 + out * 1.5, -girth - legs, z + 0.05),
            ]
            yield "legs", mirror(tube(line, 0.014, 5), "x")


@grammar(
    "body",
    "fins",
    trout=dict(high=(0.16, 0.26), thin=(0.4, 0.7), fork=(0.15, 0.3)),
    shark=dict(high=(0.13, 0.18), thin=(0.9, 1.1), fork=(0.25, 0.4), dorsal=(0.15, 0.25)),
    whale=dict(high=(0.2, 0.3), thin=(0.9, 1.1), fork=(0.2, 0.35), flat=True),
    eel=dict(high=(0.05, 0.08), thin=0.9, fork=0.03, wiggle=(0.1, 0.25)),
    snake=dict(high=(0.04, 0.06), thin=1.0, fork=0.0, wiggle=(0.15, 0.3), coils=(1.0, 3.0)),
    ray=dict(high=(0.06, 0.1), thin=(4.0, 6.0), fork=0.05, dorsal=0.03),
)
def swimmer(r, high, thin, fork, dorsal=0.12, flat=False, wiggle=0.03, coils=1.0):
    """An animal with fins, along a spine that tapers at both ends."""
    t = np.linspace(0, 1, 14)
    girth = high * np.clip(np.sin(np.pi * t ** r(0.5, 0.8)), 0.1, None)
    spine = np.stack([wiggle * np.sin(2 * np.pi * coils * t + r(0, 6.28)), 0 * t, 0.6 - 1.2 * t], 1)
    body = tube(spine * (1 / thin, 1, 1), girth, 10) * (thin, 1, 1)
    yield "body", body
    end = spine[-1]
    tail = slab([(0.05, 0), (-fork * 0.6, fork), (-fork * 0.3, 0), (-fork * 0.6, -fork)], 0.015)
    if fork:
        tail = turn(tail, "y", -90)
        yield "fins", (turn(tail, "z", 90) if flat else tail) * (1, 1, 1) + end
        fin = slab([(0.1, 0), (-0.12, dorsal), (-0.14, 0)], 0.015)
        yield "fins", shift(turn(fin, "y", -90), 0, high * 0.8, r(-0.1, 0.15))
        yield (
            "fins",
            mirror(
                turn(turn(fin, "y", -90), "z", -r(80, 120))
                + (high * thin * 0.7, -high * 0.3, 0.25),
                "x",
            ),
        )
