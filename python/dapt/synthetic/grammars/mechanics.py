"""Machine parts, and simple solids assembled by a rule."""

import numpy as np

from dapt.synthetic.grammars.electronics import coil, row
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
    slab,
    tube,
    turn,
)


@grammar(
    "body",
    "teeth",
    "bore",
    spring=dict(style="spring", size=(0.2, 0.35), count=(4, 10)),
    torus_coil=dict(style="toroid", size=(0.3, 0.45), count=(10, 24)),
    gear=dict(style="gear", size=(0.35, 0.5), count=(8, 24)),
    bolt=dict(style="bolt", size=(0.1, 0.16), count=(5, 10)),
    nut=dict(style="nut", size=(0.3, 0.45), count=6),
    pulley=dict(style="pulley", size=(0.35, 0.5), count=(3, 6)),
    flange=dict(style="flange", size=(0.35, 0.5), count=(4, 8)),
    heat_sink=dict(style="fins", size=(0.3, 0.6), count=(5, 12)),
    bracket=dict(style="bracket", size=(0.3, 0.6), count=(1, 3)),
    pipe_bend=dict(style="pipe", size=(0.08, 0.16), count=(2, 4)),
    valve=dict(style="valve", size=(0.12, 0.2), count=(3, 6)),
    bearing=dict(style="bearing", size=(0.35, 0.5), count=(7, 12)),
    chain=dict(style="chain", size=(0.1, 0.16), count=(3, 6)),
    plug_fan=dict(style="fan", size=(0.35, 0.5), count=(5, 9)),
    crank_shaft=dict(style="crank", size=(0.06, 0.1), count=(2, 4)),
    key=dict(style="key", size=(0.12, 0.2), count=(2, 5)),
)
def mechanics(r, style, size, count):
    """A machine part, in most styles with a number of equal pieces around an axis."""
    high = size * r(0.2, 0.6)
    ring = lathe(
        [(size * 0.4, 0), (size, 0), (size, high), (size * 0.4, high), (size * 0.4, 0)], segments=24
    )
    if style == "spring":
        yield "body", coil(size, r(0.5, 1.2), count, r(0.02, 0.05))
    elif style == "toroid":
        thick = size * r(0.3, 0.5)
        yield "body", tube(in_plane(arc(size, 0, 360, 25), "xz"), thick * 0.8, 8)
        loop = tube(in_plane(arc(thick, 0, 360, 11), "xy", (size, 0, 0)), 0.025, 5)
        yield "teeth", around(loop, count)
        yield (
            "bore",
            mirror(rod((size * 0.9, -thick, 0.1), (size * 0.9, -thick - 0.4, 0.1), 0.02), "z"),
        )
    elif style == "gear":
        yield "body", ring
        tooth = box(size * 0.25, high, size * 2.8 / count, (size * 1.08, 0, 0))
        yield "teeth", around(tooth, count)
        yield (
            "bore",
            lathe(
                [
                    (size * 0.2, -high * 0.3),
                    (size * 0.35, -high * 0.3),
                    (size * 0.35, high * 1.3),
                    (size * 0.2, high * 1.3),
                ]
            ),
        )
    elif style == "bolt":
        yield "body", cylinder(size * 1.8, size, (0, 0, 0), segments=r.pick(4, 6, 16))
        long = r(0.5, 1.2)
        yield "body", cylinder(size, long, (0, -long, 0), segments=12)
        yield "teeth", coil(size * 1.02, long * 0.7, count, 0.015) - (0, long, 0)
    elif style == "nut":
        yield (
            "body",
            lathe(
                [(size * 0.5, 0), (size, 0), (size, high), (size * 0.5, high), (size * 0.5, 0)],
                segments=6,
            ),
        )
        yield "bore", coil(size * 0.48, high, 3, 0.02)
        yield "teeth", lathe([(size * 0.9, high), (size * 0.6, high * 1.1)], segments=18)
    elif style == "pulley":
        yield (
            "body",
            lathe(
                [
                    (size, 0),
                    (size * 0.85, high * 0.5),
                    (size, high),
                    (size * 0.75, high),
                    (size * 0.7, high * 0.5),
                    (size * 0.75, 0),
                ],
                segments=24,
            ),
        )
        yield (
            "teeth",
            around(box(size * 0.75, high * 0.5, 0.05, (size * 0.4, high * 0.25, 0)), count),
        )
        yield "bore", cylinder(size * 0.2, high * 1.4, (0, -high * 0.2, 0))
    elif style == "flange":
        yield "body", ring
        yield (
            "bore",
            lathe(
                [
                    (size * 0.4, high),
                    (size * 0.45, r(0.3, 0.8)),
                    (size * 0.35, 0.5),
                    (size * 0.35, 0),
                ],
                segments=20,
            ),
        )
        yield (
            "teeth",
            around(
                cylinder(size * 0.1, high * 2, (size * 0.78, -high * 0.5, 0), segments=6), count
            ),
        )
    elif style == "fins":
        long, tall = r(0.5, 1.0), r(0.2, 0.6)
        yield "body", box(size * 2, 0.06, long)
        yield (
            "teeth",
            copies(box(0.025, tall, long), [(x, 0.06, 0) for x in row(count, 2 * size / count)]),
        )
        yield "bore", copies(box(size * 0.5, 0.02, long * 1.0), [(0, -0.02, 0)])
    elif style == "bracket":
        deep, thick = r(0.2, 0.5), r(0.03, 0.06)
        yield "body", box(size * 2, thick, deep)
        yield "body", box(thick, r(0.3, 0.9), deep, (-size, 0, 0))
        hole = lathe(
            [(0.05, -0.01), (0.08, -0.01), (0.08, thick + 0.01), (0.05, thick + 0.01)], segments=12
        )
        yield "bore", copies(hole, [(x, 0, 0) for x in row(count, 2 * size / (count + 1))])
        yield (
            "teeth",
            slab([(-size, thick), (size * r(-0.5, 0.5), thick), (-size, r(0.2, 0.4))], thick),
        )
    elif style == "pipe":
        line, way = [np.zeros(3)], np.array([0.0, 1.0, 0.0])
        for _ in range(count):
            line += [line[-1] + way * r(0.2, 0.4)]
            turned = np.roll(way, r.pick(1, 2)) * r.pick(-1, 1)
            line += [line[-1] + 0.15 * (way + turned)]
            way = turned
        yield "body", tube([*line, line[-1] + way * 0.3], size, 12)
        yield "teeth", cylinder(size * 1.5, 0.06, segments=14)
        yield "bore", tube([line[-1] + way * 0.25, line[-1] + way * 0.32], size * 1.5, 14)
    elif style == "valve":
        yield "body", rod((-0.45, 0, 0), (0.45, 0, 0), size * 0.8, segments=12)
        yield "body", ball(size * 1.4, size * 1.4, size * 1.4)
        yield "bore", cylinder(0.03, 0.5)
        yield "teeth", tube(in_plane(arc(0.22, 0, 360, 17), "xz", (0, 0.48, 0)), 0.03, 6)
        yield "teeth", around(rod((0, 0, 0), (0.22, 0, 0), 0.02), count) + (0, 0.48, 0)
    elif style == "bearing":
        yield (
            "body",
            lathe(
                [(size, 0), (size, high), (size * 0.85, high), (size * 0.85, 0), (size, 0)],
                segments=24,
            ),
        )
        yield (
            "bore",
            lathe(
                [
                    (size * 0.5, 0),
                    (size * 0.5, high),
                    (size * 0.62, high),
                    (size * 0.62, 0),
                    (size * 0.5, 0),
                ],
                segments=24,
            ),
        )
        yield (
            "teeth",
            around(ball(size * 0.11, size * 0.11, size * 0.11, (size * 0.735, high / 2, 0)), count),
        )
    elif style == "chain":
        link = tube(in_plane(arc(size, 0, 360, 13, r(1.3, 1.8)), "xy"), size * 0.22, 6)
        for i in range(count):
            yield (
                "teeth" if i % 2 else "body",
                turn(link, "y", 90 * i + r(-15, 15)) + (0, i * size * 2.3, 0),
            )
        yield "bore", ball(size * 0.4, size * 0.4, size * 0.4, (0, -size * 2, 0))
    elif style == "fan":
        yield "body", mirror(box(0.05, 0.25, size * 2.2, (size * 1.1, 0, 0)), "x")
        yield "body", mirror(box(size * 2.2, 0.25, 0.05, (0, 0, size * 1.1)), "z")
        yield "bore", cylinder(size * 0.35, 0.22)
        blade = turn(box(size * 0.65, 0.012, size * 0.5, (size * 0.65, 0, 0)), "x", r(20, 45))
        yield "teeth", around(blade, count) + (0, 0.12, 0)
    elif style == "crank":
        line = [np.zeros(3)]
        for i in range(count):
            out = r(0.12, 0.25) * (-1) ** i
            for step in ((0.12, 0, 0), (0, out, 0), (0.12, 0, 0), (0, -out, 0)):
                line.append(line[-1] + step)
        yield (
            "body",
            np.concatenate(
                [rod(a, b, size, segments=9) for a, b in zip(line[:-1], line[1:], strict=True)]
            ),
        )
        yield "bore", rod(line[-1], line[-1] + (0.3, 0, 0), size, segments=9)
        yield "teeth", turn(cylinder(size * 2.5, 0.08, segments=16), "z", 90)
    else:
        yield (
            "bore",
            tube(in_plane(arc(size, 0, 360, 15, r(0.7, 1.2)), "xy"), size * 0.3, 5) * (1, 1, 0.4),
        )
        long = r(0.5, 0.8)
        yield "body", box(0.06, long, 0.03, (0, -long - size, 0))
        yield (
            "teeth",
            np.concatenate(
                [
                    box(r(0.08, 0.2), 0.05, 0.025, (0.08, -size - long + 0.09 * i, 0))
                    for i in range(count)
                ]
            ),
        )


