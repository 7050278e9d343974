"""Furniture."""

import numpy as np

from dapt.synthetic.families.family import family
from dapt.synthetic.shapes import (
    arc,
    around,
    ball,
    box,
    copies,
    cushion,
    cylinder,
    in_plane,
    join,
    lathe,
    mirror,
    rod,
    shift,
    tube,
    turn,
)


def four_legs(r, width, depth, height, spread=None):
    """Legs at the corners of a rectangle; round or square, upright or splayed.

    Args:
        r: The dice.
        width: The size along x.
        depth: The size along z.
        height: The size along y.
        spread: The spread of the feet relative to the tops; random by default.
    """
    thick = r(0.02, 0.05)
    x, z = width / 2 - thick, depth / 2 - thick
    splay = r(1.0, 1.25) if spread is None else spread
    if r.chance(0.5):
        leg = rod((x * splay, 0, z * splay), (x, height, z), thick * 0.6, thick)
    else:
        leg = box(thick * 1.6, height, thick * 1.6, (x, 0, z))
    return mirror(leg, "x", "z")


def pedestal(r, height, reach):
    """A column on a plate or on a star of feet.

    Args:
        r: The dice.
        height: The height of the column.
        reach: The radius of the foot.
    """
    column = cylinder(r(0.025, 0.06), height)
    if r.chance(0.5):
        return join(column, cylinder(reach, r(0.02, 0.05), top=r(0.5, 1.0)))
    foot = rod((0, 0.08, 0), (reach, 0.03, 0), 0.03, 0.02)
    return join(column, around(join(foot, ball(0.03, 0.03, 0.03, (reach, 0.03, 0))), r.count(3, 5)))


@family("seat", "back", "legs", "arms")
def chair(r):
    width, depth, height = r(0.42, 0.58), r(0.42, 0.56), r(0.38, 0.52)
    thick = r(0.03, 0.1)
    if r.chance(0.2):
        yield "seat", cylinder(width / 2, thick, (0, height, 0))
    else:
        yield "seat", box(width, thick, depth, (0, height, 0), top=r(0.92, 1.0))
    if r.chance(0.3):
        yield "legs", pedestal(r, height, width * r(0.45, 0.6))
    else:
        yield "legs", four_legs(r, width, depth, height)
    tall, lean, top = r(0.35, 0.65), r(0, 18), height + thick
    style = r.count(0, 2)
    if style == 0:
        back = box(width * r(0.8, 1.0), tall, r(0.03, 0.08), top=r(0.75, 1.05))
    elif style == 1:
        bars = r.count(3, 6)
        places = [(x, 0, 0) for x in np.linspace(-0.42, 0.42, bars) * width]
        back = join(
            copies(box(0.03, tall, 0.03), places), box(width, 0.07, 0.045, (0, tall - 0.05, 0))
        )
    else:
        rails = [(0, y, 0) for y in np.linspace(0.3, 0.92, r.count(2, 4)) * tall]
        back = join(
            mirror(box(0.04, tall, 0.04, (width / 2 - 0.03, 0, 0)), "x"),
            copies(box(width - 0.06, 0.07, 0.03), rails),
        )
    yield "back", shift(turn(back, "x", -lean), 0, top, -depth / 2 + 0.03)
    if r.chance(0.4):
        rise = r(0.16, 0.26)
        rest = box(0.06, 0.035, depth * r(0.7, 0.95), (width / 2, top + rise, 0))
        post = box(0.035, rise, 0.035, (width / 2, top, depth * 0.3))
        yield "arms", mirror(join(rest, post), "x")


@family("seat", "legs")
def stool(r):
    height, radius = r(0.4, 0.8), r(0.16, 0.24)
    thick = r(0.03, 0.1)
    if r.chance(0.7):
        yield "seat", cylinder(radius, thick, (0, height, 0))
    else:
        yield "seat", box(2 * radius, thick, 2 * radius, (0, height, 0))
    if r.chance(0.3):
        yield "legs", pedestal(r, height, radius * r(0.9, 1.2))
        return
    count = r.count(3, 4)
    foot = radius * r(1.0, 1.35)
    yield "legs", around(rod((foot, 0, 0), (radius * 0.75, height, 0), 0.022), count, start=45)
    if r.chance(0.6):
        ring = in_plane(arc(foot * 0.9, 0, 360, 17), "xz", (0, height * r(0.2, 0.45), 0))
        yield "legs", tube(ring, 0.014)


