"""Plants and stones: trees that branch, trees with whorls, fronds from one point."""

import numpy as np

from dapt.synthetic.families.vessels import hollow
from dapt.synthetic.grammars.grammar import grammar
from dapt.synthetic.shapes import ball, cylinder, lathe, sheet, tube

UP = np.array([0.0, 1.0, 0.0])


def direction(r, lift, heading=None):
    """A unit vector at an angle above the horizon in degrees."""
    turn = r(0, 2 * np.pi) if heading is None else heading
    lift = np.radians(lift)
    return np.array([np.cos(lift) * np.cos(turn), np.sin(lift), np.cos(lift) * np.sin(turn)])


def ribbon(line, width, across=None):
    """A thin surface along a line [P, 3], with a width at each point."""
    line = np.asarray(line, dtype=float)
    if across is None:
        across = np.cross(line[-1] - line[0], UP)
    across = across / (np.linalg.norm(across) + 1e-9)
    side = np.broadcast_to(np.asarray(width, dtype=float), len(line))[:, None] * across / 2
    return sheet(np.stack([line - side, line + side]))


def leaves(r, middle, spread, count, size):
    """Small, randomly turned quads around a point."""
    places = middle + spread * r.rng.standard_normal((count, 1, 3))
    sides = r.rng.standard_normal((2, count, 1, 3))
    sides *= size / np.linalg.norm(sides, axis=-1, keepdims=True)
    a, b = sides
    corners = np.concatenate([places - a, places - b, places + a, places + b], 1)
    return np.concatenate([corners[:, [0, 1, 2]], corners[:, [0, 2, 3]]])


@grammar(
    "wood",
    "foliage",
    oak=dict(height=(0.4, 0.7), lift=(15.0, 50.0), forks=(3, 5), leaf=(0.04, 0.07), dense=(8, 20)),
    poplar=dict(
        height=(0.8, 1.2), lift=(65.0, 80.0), forks=(4, 6), leaf=(0.03, 0.05), dense=(8, 16)
    ),
    birch=dict(
        height=(0.8, 1.3), lift=(35.0, 65.0), forks=(3, 4), leaf=(0.02, 0.04), dense=(4, 10)
    ),
    willow=dict(
        height=(0.5, 0.8), lift=(30.0, 60.0), forks=(4, 6), leaf=0.02, dense=(2, 5), weep=(0.4, 0.9)
    ),
    round_tree=dict(height=(0.5, 0.9), lift=(20.0, 60.0), forks=(3, 5), clumps=(0.16, 0.3)),
    umbrella_tree=dict(
        height=(0.9, 1.3), lift=(20.0, 40.0), forks=(4, 7), clumps=(0.1, 0.2), flat=0.4
    ),
    dead_tree=dict(height=(0.4, 1.0), lift=(10.0, 60.0), forks=(2, 4), deep=3),
    bush=dict(
        height=(0.02, 0.12), lift=(20.0, 80.0), forks=(5, 8), leaf=(0.04, 0.08), dense=(6, 16)
    ),
    hedge_ball=dict(height=(0.02, 0.1), lift=(10.0, 80.0), forks=(5, 8), clumps=(0.2, 0.35)),
    cactus=dict(
        height=(0.5, 0.9), lift=(30.0, 80.0), forks=(1, 3), deep=1, thick=(0.1, 0.16), taper=0.9
    ),
    coral=dict(
        height=(0.1, 0.3), lift=(30.0, 80.0), forks=(3, 4), deep=3, thick=(0.06, 0.1), taper=0.8
    ),
)
def branching(
    r,
    height,
    lift,
    forks,
    deep=2,
    thick=None,
    taper=0.55,
    leaf=0.0,
    dense=0,
    clumps=0.0,
    flat=0.8,
    weep=0.0,
):
    """A trunk that forks repeatedly, with leaves as quads or clumps at the ends."""
    thick = thick or r(0.03, 0.08)

    def branch(start, way, length, radius, left):
        bend = way + 0.25 * r.rng.standard_normal(3)
        end = start + length * way
        middle = start + 0.5 * length * bend / np.linalg.norm(bend)
        yield "wood", tube([start, middle, end], [radius, radius * 0.8, radius * taper], 5)
        if left:
            for i in range(forks):
                toward = direction(r, lift * r(0.7, 1.2), 2 * np.pi * (i + r(-0.3, 0.3)) / forks)
                toward = toward + 0.4 * way
                toward /= np.linalg.norm(toward)
                off = start + (end - start) * r(0.6, 1.0)
                grown = max(length, 0.3) * r(0.5, 0.85)
                yield from branch(off, toward, grown, radius * taper, left - 1)
        if left <= 1:
            if leaf:
                yield "foliage", leaves(r, end, length * 0.28, dense, leaf)
            if clumps:
                yield "foliage", ball(clumps, clumps * flat, clumps, end)
            if weep:
                drop = np.repeat(end[None], 3, 0)
                drop[1:] += np.array([[0.5], [1]]) * (way * (1, 0, 1) * 0.3 - weep * UP)
                yield "foliage", ribbon(drop, 0.03)

    yield from branch(np.zeros(3), UP + 0.05 * r.rng.standard_normal(3), height, thick, deep)


