"""Smaller household objects."""

import numpy as np

from dapt.synthetic.families.family import family
from dapt.synthetic.families.vessels import hollow
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
    sheet,
    shift,
    slab,
    tube,
    turn,
)


@family("body", "handle", "flap")
def bag(r):
    width, height, depth = r(0.4, 0.7), r(0.4, 0.7), r(0.16, 0.34)
    soft = r.chance(0.6)
    if soft:
        body = turn(cushion(width, depth * 1.4, height, roundness=r(1.5, 4)), "x", -90)
        yield "body", shift(body, 0, height / 2, depth * 0.7) * (1, 1, 1)
        middle = depth * 0.0
    else:
        yield "body", box(width, height, depth, top=r(0.75, 1.0))
        middle = 0.0
    style = r.count(0, 2)
    if style == 0:  # a backpack
        strap = arc(1, -80, 80, 9) * (depth * r(0.4, 0.7), height * 0.42)
        line = in_plane(strap, "zy", (width * 0.25, height / 2, depth * 0.4))
        yield "handle", mirror(tube(line, 0.028), "x")
        pocket = box(width * 0.6, height * 0.4, depth * 0.3, (0, 0.06, -depth * 0.55))
        yield "flap", pocket
    else:
        bow = arc(width * r(0.18, 0.32), 0, 180, 11, r(0.9, 1.8))
        line = in_plane(bow, "xy", (0, height * 0.95, middle + depth * r(0.0, 0.25)))
        yield "handle", mirror(tube(line, r(0.015, 0.03)), "z")
        if r.chance(0.5):
            yield (
                "flap",
                box(width * 0.9, height * r(0.3, 0.6), 0.03, (0, height * 0.4, depth * 0.55)),
            )


@family("body", "lid")
def bin_(r):
    width, height = r(0.22, 0.34), r(0.5, 0.85)
    grow = r(1.0, 1.3)
    round_ = r.chance(0.6)
    segments = 18 if round_ else 4
    low = width if round_ else width * 1.2
    body = lathe(hollow([(low, 0), (low * grow, height)], 0.02), segments=segments)
    yield "body", body if round_ else turn(body, "y", 45)
    style = r.count(0, 3)
    top = low * grow
    if style == 1:  # closed
        lid = lathe(
            [(top * 1.05, height), (top * 1.05, height + 0.04), (0, height + r(0.06, 0.2))],
            segments=segments,
        )
        yield "lid", lid if round_ else turn(lid, "y", 45)
    elif style == 2:  # open, held by its hinge
        lid = shift(turn(cylinder(top, 0.03, segments=segments), "x", -r(60, 110)), 0, height, -top)
        yield "lid", lid
    elif style == 3:
        rim = in_plane(arc(top, 0, 360, segments + 1), "xz", (0, height, 0))
        yield "lid", tube(rim, 0.025) if round_ else turn(tube(rim, 0.025), "y", 45)


@family("body", "flaps")
def box_(r):
    width, depth, height = r(0.4, 0.9), r(0.35, 0.7), r(0.2, 0.7)
    wall = 0.015
    sides = mirror(box(wall, height, depth, (width / 2, 0, 0)), "x")
    ends = mirror(box(width, height, wall, (0, 0, depth / 2)), "z")
    yield "body", join(sides, ends, box(width, wall, depth))
    if r.chance(0.35):
        yield "flaps", box(width, wall, depth, (0, height, 0))
        return
    long, short = r(0.3, 0.5) * depth, r(0.3, 0.5) * width
    for side in (0, 180):
        flap = shift(
            turn(box(width, wall, long, (0, 0, long / 2)), "x", -r(-70, 60)), 0, height, depth / 2
        )
        yield "flaps", turn(flap, "y", side)
        flap = shift(
            turn(box(short, wall, depth, (short / 2, 0, 0)), "z", r(-70, 60)), width / 2, height
        )
        yield "flaps", turn(flap, "y", side)


@family("body")
def pillow(r):
    width, depth = r(0.5, 0.9), r(0.4, 0.65)
    body = cushion(width, r(0.16, 0.34), depth, roundness=r(0.9, 2.2))
    sag = r(-0.25, 0.25)
    body[..., 1] += sag * (body[..., 0] / width) ** 2
    fold = r(-0.2, 0.2)
    body[..., 1] += fold * body[..., 0] * body[..., 2] / (width * depth)
    yield "body", turn(body, "x", r.pick(0, 0, -r(20, 80)))


