"""Electronic parts, and boards with such parts."""

import numpy as np

from dapt.synthetic.grammars.grammar import KINDS, grammar
from dapt.synthetic.shapes import (
    arc,
    ball,
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


def row(count, pitch):
    """Equally spaced positions, centered at 0."""
    return (np.arange(count) - (count - 1) / 2) * pitch


def coil(radius, height, turns, thick):
    """A wire wound around a vertical axis."""
    t = np.linspace(0, 1, 10 * turns + 1)
    way = 2 * np.pi * turns * t
    return tube(np.stack([radius * np.cos(way), height * t, radius * np.sin(way)], 1), thick, 5)


@grammar(
    "body",
    "pins",
    "marks",
    dip=dict(pins=(4, 14), pitch=0.12, wide=(0.25, 0.5), style="down"),
    so=dict(pins=(4, 14), pitch=(0.06, 0.1), wide=(0.3, 0.5), style="gull"),
    quad=dict(pins=(6, 16), pitch=(0.05, 0.08), wide=None, style="gull", quad=True),
    ball_grid=dict(pins=(6, 12), pitch=0.08, wide=None, style="balls"),
    single_row=dict(pins=(3, 9), pitch=0.12, wide=0.14, style="under", tall=(0.3, 0.6)),
    power_tab=dict(pins=(2, 5), pitch=0.12, wide=0.16, style="under", tall=(0.35, 0.5), tab=True),
    dip_switch=dict(pins=(2, 10), pitch=0.12, wide=(0.35, 0.45), style="down", levers=True),
    display_module=dict(pins=(4, 8), pitch=0.12, wide=(0.5, 0.7), style="down", digits=True),
    leadless=dict(pins=(1, 1), pitch=0.3, wide=(0.2, 0.35), style="pads"),
)
def packages(
    r, pins, pitch, wide, style, quad=False, tall=None, tab=False, levers=False, digits=False
):
    """A plastic package with rows of pins."""
    long = pins * pitch + 0.04
    wide = wide or long
    tall = tall or r(0.1, 0.2)
    yield "body", box(wide, tall, long, (0, 0.06, 0), top=r(0.92, 1.0))
    spots, half = row(pins, pitch), pitch * 0.22
    if style == "down":
        leg = np.concatenate(
            [
                box(0.05, 0.02, half * 2, (wide / 2 + 0.02, 0.06 + tall / 2, 0)),
                box(0.02, tall + 0.15, half * 1.6, (wide / 2 + 0.04, -0.1, 0)),
            ]
        )
        yield "pins", mirror(copies(leg, [(0, 0, z) for z in spots]), "x")
    elif style == "gull":
        bent = slab(
            [
                (0, 0.1),
                (0.05, 0.1),
                (0.07, 0.02),
                (0.13, 0.02),
                (0.13, 0.0),
                (0.05, 0.0),
                (0.03, 0.08),
                (0, 0.08),
            ],
            half * 2,
        )
        side = mirror(copies(shift(bent, wide / 2), [(0, 0, z) for z in spots]), "x")
        yield "pins", np.concatenate([side, turn(side, "y", 90)]) if quad else side
    elif style == "balls":
        yield (
            "pins",
            copies(ball(0.028, 0.028, 0.028), [(x, 0.03, z) for x in spots for z in spots]),
        )
    elif style == "under":
        long_pin = r(0.15, 0.5)
        pin = box(half, long_pin, half * 1.5)
        if tab:
            yield (
                "marks",
                slab(
                    np.concatenate(
                        [[(-long / 2, 0), (long / 2, 0)], [(long / 2, 0.2), (-long / 2, 0.2)]]
                    ),
                    0.03,
                )
                @ np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]])
                + (-wide * 0.4, 0.06 + tall, 0),
            )
        yield "pins", copies(pin, [(r(-0.02, 0.02) * wide, 0.06 - long_pin, z) for z in spots])
    else:
        yield (
            "pins",
            mirror(box(wide * 1.05, tall * 1.05, long * 0.2, (0, 0.055, long * 0.42)), "z"),
        )
    if levers:
        lever = box(wide * 0.12, 0.04, pitch * 0.5)
        yield (
            "marks",
            np.concatenate([shift(lever, r.pick(-0.06, 0.06), 0.06 + tall, z) for z in spots]),
        )
    elif digits:
        segment = box(wide * 0.3, 0.01, 0.03)
        yield (
            "marks",
            copies(
                segment,
                [(x * wide, 0.06 + tall, z * long) for x in (-0.2, 0.2) for z in (-0.25, 0.25)],
            ),
        )
    else:
        yield "marks", cylinder(0.02, 0.012, (-wide * 0.35, 0.055 + tall, -long * 0.4), segments=8)