@family("seat", "back", "legs")
def bench(r):
    length, depth, height = r(1.1, 1.8), r(0.3, 0.45), r(0.38, 0.48)
    planks = r.count(1, 4)
    gap = depth / planks
    places = [(0, height, (i + 0.5) * gap - depth / 2) for i in range(planks)]
    yield "seat", copies(box(length, 0.05, gap * 0.85), places)
    if r.chance(0.5):
        side = box(0.08, height, depth, (length / 2 * r(0.75, 0.95), 0, 0))
        yield "legs", mirror(side, "x")
    else:
        yield "legs", four_legs(r, length * 0.9, depth, height)
    if r.chance(0.5):
        rails = [(0, height + y, -depth / 2) for y in np.linspace(0.15, 0.42, r.count(2, 3))]
        yield "back", copies(box(length, 0.08, 0.03), rails)
        yield "back", mirror(box(0.05, 0.5, 0.05, (length * 0.42, height, -depth / 2)), "x")


@family("seat", "back", "arms", "legs")
def sofa(r):
    seats = r.count(1, 4)
    width, depth, height = 0.55 * seats + r(0.05, 0.3), r(0.7, 0.95), r(0.28, 0.42)
    low = r(0.02, 0.14)
    yield "seat", box(width, height - low, depth, (0, low, 0))
    if r.chance(0.7):
        each = width / seats
        middles = [((i + 0.5) * each - width / 2, height, 0.06) for i in range(seats)]
        yield "seat", copies(cushion(each * 0.96, 0.14, depth * 0.82), middles)
    tall, deep = r(0.35, 0.55), r(0.14, 0.26)
    back = turn(box(width, tall, deep, top=r(0.8, 1.0)), "x", -r(0, 12))
    yield "back", shift(back, 0, height, -depth / 2 + deep / 2)
    wide, rise = r(0.1, 0.24), r(0.12, 0.3)
    if r.chance(0.9):
        arm = box(wide, height - low + rise, depth, (width / 2 + wide / 2, low, 0))
        if r.chance(0.4):
            roll = turn(cylinder(wide * 0.65, depth), "x", 90)
            roll = shift(roll, width / 2 + wide / 2, height + rise, -depth / 2)
            arm = join(arm, roll)
        yield "arms", mirror(arm, "x")
    yield "legs", mirror(cylinder(0.035, low + 0.02, (width * 0.45, 0, depth * 0.42)), "x", "z")
    if r.chance(0.25):
        yield "seat", box(0.6, height - low, 0.7, (width / 2 - 0.3, low, depth / 2 + 0.3))


@family("top", "legs")
def table(r):
    height, thick = r(0.35, 0.8), r(0.025, 0.07)
    if r.chance(0.35):
        radius = r(0.35, 0.65)
        yield "top", cylinder(radius, thick, (0, height, 0), segments=24)
        width = depth = radius * 1.4
    else:
        width, depth = r(0.8, 1.7), r(0.55, 0.95)
        yield "top", box(width, thick, depth, (0, height, 0))
        if r.chance(0.4):
            apron = r(0.05, 0.1)
            ends = mirror(box(0.03, apron, depth * 0.85, (width * 0.43, height - apron, 0)), "x")
            sides = mirror(box(width * 0.86, apron, 0.03, (0, height - apron, depth * 0.42)), "z")
            yield "legs", join(ends, sides)
    if r.chance(0.3):
        yield "legs", pedestal(r, height, min(width, depth) * r(0.3, 0.5))
    else:
        yield "legs", four_legs(r, width * 0.92, depth * 0.92, height)
        if r.chance(0.2):
            yield "legs", box(width * 0.85, 0.03, depth * 0.8, (0, height * r(0.2, 0.4), 0))


