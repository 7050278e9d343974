"""Charts of the report, as SVG that takes its colors from the page: light, dark and print.

A chart is made of marks in the unit of its data; axes, grid and labels come with it. The classes
`s0` to `s9` are the colors of series. Nothing is styled by attributes that the page forbids.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from dapt.view.page import text

SERIES = 10  # colors, then the first one again
LETTER = 6.1  # width of a letter at 11 pixels, about

Format = Callable[[float], str]


def plain_number(value: float) -> str:
    """A number in few characters: 1234567 -> 1.23 M.

    Args:
        value: any number.
    """
    for size, suffix in ((1e9, " G"), (1e6, " M"), (1e4, " k")):
        if abs(value) >= size:
            return f"{value / (1e3 if suffix == ' k' else size):.3g}{suffix}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def percent(value: float) -> str:
    """A share as a percentage.

    Args:
        value: from 0 to 1.
    """
    return f"{100 * value:.3g} %"


@dataclass(frozen=True)
class Axis:
    """One direction of a chart.

    Args:
        title: What it measures, with the unit.
        low: Where it begins; by default where the data begin.
        high: Where it ends; by default where the data end.
        log: Whether equal factors have equal lengths.
        format: How a tick is written.
        ticks: Where they stand; by default at round numbers.
    """

    title: str = ""
    low: float | None = None
    high: float | None = None
    log: bool = False
    format: Format = plain_number
    ticks: Sequence[float] | None = None

    def over(self, values: Sequence[float], margin: float) -> "Scale":
        """The scale that holds the values, with some room at both ends.

        Args:
            values: to be shown.
            margin: room at each end, as a share of their range.
        """
        known = [value for value in values if math.isfinite(value)]
        low = min(known, default=0.0) if self.low is None else self.low
        high = max(known, default=1.0) if self.high is None else self.high
        if self.log:
            low, high = max(low, 1e-12), max(high, 1e-12)
            factor = (high / low) ** margin if high > low else 2.0
            low = low / factor if self.low is None else low
            high = high * factor if self.high is None else high
        else:
            space = margin * (high - low)
            if margin and not space:
                space = abs(high) * 0.1 or 1.0
            low = low - space if self.low is None else low
            high = high + space if self.high is None else high
        if not high > low:
            high = low + 1.0
        return Scale(low, high, self.log)


@dataclass(frozen=True)
class Scale:
    """Where numbers are along an axis.

    Args:
        low: Its low end.
        high: Its high end.
        log: Whether equal factors are equally far apart.
    """

    low: float
    high: float
    log: bool

    def share(self, value: float) -> float:
        """Where a value lies: 0 at the low end, 1 at the high one.

        Args:
            value: on the axis.
        """
        if self.log:
            value = max(value, 1e-12)
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self, most: int) -> list[float]:
        """Round numbers along the scale.

        Args:
            most: about how many.
        """
        if not self.log:
            step = _round_step((self.high - self.low) / most)
            first = math.ceil(self.low / step - 1e-9)
            return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for steps in ((1,), (1, 3), (1, 2, 5)):
            found = [s * 10.0**p for p in powers for s in steps]
            found = [tick for tick in found if self.low <= tick <= self.high]
            if len(found) >= 3:
                break
        return found[:: -(-len(found) // most)] if len(found) > most else found


def _round_step(rough: float) -> float:
    size = 10.0 ** math.floor(math.log10(rough))
    return next(step * size for step in (1, 2, 2.5, 5, 10) if step * size >= rough * (1 - 1e-9))


@dataclass
class Line:
    """A curve of a chart.

    Args:
        label: In the legend.
        points: x and y.
        series: Number of its color.
        dashed: Whether it is drawn in dashes.
        marks: Whether its points are marked.
        band: x, low and high of a shade behind it.
    """

    label: str
    points: Sequence[tuple[float, float]]
    series: int
    dashed: bool = False
    marks: bool = False
    band: Sequence[tuple[float, float, float]] = ()  # x, low, high


@dataclass
class Dot:
    """A point of a chart with its spread.

    Args:
        label: Beside it.
        x: Where it is.
        y: Likewise.
        spread: Half the length of its bar.
        series: Number of its color.
        note: What is told of it on hovering.
    """

    label: str
    x: float
    y: float
    spread: float
    series: int
    note: str = ""


@dataclass
class Chart:
    """Lines and dots over two axes.

    Args:
        title: What it shows, for those who do not see it.
        x: The horizontal axis.
        y: The vertical axis.
        width: Pixels; the page may show it smaller.
        height: Pixels.
        direct: Whether lines are named at their right ends.
        lines: Drawn over the axes.
        dots: Likewise, each with its name.
        diagonal: Whether a dashed line runs from corner to corner.
        bars: (from x, to x, height) of each bar, behind the lines.
    """

    title: str
    x: Axis
    y: Axis
    width: int = 560
    height: int = 320
    direct: bool = True
    lines: list[Line] = field(default_factory=list)
    dots: list[Dot] = field(default_factory=list)
    diagonal: bool = False
    bars: Sequence[tuple[float, float, float]] = ()  # from x, to x, height

    def svg(self) -> str:
        """The chart as an SVG element."""
        xs = [x for line in self.lines for x, _ in line.points] + [dot.x for dot in self.dots]
        ys = [y for line in self.lines for _, y in line.points]
        ys += [y for line in self.lines for _, *both in line.band for y in both]
        ys += [dot.y + side * dot.spread for dot in self.dots for side in (-1, 1)]
        xs += [edge for low, high, _ in self.bars for edge in (low, high)]
        ys += [height for *_, height in self.bars]
        self._x = self.x.over(xs, 0.12 if self.dots else 0.0)
        self._y = self.y.over(ys, 0.08)
        y_ticks = self.y.ticks or self._y.ticks(5)
        widest = max((len(self.y.format(tick)) for tick in y_ticks), default=1)
        named = [line.label for line in self.lines] if self.direct else []
        self._left = 14 + LETTER * widest
        self._right = self.width - (16 + LETTER * max(map(len, named), default=0))
        self._top, self._bottom = 22, self.height - 42
        marks = [self._grid(y_ticks), *map(self._bar, self.bars)]
        if self.diagonal:
            marks.append(self._path([(0.0, 0.0), (1.0, 1.0)], "diagonal"))
        marks += [self._line(line) for line in self.lines]
        marks += self._end_labels() if self.direct else []
        marks += self._drawn_dots()
        return drawing(self.title, self.width, self.height, "".join(marks))

    def _at(self, x: float, y: float) -> tuple[float, float]:
        across = self._left + self._x.share(x) * (self._right - self._left)
        return across, self._bottom - self._y.share(y) * (self._bottom - self._top)

    def _grid(self, y_ticks: Sequence[float]) -> str:
        marks = []
        for tick in y_ticks:
            _, y = self._at(self._x.low, tick)
            marks.append(f'<path class="grid" d="M{self._left:.1f} {y:.1f}H{self._right:.1f}"/>')
            label = text(self.y.format(tick))
            marks.append(
                f'<text class="tick end" x="{self._left - 6:.1f}" y="{y + 4:.1f}">{label}</text>'
            )
        most = max(2, int((self._right - self._left) / 70))
        for tick in self.x.ticks or self._x.ticks(most):
            x, _ = self._at(tick, self._y.low)
            marks.append(f'<path class="axis" d="M{x:.1f} {self._bottom}v4"/>')
            label = text(self.x.format(tick))
            marks.append(
                f'<text class="tick middle" x="{x:.1f}" y="{self._bottom + 17}">{label}</text>'
            )
        marks.append(f'<path class="axis" d="M{self._left:.1f} {self._bottom}H{self._right:.1f}"/>')
        marks.append(f'<text class="name" x="2" y="11">{text(self.y.title)}</text>')
        marks.append(
            f'<text class="name end" x="{self._right:.1f}" y="{self.height - 6}">'
            f"{text(self.x.title)}</text>"
        )
        return "".join(marks)

    def _path(self, points: Sequence[tuple[float, float]], kind: str) -> str:
        shown = [self._at(x, y) for x, y in points if math.isfinite(y)]
        steps = "L".join(f"{x:.1f} {y:.1f}" for x, y in shown)
        return f'<path class="{kind}" d="M{steps}"/>' if shown else ""

    def _line(self, line: Line) -> str:
        kind = f"line s{line.series % SERIES}" + (" dashed" if line.dashed else "")
        marks = []
        if line.band:
            outline = [(x, high) for x, _, high in line.band]
            outline += [(x, low) for x, low, _ in reversed(line.band)]
            marks.append(self._path(outline, f"band s{line.series % SERIES}"))
        marks.append(self._path(line.points, kind))
        if line.marks or len(line.points) == 1:
            for x, y in line.points:
                across, down = self._at(x, y)
                note = text(f"{line.label}: {self.y.format(y)} at {self.x.format(x)}")
                marks.append(
                    f'<circle class="dot s{line.series % SERIES}" cx="{across:.1f}" '
                    f'cy="{down:.1f}" r="3.5"><title>{note}</title></circle>'
                )
        return "".join(marks)

    def _end_labels(self) -> list[str]:
        ends = [(self._at(*line.points[-1])[1], line) for line in self.lines if line.points]
        ends.sort(key=lambda end: end[0])
        places = apart([y for y, _ in ends], 13.0, self._top, self._bottom)
        return [
            f'<text class="label s{line.series % SERIES}" x="{self._right + 6:.1f}" '
            f'y="{y + 4:.1f}">{text(line.label)}</text>'
            for y, (_, line) in zip(places, ends, strict=True)
        ]

    def _bar(self, bar: tuple[float, float, float]) -> str:
        left, bottom = self._at(bar[0], self._y.low)
        right, top = self._at(bar[1], bar[2])
        size = f'width="{max(right - left - 2, 1):.1f}" height="{max(bottom - top, 0):.1f}"'
        return f'<rect class="column" x="{left + 1:.1f}" y="{top:.1f}" {size}/>'

    def _drawn_dots(self) -> list[str]:
        marks, taken = [], []
        for dot in sorted(self.dots, key=lambda dot: self._at(dot.x, dot.y)[1]):
            x, y = self._at(dot.x, dot.y)
            series = f"s{dot.series % SERIES}"
            if dot.spread:
                _, top = self._at(dot.x, dot.y + dot.spread)
                _, bottom = self._at(dot.x, dot.y - dot.spread)
                marks.append(
                    f'<path class="whisker {series}" d="M{x:.1f} {top:.1f}V{bottom:.1f}"/>'
                )
            width = LETTER * len(dot.label)
            left = x + 9 + width > self.width
            begin = x - 9 - width if left else x + 9
            down = y
            while any(
                abs(down - other) < 13 and begin < end and start < begin + width
                for other, start, end in taken
            ):
                down += 3
            taken.append((down, begin, begin + width))
            side = (
                f'class="label end {series}" x="{x - 9:.1f}"'
                if left
                else (f'class="label {series}" x="{x + 9:.1f}"')
            )
            marks.append(
                f'<circle class="dot {series}" cx="{x:.1f}" cy="{y:.1f}" r="5">'
                f"<title>{text(dot.note or dot.label)}</title></circle>"
                f'<text {side} y="{down + 4:.1f}">{text(dot.label)}</text>'
            )
        return marks


def apart(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Ascending places, moved as little as it takes to keep them apart and within bounds.

    Args:
        places: in ascending order.
        gap: least distance between two.
        low: lower bound.
        high: upper bound.
    """
    moved = list(places)
    for i in range(1, len(moved)):
        moved[i] = max(moved[i], moved[i - 1] + gap)
    over = max(0.0, moved[-1] - high) if moved else 0.0
    for i in reversed(range(len(moved))):
        limit = high if i + 1 == len(moved) else moved[i + 1] - gap
        moved[i] = min(moved[i], limit) if over else moved[i]
    return [max(place, low + i * gap) for i, place in enumerate(moved)]