@grammar(
    "body",
    "leads",
    "marks",
    axial_resistor=dict(long=(0.35, 0.6), girth=(0.07, 0.1), style="dogbone"),
    axial_diode=dict(long=(0.3, 0.5), girth=(0.07, 0.12), style="barrel", band=True),
    axial_can=dict(long=(0.6, 0.9), girth=(0.14, 0.22), style="barrel", groove=True),
    power_block=dict(long=(0.8, 1.2), girth=(0.1, 0.16), style="brick"),
    upright_resistor=dict(long=(0.35, 0.5), girth=(0.07, 0.1), style="dogbone", standing=True),
    can=dict(long=(0.5, 1.0), girth=(0.16, 0.35), style="can"),
    crystal_can=dict(long=(0.3, 0.5), girth=(0.12, 0.2), style="can", oval=(1.6, 2.5)),
    disc=dict(long=(0.3, 0.5), girth=(0.04, 0.08), style="disc"),
    film_box=dict(long=(0.4, 0.9), girth=(0.12, 0.3), style="box"),
    light=dict(long=(0.35, 0.5), girth=(0.14, 0.2), style="lens"),
    transistor=dict(long=(0.3, 0.4), girth=(0.14, 0.2), style="half", leads=3),
    bridge_rectifier=dict(long=(0.5, 0.7), girth=(0.1, 0.16), style="box", leads=4),
    drum_coil=dict(long=(0.3, 0.5), girth=(0.2, 0.3), style="drum"),
    metal_can=dict(long=(0.2, 0.3), girth=(0.2, 0.3), style="can", brim=True, leads=(3, 8)),
)
def leaded(
    r, long, girth, style, band=False, groove=False, standing=False, oval=1.0, leads=2, brim=False
):
    """A part with wire leads: two along its axis, or all at the bottom."""
    wire = r(0.012, 0.025)
    if style in ("dogbone", "barrel", "brick"):
        if style == "brick":
            body = box(girth * 2, long, girth * 2)
        else:
            ends = 1.25 if style == "dogbone" else 1.0
            line = [
                (0, 0),
                (girth * ends * 0.8, 0.01),
                (girth * ends, long * 0.1),
                (girth, long * 0.25),
                (girth, long * 0.75),
                (girth * ends, long * 0.9),
                (girth * ends * 0.8, long - 0.01),
                (0, long),
            ]
            body = lathe(line, segments=14)
        marks = [
            lathe([(girth * 1.06, long * t), (girth * 1.06, long * t + 0.04)], segments=14)
            for t in ((0.85,) if band else (0.08,) if groove else (0.35, 0.5, 0.65))
        ]
        out, down = r(0.08, 0.3), r(0.2, 0.5)
        if standing:
            yield "body", body
            yield "leads", tube([(0, 0, 0), (0, -down, 0)], wire, 5)
            yield (
                "leads",
                tube(
                    [
                        (0, long, 0),
                        (0, long + 0.1, 0),
                        (girth * 2.5, long + 0.1, 0),
                        (girth * 2.5, -down, 0),
                    ],
                    wire,
                    5,
                ),
            )
            return
        yield "body", turn(shift(body, 0, -long / 2), "z", 90)
        if style != "brick":
            yield "marks", turn(shift(np.concatenate(marks), 0, -long / 2), "z", 90)
        yield (
            "leads",
            mirror(
                tube(
                    [
                        (long * 0.48, 0, 0),
                        (long / 2 + out, 0, 0),
                        (long / 2 + out, -girth - down, 0),
                    ],
                    wire,
                    5,
                ),
                "x",
            ),
        )
        return
    deep, low = r(0.15, 0.5), 0.0
    wide = girth
    if style == "can":
        yield (
            "body",
            lathe(
                [
                    (0, 0),
                    (girth, 0),
                    (girth, 0.04),
                    (girth * (0.97 if brim else 0.93), 0.06),
                    (girth, 0.09),
                    (girth, long),
                    (0, long),
                ],
                segments=18,
            )
            * (1, 1, oval),
        )
        wide = girth * (1 if oval == 1 else oval)
        if brim:
            yield "marks", cylinder(girth * 1.2, 0.03, segments=18)
            yield "marks", box(0.06, 0.03, 0.1, (girth * 1.2, 0, 0))
    elif style == "disc":
        yield "body", ball(girth, long / 2, long / 2, (0, long / 2, 0))
        wide = long * 0.4
    elif style == "box":
        wide = long * r(0.7, 1.2) / 2
        yield "body", box(girth, long * r(0.5, 1.0), wide * 2)
        yield "marks", box(0.03, 0.06, 0.03, (girth * 0.4, -0.02, wide * 0.8))
    elif style == "lens":
        t = np.linspace(0, np.pi / 2, 6)
        dome = np.stack([girth * np.cos(t), long * 0.6 + girth * np.sin(t)], 1)
        yield (
            "body",
            lathe(
                np.concatenate(
                    [[(0, 0), (girth * 1.2, 0), (girth * 1.2, 0.06), (girth, 0.06)], dome]
                ),
                segments=16,
            ),
        )
        low, deep = 0.0, r(0.4, 0.9)
    elif style == "half":
        yield (
            "body",
            slab(
                np.concatenate(
                    [arc(girth, 0, 180, 11), [(-girth, -girth * 0.3), (girth, -girth * 0.3)]]
                ),
                long,
            )
            @ np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]])
            + (0, long / 2, 0),
        )
        deep = r(0.4, 0.9)
    else:
        yield (
            "body",
            lathe(
                [
                    (0, 0),
                    (girth, 0),
                    (girth, 0.06),
                    (girth * 0.7, 0.07),
                    (girth * 0.7, long - 0.07),
                    (girth, long - 0.06),
                    (girth, long),
                    (0, long),
                ],
                segments=18,
            ),
        )
        yield "marks", coil(girth * 0.75, long - 0.14, r.count(5, 9), 0.03) + (0, 0.07, 0)
    spots = row(leads, min(2 * wide * 0.7 / max(leads - 1, 1), 0.3))
    yield "leads", copies(cylinder(wire, deep, segments=5), [(0, low - deep, z) for z in spots])