@family("top", "legs", "drawers")
def desk(r):
    width, depth, height = r(1.0, 1.6), r(0.5, 0.75), r(0.68, 0.8)
    yield "top", box(width, r(0.025, 0.06), depth, (0, height, 0))
    wide, both = r(0.28, 0.42), r.chance(0.4)
    block_height = height * r(0.55, 1.0)
    for side in (-1, 1):
        x = side * (width / 2 - wide / 2)
        if side < 0 or both:
            block = box(wide, block_height, depth * 0.94, (x, height - block_height, 0))
            yield "drawers", block
            fronts = r.count(2, 4)
            each = block_height / fronts
            for i in range(fronts):
                y = height - block_height + (i + 0.08) * each
                yield "drawers", box(wide * 0.9, each * 0.84, 0.03, (x, y, depth * 0.48))
                yield "drawers", box(0.12, 0.02, 0.04, (x, y + each * 0.4, depth * 0.5))
        elif r.chance(0.5):
            yield "legs", box(0.04, height, depth * 0.94, (side * (width / 2 - 0.03), 0, 0))
        else:
            leg = box(0.05, height, 0.05, (side * (width / 2 - 0.04), 0, depth / 2 - 0.05))
            yield "legs", mirror(leg, "z")
    if r.chance(0.6):
        yield (
            "legs",
            box(width * 0.95, height * r(0.3, 0.8), 0.025, (0, height * 0.2, -depth * 0.4)),
        )
    if r.chance(0.2):
        yield "top", box(width, r(0.2, 0.4), 0.25, (0, height + 0.03, -depth / 2 + 0.13))


@family("mattress", "frame", "headboard", "pillows")
def bed(r):
    width, length, height = r(0.8, 1.7), r(1.8, 2.1), r(0.15, 0.35)
    thick = r(0.16, 0.3)
    yield "mattress", cushion(width, thick, length, (0, height, 0), roundness=4)
    yield "frame", box(width * 1.04, height * 0.5, length * 1.03, (0, height * 0.5, 0))
    legs = box(0.08, height * 0.6, 0.08, (width * 0.46, 0, length * 0.46))
    yield "frame", mirror(legs, "x", "z")
    tall = r(0.5, 1.0)
    if r.chance(0.75):
        board = box(width * 1.06, tall, r(0.04, 0.1), (0, 0, -length / 2 - 0.05))
        yield "headboard", board
    else:
        bars = [(x, 0, -length / 2 - 0.05) for x in np.linspace(-0.5, 0.5, r.count(5, 9)) * width]
        rail = box(width * 1.06, 0.06, 0.06, (0, tall, -length / 2 - 0.05))
        yield "headboard", join(copies(box(0.035, tall, 0.035), bars), rail)
    if r.chance(0.4):
        yield "headboard", box(width * 1.06, tall * r(0.4, 0.8), 0.05, (0, 0, length / 2 + 0.04))
    count = 1 if width < 1.1 else 2
    wide = width / count * r(0.7, 0.9)
    for i in range(count):
        x = (i + 0.5) * width / count - width / 2
        pillow_at = (x, height + thick * 0.8, -length / 2 + 0.3)
        yield "pillows", cushion(wide, r(0.1, 0.18), r(0.35, 0.5), pillow_at)


@family("body", "doors", "handles", "feet")
def cabinet(r):
    width, depth, height = r(0.5, 1.4), r(0.35, 0.6), r(0.5, 1.9)
    low = r(0.0, 0.15)
    yield "body", box(width, height, depth, (0, low, 0))
    columns, rows = r.count(1, 3), r.pick(1, 1, 2, 3, 4)
    wide, tall = width / columns, height / rows
    front = depth / 2
    for i in range(columns):
        for j in range(rows):
            x, y = (i + 0.5) * wide - width / 2, low + j * tall
            yield "doors", box(wide * 0.93, tall * 0.93, 0.03, (x, y + tall * 0.035, front))
            if rows > columns:
                yield "handles", box(wide * 0.3, 0.03, 0.06, (x, y + tall * 0.5, front))
            else:
                edge = x + wide * (0.36 if i % 2 == 0 else -0.36)
                yield "handles", box(0.03, tall * 0.2, 0.06, (edge, y + tall * 0.4, front))
    if low > 0.04:
        yield "feet", mirror(box(0.06, low, 0.06, (width * 0.44, 0, depth * 0.42)), "x", "z")
    if r.chance(0.3):
        yield "body", box(width * 1.06, 0.04, depth * 1.08, (0, low + height, 0))


