"""People, with what they wear and carry."""

import numpy as np

from dapt.synthetic.grammars.beasts import beast, limb
from dapt.synthetic.grammars.grammar import grammar
from dapt.synthetic.grammars.growth import ribbon
from dapt.synthetic.shapes import (
    arc,
    ball,
    box,
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
    "body",
    "head",
    "limbs",
    "worn",
    "carried",
    walker=dict(),
    runner=dict(stride=(0.5, 0.9)),
    sitter=dict(seated=True),
    robed=dict(skirt=(0.25, 0.4)),
    dancer=dict(skirt=(0.3, 0.5), stride=(0.0, 0.3), raise_arms=1.0),
    child=dict(big=(1.5, 1.9)),
    swordsman=dict(
        helmet=True, weapon=(0.4, 0.7), shield=(0.2, 0.35), skirt=(0.2, 0.28), tall_skirt=0.5
    ),
    spearman=dict(helmet=True, weapon=(1.4, 2.0), shield=(0.25, 0.4)),
    pikeman=dict(helmet=True, weapon=(2.2, 3.0)),
    archer=dict(bow=(0.7, 1.1), quiver=True),
    caped=dict(cape=True, helmet=[True, False], skirt=(0.2, 0.3), tall_skirt=0.5),
    worker=dict(weapon=(0.6, 1.2), basket=True),
    rider=dict(mounted=True, helmet=[True, False]),
    lancer=dict(mounted=True, helmet=True, weapon=(1.5, 2.2), shield=(0.2, 0.3)),
    statue=dict(pedestal=True),
    bust=dict(only_head=True),
)
def figure(
    r,
    stride=None,
    skirt=0.0,
    tall_skirt=1.0,
    raise_arms=0.0,
    big=1.1,
    helmet=False,
    weapon=0.0,
    shield=0.0,
    bow=0.0,
    quiver=False,
    cape=False,
    basket=False,
    seated=False,
    mounted=False,
    pedestal=False,
    only_head=False,
):
    """A person, dressed and equipped."""
    leg, trunk, wide = r(0.75, 0.95), r(0.5, 0.6), r(0.16, 0.24)
    hip = leg + (0.35 if mounted or pedestal else 0)
    if mounted:
        for part, piece in beast(r, r(0.15, 0.2), hip - 0.45, r(0.3, 0.4), 1.8, r(0.3, 0.6), True):
            yield {"head": "worn", "legs": "limbs"}.get(part, "body"), shift(piece, 0, -0.02, 0)
    if pedestal:
        yield "worn", box(0.6, hip - leg, 0.6, top=r(0.7, 1.0))
    shoulder = hip + trunk
    line = [
        (0, hip - 0.06),
        (wide * 0.85, hip),
        (wide * r(0.6, 0.95), hip + trunk * 0.5),
        (wide, shoulder - 0.06),
        (0.07, shoulder),
    ]
    depth = r(0.5, 0.75)
    if only_head:
        line = [(0, shoulder - 0.3), (wide * r(0.5, 0.9), shoulder - 0.28), *line[3:]]
    yield "body", lathe(line, segments=12) * (1, 1, depth)
    size = 0.11 * big
    crown = np.array([0, shoulder + size * 1.5, 0.02])
    yield "head", ball(size * 0.85, size * 1.15, size, crown)
    yield "head", cylinder(0.05, 0.12, (0, shoulder - 0.03, 0))
    yield "head", rod(crown + (0, 0, size * 0.8), crown + (0, -size * 0.3, size * 1.2), 0.02)
    if only_head:
        yield "head", mirror(ball(0.015, 0.035, 0.025, (size * 0.87, 0, 0)), "x") + crown
    if helmet:
        yield "worn", hat(r, size) + crown
        if r.chance(0.4):
            yield "worn", turn(slab(arc(size * 1.7, 10, 170, 8) - (0, 0), 0.03), "y", 90) + crown
    elif r.chance(0.6):
        yield "worn", ball(size * 0.95, size, size, crown + (0, size * 0.3, -size * 0.25))
    if only_head:
        return
    if skirt:
        low = hip - leg * (0.95 if tall_skirt == 1 else tall_skirt)
        yield (
            "worn",
            lathe(
                [(wide, hip + 0.05), (wide + (skirt - wide) * 0.6, (hip + low) / 2), (skirt, low)],
                segments=14,
            )
            * (1, 1, 0.85),
        )
    stride = r(0.0, 0.35) if stride is None else stride
    for side in (-1, 1):
        start = np.array([side * wide * 0.5, hip, 0])
        if seated or mounted:
            out = 0.9 if mounted else 0.1
            thigh = start + (side * out * 0.25, -0.12, 0.35 if seated else 0.2)
            shank = thigh + (0, -0.42, 0)
            yield "limbs", tube([start, thigh, shank], [0.09, 0.07, 0.045], 7)
            foot = shank
        else:
            shank, foot = limb(
                start, (side * r(0, 0.12), -1, side * stride), leg * 0.95, 0.065, r(0.0, 0.12), 7
            )
            yield "limbs", shank
        yield "limbs", ball(0.05, 0.04, 0.11, foot + (0, 0.0, 0.06))
    hands = []
    for side in (-1, 1):
        start = np.array([side * wide, shoulder - 0.07, 0])
        rise = r(-0.9, 0.6) if not raise_arms else r(0.2, raise_arms)
        arm, hand = limb(start, (side * r(0.1, 1.0), rise, r(-0.2, 0.8)), 0.56, 0.04, r(-0.1, 0.1))
        hands.append(hand)
        yield "limbs", arm
        yield "limbs", ball(0.045, 0.05, 0.04, hand)
    left, right = hands
    if weapon:
        way = np.array([r(-0.2, 0.2), 1.0, r(-0.2, 0.9)])
        way /= np.linalg.norm(way)
        back = right - way * weapon * r(0.1, 0.5)
        yield "carried", rod(back, back + way * weapon, 0.016, 0.012)
        yield "carried", ball(0.04, 0.08, 0.02, back + way * weapon)
    if shield:
        plate = lathe([(0, 0.05), (shield * 0.6, 0.03), (shield, 0)], segments=r.pick(4, 6, 16, 16))
        yield "carried", turn(plate * (1, 1, r(0.6, 1.4)), "x", 90) + left + (0, 0, 0.05)
    if bow:
        yield "carried", tube(in_plane(arc(bow / 2, -75, 75, 9, 1.0), "zy", left), 0.014, 4)
    if quiver:
        yield "carried", rod((wide * 0.4, hip + 0.2, -wide), (wide, shoulder + 0.1, -wide), 0.05)
    if basket:
        yield "carried", lathe([(0.1, 0), (0.16, 0.2)], left - (0, 0.2, 0))
    if cape:
        fall = np.array(
            [
                (0, shoulder, -wide * depth),
                (0, hip, -0.2),
                (0, hip - leg * r(0.4, 0.9), -r(0.2, 0.45)),
            ]
        )
        yield (
            "worn",
            ribbon(fall, [wide * 1.6, wide * 2.2, wide * r(2.2, 3.2)], np.array([1.0, 0, 0])),
        )