@grammar(
    "body",
    "contacts",
    "shell",
    pin_header=dict(rows=(1, 2), columns=(2, 16), pitch=0.12, style="pins"),
    pin_socket=dict(rows=(1, 2), columns=(2, 16), pitch=0.12, style="holes", tall=(0.25, 0.4)),
    angled_header=dict(rows=(1, 2), columns=(2, 14), pitch=0.12, style="bent"),
    screw_terminal=dict(rows=1, columns=(2, 8), pitch=(0.2, 0.3), style="screws", tall=(0.3, 0.5)),
    d_sub=dict(rows=2, columns=(5, 13), pitch=0.08, style="trapezoid"),
    shrouded=dict(rows=2, columns=(3, 14), pitch=0.12, style="pins", wall=True),
    modular_jack=dict(rows=1, columns=(6, 8), pitch=0.06, style="jack", tall=(0.4, 0.5)),
    barrel_jack=dict(rows=1, columns=(2, 3), pitch=0.12, style="round", tall=(0.3, 0.4)),
    wire_plug=dict(rows=1, columns=(2, 8), pitch=0.1, style="wires", tall=(0.2, 0.3)),
    card_edge=dict(rows=1, columns=(10, 25), pitch=0.08, style="slot", tall=(0.3, 0.4)),
    coax=dict(rows=1, columns=1, pitch=0.2, style="coax"),
    relay=dict(rows=2, columns=(2, 4), pitch=0.2, style="block", tall=(0.4, 0.7)),
    toggle=dict(rows=1, columns=(2, 3), pitch=0.18, style="lever", tall=(0.2, 0.3)),
    potentiometer=dict(rows=1, columns=3, pitch=0.18, style="knob", tall=(0.15, 0.25)),
)
def connectors(r, rows, columns, pitch, style, tall=None, wall=False):
    """A connector: contacts in a grid, in a housing."""
    long, wide, tall = columns * pitch + 0.03, rows * pitch + 0.03, tall or r(0.1, 0.14)
    grid = [(x, 0, z) for x in row(rows, pitch) for z in row(columns, pitch)]
    pin, below, above = 0.025, r(0.12, 0.3), r(0.25, 0.5)
    legs = copies(box(pin, below, pin, (0, -below, 0)), grid)
    if style == "trapezoid":
        shell = [
            (-long / 2, 0.12),
            (long / 2, 0.12),
            (long / 2 - 0.05, -0.12),
            (-long / 2 + 0.05, -0.12),
        ]
        yield "shell", turn(slab(shell, 0.25), "y", 90) + (0.2, 0.12, 0)
        yield "body", box(0.06, 0.36, long + 0.35, (0.1, -0.06, 0))
        yield "body", box(0.25, 0.3, long, (-0.05, -0.05, 0))
        yield (
            "contacts",
            mirror(
                turn(cylinder(0.05, 0.25, segments=6), "z", -90) + (0.1, 0.12, long / 2 + 0.09), "z"
            ),
        )
        yield "contacts", shift(legs, -0.15)
        return
    if style == "coax":
        yield "body", box(0.3, 0.12, 0.3)
        yield "shell", lathe([(0.12, 0.12), (0.12, 0.4), (0.09, 0.4), (0.09, 0.15)], segments=14)
        yield "contacts", cylinder(0.02, 0.35, (0, 0.1, 0), segments=6)
        yield "contacts", mirror(box(0.04, 0.2, 0.04, (0.12, -0.2, 0.12)), "x", "z")
        return
    if style in ("jack", "round", "block", "lever", "knob", "screws", "wires"):
        wide = max(wide, tall * r(0.6, 1.1))
    yield "body", box(wide, tall, long)
    yield "contacts", legs
    if style == "pins":
        yield "contacts", copies(box(pin, above, pin, (0, tall, 0)), grid)
        if wall:
            yield "shell", mirror(box(0.03, above, long + 0.2, (wide / 2 + 0.05, 0, 0)), "x")
            yield "shell", mirror(box(wide + 0.1, above, 0.03, (0, 0, long / 2 + 0.1)), "z")
    elif style == "bent":
        for x in row(rows, pitch):
            bow = tube(
                [(x, tall, 0), (x, tall + 0.05 + x, 0), (wide / 2 + above, tall + 0.05 + x, 0)],
                pin / 2,
                4,
            )
            yield "contacts", copies(bow, [(0, 0, z) for z in row(columns, pitch)])
    elif style == "holes":
        rim = lathe(
            [(pitch * 0.35, tall + 0.02), (pitch * 0.2, tall + 0.02), (pitch * 0.15, tall * 0.4)],
            segments=4,
        )
        yield "shell", copies(rim, grid)
    elif style == "screws":
        screw = np.concatenate(
            [cylinder(pitch * 0.3, 0.03, segments=10), box(pitch * 0.5, 0.045, 0.03)]
        )
        yield "shell", copies(screw, np.array(grid) + (-wide * 0.15, tall, 0))
        mouth = turn(
            lathe(
                [
                    (pitch * 0.35, 0),
                    (pitch * 0.35, 0.04),
                    (pitch * 0.25, 0.04),
                    (pitch * 0.2, -0.1),
                ],
                segments=4,
            ),
            "z",
            -90,
        )
        yield "shell", copies(mouth, np.array(grid) + (wide / 2, tall * 0.35, 0))
    elif style == "jack":
        yield "shell", box(wide * 1.05, tall * 0.7, long * 0.6, (0.02, tall * 0.15, 0))
        yield "shell", box(0.05, 0.08, long * 0.3, (wide / 2, tall * 0.85, 0))
    elif style == "round":
        yield (
            "shell",
            turn(
                lathe(
                    [
                        (tall * 0.45, 0),
                        (tall * 0.45, r(0.2, 0.5)),
                        (tall * 0.3, 0.3),
                        (tall * 0.3, 0),
                    ]
                ),
                "z",
                -90,
            )
            + (wide / 2, tall / 2, 0),
        )
    elif style == "wires":
        for z in row(columns, pitch):
            yield (
                "contacts",
                tube(
                    [
                        (wide / 2, tall / 2, z),
                        (wide / 2 + 0.25, tall / 2 + r(-0.05, 0.05), z + r(-0.03, 0.03)),
                        (wide / 2 + above, tall / 2 + r(-0.1, 0.1), z + r(-0.08, 0.08)),
                    ],
                    0.022,
                    5,
                ),
            )
    elif style == "slot":
        yield "shell", mirror(box(0.04, 0.12, long, (wide * 0.4, tall, 0)), "x")
        yield "shell", mirror(box(wide * 1.3, tall * 1.4, 0.08, (0, 0, long / 2)), "z")
    elif style == "lever":
        yield "shell", cylinder(0.06, 0.12, (0, tall, 0), segments=10)
        yield (
            "shell",
            rod((0, tall + 0.1, 0), (r(-0.15, 0.15), tall + r(0.25, 0.45), 0), 0.03, 0.045),
        )
    elif style == "knob":
        yield "shell", cylinder(long * 0.45, tall, (0, tall, 0))
        yield "shell", cylinder(0.06, r(0.2, 0.6), (0, 2 * tall, 0), segments=r.pick(6, 12))