@family("basin", "tap", "support")
def sink(r):
    width, depth, height = r(0.45, 0.8), r(0.38, 0.55), r(0.14, 0.26)
    if r.chance(0.5):
        line = [(0.12, 0), (0.24, 0.03), (0.36, height * 0.5), (0.42, height)]
        basin = lathe(hollow(line, 0.04), segments=18) * (width / 0.84, 1, depth / 0.84)
    else:
        wall = 0.04
        basin = join(
            mirror(box(wall, height, depth, (width / 2, 0, 0)), "x"),
            mirror(box(width, height, wall, (0, 0, depth / 2)), "z"),
            box(width, wall, depth),
        )
    yield "basin", basin
    yield "basin", box(width * 1.05, 0.05, 0.14, (0, height - 0.05, -depth / 2 - 0.05))
    rise, reach = r(0.12, 0.28), r(0.12, 0.2)
    bow = np.array(
        [(0, 0), (0, rise * 0.7), (reach * 0.4, rise), (reach, rise * 0.85), (reach, rise * 0.65)]
    )
    yield "tap", tube(in_plane(bow, "zy", (0, height, -depth / 2 - 0.04)), 0.02)
    if r.chance(0.6):
        yield "tap", mirror(cylinder(0.03, 0.06, (0.12, height, -depth / 2 - 0.04)), "x")
    style = r.count(0, 2)
    if style == 0:
        yield "support", cylinder(r(0.08, 0.12), 0.6, (0, -0.6, -0.05), top=r(0.7, 1.1))
    elif style == 1:
        yield "support", box(width * 1.05, r(0.5, 0.7), depth * 1.1, (0, -0.5, -0.03))
        yield "support", box(width * r(1.3, 2.2), 0.04, depth * 1.2, (0, height - 0.04, -0.03))


@family("bowl", "seat", "tank", "lid")
def toilet(r):
    width, length, height = r(0.34, 0.42), r(0.46, 0.56), r(0.36, 0.44)
    line = [(0.28, 0), (0.22, 0.12), (0.3, 0.3), (0.5, 0.85), (0.5, 1.0)]
    bowl = lathe(hollow(line, 0.07), segments=18) * (width, height, length)
    yield "bowl", bowl
    ring = in_plane(arc(0.46, 0, 360, 19), "xz") * (width, 1, length) + (0, height + 0.02, 0)
    yield "seat", tube(ring, 0.035)
    tall = r(0.3, 0.42)
    yield (
        "tank",
        box(width * r(1.0, 1.25), tall, 0.18, (0, height * r(0.8, 1.0), -length / 2 - 0.08)),
    )
    yield "tank", box(width * 0.7, height * 0.9, 0.25, (0, 0, -length * 0.42))
    lid = cylinder(0.5, 0.03) * (width, 1, length) + (0, 0, length * 0.5)
    lean = -r(80, 105) if r.chance(0.6) else -r(0, 5)
    yield "lid", shift(turn(lid, "x", lean), 0, height + 0.05, -length * 0.5)


@family("shade", "pole", "base")
def floor_lamp(r):
    height = r(1.2, 1.7)
    yield "pole", cylinder(0.018, height)
    if r.chance(0.25):
        yield "base", around(rod((0, 0.25, 0), (0.25, 0, 0), 0.015), 3)
    else:
        yield "base", cylinder(r(0.13, 0.2), 0.03)
    wide = r(0.14, 0.26)
    yield "shade", lathe([(wide, height - 0.1), (wide * r(0.4, 1.0), height + r(0.12, 0.25))])


@family("shade", "pole", "base")
def table_lamp(r):
    if r.chance(0.4):  # jointed
        elbow = (r(-0.2, 0.0), r(0.3, 0.42), 0)
        head = (elbow[0] + r(0.25, 0.4), elbow[1] + r(0.05, 0.2), 0)
        yield "base", cylinder(0.14, 0.03)
        yield "pole", join(rod((0, 0, 0), elbow, 0.014), rod(elbow, head, 0.014))
        cone = lathe([(0.03, 0.1), (0.05, 0.06), (0.12, -0.06)])
        yield "shade", shift(turn(cone, "z", r(0, 40)), *head)
        return
    height = r(0.25, 0.42)
    belly = r(0.05, 0.14)
    yield (
        "base",
        lathe([(0, 0), (0.1, 0), (belly, height * 0.4), (0.03, height * 0.8), (0.02, height)]),
    )
    yield "pole", cylinder(0.014, 0.12, (0, height, 0))
    wide = r(0.16, 0.26)
    yield "shade", lathe([(wide, height), (wide * r(0.4, 0.8), height + r(0.16, 0.28))])