def bars(
    title: str, rows: Sequence[tuple[str, float, int, str]], unit: str, width: int = 560
) -> str:
    """Horizontal bars, each with its name and its value written out.

    Args:
        title: What they show, for those who do not see it.
        rows: Name, value, series, and a remark in parentheses or nothing.
        unit: Behind each value.
        width: Pixels.
    """
    longest = max((len(name) for name, *_ in rows), default=0)
    left = min(14 + LETTER * longest, 0.4 * width)
    most = max((value for _, value, *_ in rows), default=0) or 1.0
    room = width - left - 120
    marks = []
    for i, (name, value, series, remark) in enumerate(rows):
        y = 6 + 26 * i
        length = max(room * value / most, 1.5)
        said = f"{plain_number(value)} {unit}".rstrip() + (f" ({remark})" if remark else "")
        kind = "rect hollow" if remark else "rect"
        marks.append(
            f'<text class="name end" x="{left - 8:.1f}" y="{y + 14}">{text(name)}</text>'
            f'<rect class="{kind} s{series % SERIES}" x="{left:.1f}" y="{y + 2}" rx="3" '
            f'width="{length:.1f}" height="17"/>'
            f'<text class="tick" x="{left + length + 7:.1f}" y="{y + 14}">{text(said)}</text>'
        )
    return drawing(title, width, 12 + 26 * len(rows), "".join(marks))