def hat(r, size):
    """A helmet or hat: a dome with a brim or a point."""
    tip = r.pick(0.0, 0.0, 0.8)
    t = np.linspace(0, np.pi / 2, 6)
    dome = np.stack([np.cos(t), np.sin(t) * (1.2 + tip * np.sin(t) ** 4)], 1) * size * 1.08
    brim = [(size * r(1.08, 1.7), -size * r(0, 0.2))]
    return lathe(np.concatenate([brim, dome]), segments=14)


@grammar(
    "dome",
    "brim",
    "crest",
    "cheeks",
    pot_helmet=dict(high=(1.0, 1.2)),
    brimmed_helmet=dict(high=(0.9, 1.2), brim=(0.2, 0.6)),
    pointed_helmet=dict(high=(1.3, 2.0), point=(0.3, 0.8)),
    crested_helmet=dict(high=(1.0, 1.2), crest=(0.3, 0.6), brim=(0.0, 0.3), cheeks=(0.6, 1.0)),
    legion_helmet=dict(
        high=(0.9, 1.1), crest=(0.3, 0.5), across=True, neck=(0.3, 0.5), cheeks=(0.5, 0.9)
    ),
    greek_helmet=dict(
        high=(1.0, 1.3), neck=(0.5, 0.9), cheeks=(0.9, 1.2), nose=True, crest=[0.0, 0.4]
    ),
    great_helm=dict(high=(0.6, 0.9), neck=(1.0, 1.3), cheeks=1.2, nose=True),
    horned_helmet=dict(high=(1.0, 1.2), horns=(0.4, 0.9)),
    cap=dict(high=(0.6, 0.9), peak=(0.4, 0.8)),
    wide_hat=dict(high=(0.7, 1.1), brim=(0.7, 1.2)),
)
def headgear(
    r,
    high,
    brim=0.0,
    point=0.0,
    crest=0.0,
    across=False,
    neck=0.0,
    cheeks=0.0,
    nose=False,
    horns=0.0,
    peak=0.0,
):
    """A helmet or hat without a head."""
    t = np.linspace(0, np.pi / 2, 8)
    power = r(0.8, 1.2)
    line = np.stack([np.cos(t) ** power, high * np.sin(t)], 1)
    if point:
        line = np.concatenate([line[:-1], [(0.08, high), (0.03, high + point)]])
    oval = (r(0.8, 0.95), 1, 1.05)
    yield "dome", lathe(line, segments=20) * oval
    if brim:
        edge = [(0.98, 0), (1 + brim * 0.6, r(-0.2, 0.1) * brim), (1 + brim, r(-0.4, 0.3) * brim)]
        yield "brim", lathe(edge, segments=20) * oval
    if peak:
        yield (
            "brim",
            slab(arc(0.75, 0, 180, 9, peak), 0.03) @ np.array([[1, 0, 0], [0, -0.2, 1], [0, 1, 0]])
            + (0, 0.03, 0.75),
        )

    def band(low, start, end, drop):
        angle = np.radians(np.linspace(start, end, 9))
        ring = np.stack([np.sin(angle), 0 * angle, np.cos(angle)], 1)
        return sheet_between(ring * oval, ring * oval * r(0.85, 1.1) - (0, drop, 0)) + (0, low, 0)

    if neck:
        yield "brim", band(0, 110, 250, neck)
    if cheeks:
        yield "cheeks", mirror(band(0, 35, r(85, 110), cheeks), "x")
    if nose:
        yield "cheeks", box(0.12, cheeks * 0.6, 0.05, (0, -cheeks * 0.6, 1.02))
    if crest:
        angle = np.radians(np.linspace(r(-10, 30), r(150, 200), 12))
        ring = np.stack([0 * angle, high * np.sin(angle), np.cos(angle)], 1)
        fan = sheet_between(ring * 0.98, ring * (1 + crest))
        fan = np.concatenate([fan - (0.03, 0, 0), fan + (0.03, 0, 0)])
        yield "crest", turn(fan, "y", 90) if across else fan
    if horns:
        yield (
            "crest",
            mirror(
                tube(
                    [(0.8, 0.2, 0), (1 + horns * 0.6, 0.3, 0), (1 + horns * 0.7, 0.3 + horns, 0)],
                    [0.15, 0.1, 0.02],
                    7,
                ),
                "x",
            ),
        )


def sheet_between(a, b):
    """The surface between two lines [P, 3]."""
    grid = np.stack([a, b])
    p, q, s, u = grid[0, :-1], grid[1, :-1], grid[1, 1:], grid[0, 1:]
    return np.concatenate([np.stack([p, q, s], 1), np.stack([p, s, u], 1)])