@family("blades", "cage", "stand")
def fan(r):
    radius, height = r(0.2, 0.3), r(0.35, 0.9)
    blade = slab([(0, -0.02), (0.9, -0.2), (1.0, 0.15), (0.1, 0.08)], 0.02) * (radius, radius, 1)
    yield "blades", shift(around(turn(blade, "x", 20), r.count(3, 5), "z"), 0, height)
    ring = in_plane(arc(radius * 1.08, 0, 360, 17), "xy")
    hoops = [(0, height, -0.07), (0, height, 0.07)]
    yield "cage", copies(tube(ring, 0.012), hoops)
    spoke = tube([(0, 0.0, 0.09), (radius * 0.6, 0, 0.1), (radius * 1.08, 0, 0.06)], 0.006, 4)
    yield "cage", shift(around(spoke, r.count(8, 14), "z"), 0, height)
    yield "stand", turn(cylinder(0.05, 0.16), "x", 90) + (0, height, -0.2)
    yield "stand", rod((0, 0, -0.1), (0, height, -0.1), 0.02)
    yield "stand", cylinder(r(0.14, 0.22), 0.03, (0, 0, -0.1))


@family("case", "hands", "feet")
def clock(r):
    radius, thick = r(0.35, 0.5), r(0.06, 0.16)
    sides = r.pick(20, 20, 4, 8)
    case = turn(cylinder(radius, thick, segments=sides), "x", 90)
    rim = in_plane(arc(radius * 0.96, 0, 360, sides + 1), "xy", (0, 0, thick))
    yield "case", turn(join(case, tube(rim, 0.03)), "z", 180 / sides)
    for length, angle in ((radius * 0.8, r(0, 360)), (radius * 0.5, r(0, 360))):
        yield "hands", turn(box(0.03, length, 0.02, (0, 0, thick + 0.01)), "z", angle)
    if r.chance(0.4):
        yield (
            "feet",
            mirror(rod((0.15, -radius * 0.9, -thick / 2), (0.25, -radius - 0.12, 0), 0.03), "x"),
        )
        yield "feet", mirror(ball(0.1, 0.07, 0.1, (0.2, radius + 0.04, -thick / 2)), "x")


@family("canopy", "pole", "handle")
def umbrella(r):
    radius, height, ribs = r(0.5, 0.65), r(0.75, 0.95), r.count(6, 10)
    rise, spread = r(0.15, 0.3), r(0.6, 1.0)
    out = np.linspace(0, 1, 5)
    line = np.stack(
        [radius * spread * np.sin(out * 1.4), height - rise * (1 - np.cos(out * 1.5)) * 1.2], 1
    )
    yield "canopy", lathe(line, segments=ribs)
    yield "pole", cylinder(0.014, height + 0.06)
    hook = in_plane(arc(0.06, 180, 360, 7), "xy", (0.06, 0, 0))
    yield "handle", tube(hook, 0.022)


@family("rails", "rungs")
def ladder(r):
    height, width, rungs = r(1.4, 2.2), r(0.35, 0.5), r.count(5, 9)
    heights = (np.arange(rungs) + 0.6) / rungs * height
    side = mirror(box(0.05, height, 0.03, (width / 2, 0, 0)), "x")
    steps = copies(box(width, 0.03, r(0.03, 0.08)), [(0, y, 0) for y in heights])
    if r.chance(0.5):
        yield "rails", side
        yield "rungs", steps
        return
    lean = r(10, 18)  # a step ladder
    for sign in (-1, 1):
        yield "rails", turn(shift(side, 0, -height), "x", sign * lean)
    yield "rungs", turn(shift(steps, 0, -height), "x", lean)