@family("boards", "sides", "back", "things")
def shelf(r):
    width, depth, height = r(0.5, 1.3), r(0.22, 0.4), r(0.8, 2.0)
    thick, levels = r(0.02, 0.04), r.count(3, 6)
    if r.chance(0.7):
        yield "sides", mirror(box(thick, height, depth, (width / 2, 0, 0)), "x")
    else:
        post = rod((width / 2, 0, depth / 2), (width / 2, height, depth / 2), 0.02)
        yield "sides", mirror(post, "x", "z")
    heights = np.linspace(0.04, height - thick, levels)
    yield "boards", copies(box(width, thick, depth), [(0, y, 0) for y in heights])
    if r.chance(0.5):
        yield "back", box(width, height, 0.015, (0, 0, -depth / 2))
    for y in heights[:-1]:
        if r.chance(0.6):
            books, gap = r.count(2, 5), (height / (levels - 1)) * 0.8
            for _ in range(books):
                at = (r(-0.42, 0.42) * width, y + thick, 0)
                yield "things", box(r(0.03, 0.12), gap * r(0.5, 0.95), depth * r(0.5, 0.9), at)


@family("leaf", "frame", "handle")
def door(r):
    width, height, thick = r(0.7, 1.0), r(1.9, 2.2), r(0.03, 0.07)
    rim, open_by = r(0.05, 0.1), r.pick(0, 0, r(10, 80))
    leaf = box(width, height, thick, (width / 2, 0, 0))
    panels = r.count(0, 3)
    for i in range(panels):
        tall = height / panels
        panel = box(width * 0.7, tall * 0.75, thick * 1.7, (width / 2, (i + 0.12) * tall, 0))
        leaf = join(leaf, panel)
    grip_at = (width * 0.9, height * 0.48, 0)
    grip = mirror(shift(box(0.12, 0.025, 0.03, (-0.04, 0, thick / 2 + 0.05)), *grip_at), "z")
    stem = rod((grip_at[0], grip_at[1], -0.07), (grip_at[0], grip_at[1], 0.07), 0.02)
    yield "leaf", shift(turn(leaf, "y", open_by), -width / 2)
    yield "handle", shift(turn(join(grip, stem), "y", open_by), -width / 2)
    if r.chance(0.8):
        posts = mirror(box(rim, height + rim, thick * 2.5, (width / 2 + rim / 2, 0, 0)), "x")
        yield "frame", join(posts, box(width, rim, thick * 2.5, (0, height, 0)))


@family("screen", "stand", "base")
def display(r):
    width = r(0.45, 1.1)
    height, thick = width * r(0.5, 0.7), r(0.02, 0.08)
    low = r(0.05, 0.25)
    lean = r(-12, 12)
    screen = box(width, height, thick)
    rim = r(0.02, 0.05)
    border = join(
        mirror(box(rim, height, thick * 1.6, (width / 2 - rim / 2, 0, 0)), "x"),
        box(width, rim, thick * 1.6),
        box(width, rim, thick * 1.6, (0, height - rim, 0)),
    )
    if r.chance(0.35):
        border = join(border, box(width * 0.6, height * 0.6, thick * 2, (0, height * 0.2, -thick)))
    yield "screen", shift(turn(join(screen, border), "x", lean), 0, low)
    neck = r(0.05, 0.12)
    yield "stand", box(neck, low + height * 0.3, 0.04, (0, 0, -thick))
    if r.chance(0.5):
        yield "base", box(width * r(0.3, 0.55), 0.025, r(0.15, 0.28))
    elif r.chance(0.5):
        yield "base", lathe([(0, 0), (width * 0.22, 0), (width * 0.2, 0.02), (0, 0.03)])
    else:
        foot = box(0.05, 0.03, 0.25, (width * r(0.25, 0.4), 0, 0))
        yield "base", mirror(join(foot, box(0.04, low, 0.03, (width * 0.3, 0, 0))), "x")