@grammar(
    "wood",
    "foliage",
    fir=dict(whorls=(5, 9), droop=(-0.4, 0.0), slim=(0.3, 0.5), style="branches"),
    spruce=dict(whorls=(4, 7), droop=(0.05, 0.3), slim=(0.25, 0.4), style="cones"),
    cypress=dict(whorls=(1, 1), droop=0.0, slim=(0.1, 0.2), style="spindle"),
    topiary=dict(whorls=(2, 4), droop=0.0, slim=(0.25, 0.4), style="balls"),
    pine=dict(
        whorls=(2, 4), droop=(-0.2, 0.1), slim=(0.35, 0.5), style="branches", bare=(0.4, 0.6)
    ),
)
def whorled(r, whorls, droop, slim, style, bare=None):
    """A straight trunk with branches or leaves around it at every level."""
    height, bare = r(1.2, 1.8), bare or r(0.05, 0.2)
    yield "wood", cylinder(r(0.03, 0.06), height * 0.9, top=0.3, segments=8)
    low = bare * height
    if style == "spindle":
        t = np.linspace(0, 1, 9)
        bulge = slim * height * np.sin(np.pi * t ** r(0.4, 0.9)) + 0.01
        yield "foliage", lathe(np.stack([bulge, low + t * (height - low)], 1), segments=12)
        return
    for i in range(whorls):
        t = i / whorls
        y, reach = low + t * (height - low), slim * height * (1 - 0.85 * t)
        step = (height - low) / whorls
        if style == "cones":
            skirt = [(0, y), (reach, y - droop * reach), (reach * 0.1, y + step * 1.3)]
            yield "foliage", lathe(skirt, segments=12)
        elif style == "balls":
            yield "foliage", ball(reach * 0.7, step * 0.5, reach * 0.7, (0, y + step / 2, 0))
        else:
            count, turn = r.count(5, 9), r(0, 6.28)
            for k in range(count):
                out = direction(r, 0, turn + 2 * np.pi * k / count)
                tip = reach * r(0.8, 1.1) * out + (0, droop * reach, 0)
                line = np.array([0 * tip, 0.5 * tip + (0, 0.04, 0), tip]) + (0, y, 0)
                yield "foliage", ribbon(line, [0.03, reach * 0.35, 0.02])
                yield "foliage", ribbon(line, [0.02, reach * 0.2, 0.01], UP)