def primitive(r, scale):
    """A random simple solid of a given approximate size."""
    a, b, c = (scale * r(0.3, 1.0) for _ in range(3))
    solid = r.pick(
        box(a, b, c, top=r(0.3, 1.0)),
        cylinder(a / 2, b, top=r(0.2, 1.2), segments=r.pick(3, 5, 6, 16)),
        ball(a / 2, b / 2, c / 2, (0, b / 2, 0)),
        lathe(
            [(0, 0), (a * r(0.1, 0.5), b * 0.1), (a * r(0.1, 0.6), b * 0.5), (a * r(0.05, 0.5), b)]
        ),
        tube(
            [(0, 0, 0), (a * r(-0.5, 0.5), b * 0.6, 0), (a * r(-0.8, 0.8), b, c * r(-0.5, 0.5))],
            scale * r(0.05, 0.15),
            8,
        ),
        tube(in_plane(arc(a / 2, 0, r(120, 360), 15, b / a), "xy"), scale * r(0.04, 0.12), 6),
    )
    return turn(turn(solid, "x", r.pick(0, 0, 90, r(0, 180))), "z", r.pick(0, 0, 90, r(0, 180)))


@grammar(
    "core",
    "added",
    two_sided=dict(rule="mirror", count=(2, 5)),
    four_sided=dict(rule="four", count=(2, 4)),
    three_fold=dict(rule="around", count=(2, 4), fold=3),
    five_fold=dict(rule="around", count=(2, 4), fold=5),
    many_fold=dict(rule="around", count=(1, 3), fold=(7, 12)),
    stacked=dict(rule="stack", count=(3, 6)),
    in_line=dict(rule="line", count=(3, 7)),
    in_grid=dict(rule="grid", count=(2, 4)),
    heap=dict(rule="heap", count=(4, 9)),
    shrinking=dict(rule="shrink", count=(4, 7)),
)
def assemblies(r, rule, count, fold=1):
    """Simple solids assembled by the rule that defines the kind."""
    core = primitive(r, 1.0)
    if rule in ("mirror", "four", "around"):
        yield "core", mirror(core, "x") if rule == "mirror" else core * (0.6, 1, 0.6)
        for _ in range(count):
            piece = primitive(r, r(0.3, 0.8)) + (r(0.2, 0.7), r(-0.4, 0.8), r(-0.4, 0.4))
            if rule == "around":
                yield "added", around(piece, fold)
            else:
                yield "added", mirror(piece, *("x" if rule == "mirror" else "xz"))
        return
    if rule in ("line", "grid"):
        piece, step = primitive(r, 0.5), r(0.35, 0.6)
        spots = row(count, step)
        yield (
            "core",
            copies(piece, [(x, 0, z) for x in spots for z in (spots if rule == "grid" else [0.0])]),
        )
        yield (
            "added",
            box(
                step * count,
                r(0.03, 0.2),
                step * (count if rule == "grid" else 1),
                (0, r(-0.3, 0.3), 0),
            ),
        )
        return
    at, size = np.zeros(3), 1.0
    way = np.array([r(-0.5, 0.5), 1.0, r(-0.5, 0.5)])
    for i in range(count):
        piece = primitive(r, size if rule == "shrink" else r(0.4, 1.0))
        if rule == "heap":
            at = np.array([r(-0.5, 0.5), r(-0.3, 0.5), r(-0.5, 0.5)])
        yield "added" if i else "core", piece * (1, 1, 1) + at
        if rule == "stack":
            at = at + (0, np.ptp(piece[..., 1]), 0)
        elif rule == "shrink":
            at, size = at + way * size * 0.5, size * r(0.65, 0.85)