def heatmap(title: str, names: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """A confusion matrix, each row shaded by its shares.

    Args:
        title: What it shows, for those who do not see it.
        names: Of the classes, of rows and of columns.
        counts: Rows are the truth, columns the predictions.
    """
    n = len(names)
    cell = max(14, min(34, 560 // max(n, 1)))
    longest = min(max(map(len, names), default=0), 22)
    left, top = 26 + LETTER * longest, 22 + 0.72 * LETTER * longest
    marks = []
    for i, (name, row) in enumerate(zip(names, counts, strict=True)):
        total = sum(row) or 1
        y = top + cell * i
        marks.append(
            f'<text class="tick end" x="{left - 6:.1f}" y="{y + cell / 2 + 4:.1f}">'
            f"{text(shortened(name))}</text>"
        )
        x = left + cell * i + cell / 2
        marks.append(
            f'<text class="tick" transform="translate({x + 3:.1f} {top - 6:.1f}) rotate(-45)">'
            f"{text(shortened(name))}</text>"
        )
        for j, count in enumerate(row):
            if not count:
                continue
            share = count / total
            kind = "hit" if i == j else "miss"
            note = text(f"{name} taken for {names[j]}: {count} of {total} ({percent(share)})")
            x = left + cell * j
            marks.append(
                f'<g><title>{note}</title><rect class="{kind}" x="{x + 0.5:.1f}" y="{y + 0.5:.1f}" '
                f'width="{cell - 1}" height="{cell - 1}" rx="2" '
                f'fill-opacity="{0.12 + 0.88 * share:.2f}"/>'
            )
            if cell >= 20:
                strong = "strong" if share > 0.55 else ""
                marks.append(
                    f'<text class="count middle {strong}" x="{x + cell / 2:.1f}" '
                    f'y="{y + cell / 2 + 4:.1f}">{plain_number(count)}</text>'
                )
            marks.append("</g>")
    frame = (
        f'<rect class="frame" x="{left:.1f}" y="{top:.1f}" width="{cell * n}" height="{cell * n}"/>'
    )
    width, height = left + cell * n + 0.72 * LETTER * longest, top + cell * n + 22
    axes = '<text class="name" x="2" y="11">truth ↓ prediction →</text>'
    return drawing(title, width, height, frame + "".join(marks) + axes)


def scatter(
    title: str, points: Sequence[tuple[float, float]], classes: Sequence[int], size: int = 300
) -> str:
    """Points without axes, a color for each class: the page colors `c0`, `c1` and so on.

    Args:
        title: for those who do not see it.
        points: (x, y) of each.
        classes: the number of each.
        size: of the square drawing, in pixels.
    """
    xs, ys = [x for x, _ in points], [y for _, y in points]
    wide, high = (max(v, default=1) - min(v, default=0) for v in (xs, ys))
    span = max(wide, high) or 1.0
    low_x = min(xs, default=0) - (span - wide) / 2
    low_y = min(ys, default=0) - (span - high) / 2
    room = size - 16
    paths: dict[int, list[str]] = {}
    for (x, y), number in zip(points, classes, strict=True):
        across, down = 8 + room * (x - low_x) / span, 8 + room * (1 - (y - low_y) / span)
        paths.setdefault(number, []).append(f"M{across:.1f} {down:.1f}h0")
    marks = [
        f'<path class="speck" data-class="{number}" d="{"".join(steps)}"/>'
        for number, steps in sorted(paths.items())
    ]
    return drawing(title, size, size, "".join(marks))


def shortened(name: str, most: int = 22) -> str:
    """A name, cut off where it is too long.

    Args:
        name: to be shown.
        most: characters.
    """
    return name if len(name) <= most else name[: most - 1] + "…"


def drawing(title: str, width: float, height: float, marks: str) -> str:
    """An SVG element around marks.

    Args:
        title: for those who do not see it.
        width: pixels.
        height: pixels.
        marks: SVG.
    """
    return (
        f'<svg class="chart" role="img" aria-label="{text(title)}" viewBox="0 0 {width:.0f} '
        f'{height:.0f}" width="{width:.0f}" height="{height:.0f}" '
        f'xmlns="http://www.w3.org/2000/svg">{marks}</svg>'
    )