@grammar(
    "stem",
    "blades",
    "pot",
    date_palm=dict(
        stem=(0.7, 1.2), count=(12, 22), long=(0.4, 0.7), wide=(0.1, 0.2), arch=(0.3, 0.9), cut=8
    ),
    fan_palm=dict(
        stem=(0.4, 1.0), count=(10, 18), long=(0.3, 0.5), wide=(0.2, 0.35), arch=(0.1, 0.4)
    ),
    banana=dict(stem=(0.4, 0.7), count=(5, 9), long=(0.6, 0.9), wide=(0.15, 0.25), arch=(0.3, 0.8)),
    fern=dict(stem=0.02, count=(8, 18), long=(0.5, 0.8), wide=(0.12, 0.22), arch=(0.5, 1.1), cut=7),
    agave=dict(stem=0.02, count=(12, 24), long=(0.4, 0.6), wide=(0.06, 0.12), arch=(0.0, 0.2)),
    grass=dict(
        stem=0.0,
        count=(25, 60),
        long=(0.3, 0.8),
        wide=(0.008, 0.025),
        arch=(0.1, 0.7),
        steep=55,
        base=0.2,
    ),
    reeds=dict(
        stem=0.0,
        count=(12, 30),
        long=(0.8, 1.2),
        wide=(0.02, 0.05),
        arch=(0.0, 0.3),
        steep=75,
        base=0.25,
    ),
    potted_palm=dict(
        stem=(0.1, 0.5),
        count=(8, 14),
        long=(0.3, 0.6),
        wide=(0.06, 0.15),
        arch=(0.3, 0.8),
        pot=True,
    ),
    potted_grass=dict(
        stem=0.0,
        count=(15, 40),
        long=(0.3, 0.7),
        wide=(0.01, 0.04),
        arch=(0.1, 0.6),
        steep=50,
        pot=True,
    ),
    bouquet=dict(
        stem=0.0,
        count=(8, 16),
        long=(0.4, 0.6),
        wide=(0.015, 0.03),
        arch=(0.0, 0.3),
        steep=45,
        pot=True,
        bloom=(0.04, 0.09),
    ),
)
def fronds(r, stem, count, long, wide, arch, cut=1, steep=10, base=0.01, pot=False, bloom=0.0):
    """Blades from the top of a stem, whole or cut into leaflets, each bending under its weight."""
    ground = 0.0
    if pot:
        radius, ground = r(0.12, 0.22), r(0.15, 0.35)
        yield (
            "pot",
            lathe(hollow([(radius * r(0.6, 1.0), 0), (radius, ground)]), segments=r.pick(4, 16)),
        )
    top = np.array([r(-0.1, 0.1) * stem, ground + stem, r(-0.1, 0.1) * stem])
    if stem > 0.03:
        line = [(0, ground, 0), (top[0] * 0.2, ground + stem / 2, top[2] * 0.2), top]
        yield "stem", tube(line, r(0.025, 0.06), 7)
    t = np.linspace(0, 1, 7)[:, None]
    for i in range(count):
        out = direction(r, r(steep, 85), 2 * np.pi * i * 0.618 + r(-0.2, 0.2))
        length = long * r(0.7, 1.1)
        root = top + base * (2 * r.rng.random(3) - 1) * (1, 0, 1)
        line = root + length * (t * out - arch * t**2 * UP)
        line[:, 1] = np.maximum(line[:, 1], 0.0)
        across = np.cross(out, UP)
        if cut == 1:
            yield (
                "blades",
                ribbon(line, wide * np.sin(np.pi * t[:, 0] ** 0.6 * 0.95) + 0.004, across),
            )
        else:
            yield "blades", ribbon(line, 0.012, across)
            for where in np.linspace(1, 5.9, cut):
                at = line[int(where)] + (where % 1) * (line[int(where) + 1] - line[int(where)])
                side = wide * across / (np.linalg.norm(across) + 1e-9) * (1.2 - where / 6)
                tip = 0.3 * wide * out - 0.2 * wide * UP
                yield (
                    "blades",
                    ribbon([at - side + tip, at, at + side + tip], [0.004, 0.03, 0.004], out),
                )
        if bloom:
            yield "blades", ball(bloom, bloom * r(0.4, 1.0), bloom, line[-1])


def _sphere(rows=13, columns=20):
    polar, turn = np.linspace(0, np.pi, rows), np.linspace(0, 2 * np.pi, columns + 1)
    grid = np.empty((rows, columns + 1, 3))
    grid[..., 0] = np.sin(polar)[:, None] * np.cos(turn)
    grid[..., 1] = np.cos(polar)[:, None]
    grid[..., 2] = np.sin(polar)[:, None] * np.sin(turn)
    return grid


_SPHERE = _sphere()


@grammar(
    "body",
    boulder=dict(cuts=(12, 30), waves=0.05, high=(0.5, 1.0)),
    flat_rock=dict(cuts=(10, 25), waves=0.08, high=(0.2, 0.4)),
    rock_pile=dict(cuts=(8, 20), waves=0.05, high=(0.5, 1.0), count=(3, 8)),
    cliff=dict(cuts=(15, 30), waves=0.15, high=(1.2, 2.2), count=(1, 3)),
    crystal=dict(cuts=(6, 10), waves=0.0, high=(1.2, 2.5), count=(1, 6), soft=0.0),
    potato=dict(cuts=0, waves=(0.1, 0.3), high=(0.6, 1.4)),
    molten=dict(cuts=0, waves=(0.1, 0.25), high=(0.7, 1.3), count=(2, 6)),
    pebble=dict(cuts=0, waves=(0.0, 0.06), high=(0.3, 1.0)),
)
def stone(r, cuts, waves, high, count=1, soft=0.02):
    """Balls cut by planes and made uneven by waves; several may lean on each other."""
    for i in range(count):
        radius = np.ones(_SPHERE.shape[:2])
        if cuts:
            normals = r.rng.standard_normal((cuts, 3))
            normals /= np.linalg.norm(normals, axis=1, keepdims=True)
            depths = 0.55 + 0.4 * r.rng.random(cuts)
            facing = np.maximum(_SPHERE @ normals.T, 1e-3)
            radius = np.minimum(radius, (depths / facing).min(-1))
        for _ in range(4):
            wave = r.rng.standard_normal(3) * r(1, 4)
            radius = radius * (1 + waves * np.sin(_SPHERE @ wave + r(0, 6.28)))
        radius = radius + soft * r.rng.standard_normal(1)
        size = r(0.5, 1.0) if i else 1.0
        place = direction(r, r(-10, 30)) * r(0.6, 1.1) * bool(i)
        body = (_SPHERE * radius[..., None] * (r(0.7, 1.2), high, r(0.7, 1.2))) * size
        yield "body", sheet(body + place)