_FOR_BOARDS = (
    ("dip", 0.5),
    ("so", 0.4),
    ("quad", 0.5),
    ("can", 0.35),
    ("film_box", 0.3),
    ("pin_header", 0.5),
    ("screw_terminal", 0.4),
    ("axial_resistor", 0.35),
    ("d_sub", 0.5),
    ("heat_sink", 0.4),
)


@grammar(
    "board",
    "mounted",
    "holes",
    small_board=dict(long=(0.6, 0.9), wide=(0.4, 0.6), count=(3, 6)),
    large_board=dict(long=(1.1, 1.5), wide=(0.8, 1.2), count=(8, 16)),
    expansion_card=dict(long=(1.0, 1.4), wide=(0.4, 0.6), count=(4, 8), upright=True),
)
def boards(r, long, wide, count, upright=False):
    """A circuit board with other kinds of parts on it."""

    board = [box(wide, 0.03, long, (0, -0.03, 0))]
    hole = lathe([(0.03, -0.04), (0.05, -0.04), (0.05, 0.015), (0.03, 0.015)], segments=8)
    holes = mirror(hole + (wide * 0.44, 0, long * 0.44), "x", "z")
    mounted = []
    for _ in range(count):
        name, size = r.pick(*_FOR_BOARDS)
        piece, _ = KINDS[name].surfaces(r.rng)
        spread = np.ptp(piece.reshape(-1, 3), axis=0)
        piece = turn(piece * (size * r(0.5, 1.0) / spread.max()), "y", r.pick(0, 90))
        low = piece.reshape(-1, 3).min(0)
        at = (wide * r(-0.38, 0.38), -low[1] * 0.7, long * r(-0.38, 0.38))
        mounted.append(piece + at)
    for part, pieces in (("board", board), ("holes", [holes]), ("mounted", mounted)):
        surface = np.concatenate(pieces)
        yield part, turn(surface, "z", 90) if upright else surface