@family("post", "case", "flag")
def mailbox(r):
    width, length, height = r(0.2, 0.3), r(0.4, 0.55), r(0.7, 1.1)
    half = arc(width / 2, 0, 180, 9)
    ends = np.concatenate([[(width / 2, -width * 0.4)], half, [(-width / 2, -width * 0.4)]])
    yield "case", slab(ends, length, (0, height + width * 0.4, 0))
    yield "post", box(0.08, height, 0.08)
    yield "flag", box(0.015, 0.2, 0.05, (width / 2 + 0.02, height + 0.1, 0.05))


@family("body", "keys", "legs")
def piano(r):
    width, height, depth = r(1.2, 1.5), r(0.9, 1.3), r(0.25, 0.4)
    shelf_height = r(0.55, 0.7)
    yield "body", box(width, height, depth)
    yield "keys", box(width * 0.92, 0.06, 0.3, (0, shelf_height, depth / 2 + 0.15))
    black = [
        (x, shelf_height + 0.06, depth / 2 + 0.1) for x in np.linspace(-0.42, 0.42, 12) * width
    ]
    yield "keys", copies(box(0.025, 0.03, 0.16), black)
    yield "legs", mirror(box(0.06, shelf_height, 0.06, (width * 0.46, 0, depth / 2 + 0.26)), "x")
    yield (
        "body",
        mirror(box(0.05, 0.16, 0.32, (width * 0.485, shelf_height, depth / 2 + 0.15)), "x"),
    )


@family("screen", "keyboard")
def laptop(r):
    width = r(0.6, 0.8)
    depth, thick = width * r(0.62, 0.75), r(0.02, 0.045)
    yield "keyboard", box(width, thick, depth)
    rows = [(0, thick, z) for z in np.linspace(-0.35, 0.05, 4) * depth]
    yield "keyboard", copies(box(width * 0.85, 0.008, depth * 0.07), rows)
    screen = box(width, depth, thick * 0.7)
    yield "screen", shift(turn(screen, "x", -r(5, 45)), 0, thick, -depth / 2)


@family("body", "neck", "head")
def guitar(r):
    lower, upper, waist = r(0.2, 0.25), r(0.14, 0.19), r(0.11, 0.14)
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    along = -np.cos(angle)  # -1 at the tail
    wide = np.where(along < 0, lower, upper) * np.abs(np.sin(angle)) ** 0.7
    pinch = 1 - (1 - waist / lower) * np.exp(-((along - 0.1) ** 2) / 0.08)
    outline = np.stack([np.sign(np.sin(angle)) * wide * pinch, along * 0.28], 1)
    yield "body", slab(outline, r(0.06, 0.12))
    length = r(0.4, 0.5)
    yield "neck", box(0.05, length + 0.1, 0.03, (0, 0.15, 0.05))
    yield "head", box(0.08, 0.14, 0.025, (0, 0.25 + length, 0.04), top=r(0.8, 1.3))
    yield "body", box(0.12, 0.025, 0.03, (0, -0.13, 0.05))


@family("cups", "band")
def headphones(r):
    radius = r(0.28, 0.34)
    bow = arc(radius, 0, 180, 13, r(1.1, 1.4))
    yield "band", tube(in_plane(bow, "xy"), r(0.02, 0.05))
    size = r(0.1, 0.16)
    cup = turn(lathe([(0, 0), (size, 0), (size, 0.08), (size * 0.5, 0.1)]), "z", 90)
    yield "cups", mirror(shift(cup, radius + 0.03, -0.04), "x")


@family("cover", "pages")
def book(r):
    width, height, thick = r(0.4, 0.55), r(0.55, 0.75), r(0.05, 0.16)
    if r.chance(0.5):
        yield "pages", box(width * 0.95, thick * 0.8, height * 0.95, (0, thick * 0.1, 0))
        yield "cover", box(width, thick * 0.12, height)
        yield "cover", box(width, thick * 0.12, height, (0, thick * 0.9, 0))
        yield "cover", box(thick * 0.1, thick, height, (-width / 2, 0, 0))
        return
    u = np.linspace(0, 1, 8)  # open
    line = np.stack([u * width, thick * np.sin(np.pi * u ** r(0.6, 1.0))], 1)
    grid = np.zeros((8, 2, 3))
    grid[..., 0], grid[..., 1] = line[:, :1], line[:, 1:]
    grid[:, 0, 2], grid[:, 1, 2] = -height / 2, height / 2
    yield "pages", mirror(sheet(grid), "x")
    yield "cover", box(width * 2.04, 0.015, height * 1.03, (0, -0.02, 0))
