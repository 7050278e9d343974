"""Charts with two axes, as SVG, with grid and labels; marks are given in data coordinates."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from dapt.view.axes import Axis
from dapt.view.drawings import LETTER, SERIES, drawing, letters
from dapt.view.page import text


@dataclass
class Line:
    """A curve in a chart.

    Args:
        label: Its label in the legend.
        points: The (x, y) of its points.
        series: The index of its color.
        dashed: Whether it is dashed.
        marks: Whether its points are marked.
        band: The (x, low, high) of a shaded band behind it.
    """

    label: str
    points: Sequence[tuple[float, float]]
    series: int
    dashed: bool = False
    marks: bool = False
    band: Sequence[tuple[float, float, float]] = ()


@dataclass
class Dot:
    """A point in a chart with its spread.

    Args:
        label: The label beside it.
        x: The horizontal coordinate.
        y: The vertical coordinate.
        spread: Half the length of its error bar.
        series: The index of its color.
        note: The text shown on hovering.
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
        title: The description for screen readers.
        x: The horizontal axis.
        y: The vertical axis.
        width: The width in pixels; the page may show the chart smaller.
        height: The height in pixels.
        direct: Whether lines are labeled at their right ends.
        lines: The curves.
        dots: The points, each with its label.
        diagonal: Whether a dashed line runs from corner to corner.
        bars: The (from x, to x, height) of each bar, drawn behind the lines.
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
    bars: Sequence[tuple[float, float, float]] = ()

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
            marks.append(letters("tick end", self._left - 6, y + 4, self.y.format(tick)))
        most = max(2, int((self._right - self._left) / 70))
        for tick in self.x.ticks or self._x.ticks(most):
            x, _ = self._at(tick, self._y.low)
            marks.append(f'<path class="axis" d="M{x:.1f} {self._bottom}v4"/>')
            marks.append(letters("tick middle", x, self._bottom + 17, self.x.format(tick)))
        marks.append(f'<path class="axis" d="M{self._left:.1f} {self._bottom}H{self._right:.1f}"/>')
        marks.append(letters("name", 2, 11, self.y.title))
        marks.append(letters("name end", self._right, self.height - 6, self.x.title))
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
            letters(f"label s{line.series % SERIES}", self._right + 6, y + 4, line.label)
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
            side = ("label end", x - 9) if left else ("label", x + 9)
            marks.append(
                f'<circle class="dot {series}" cx="{x:.1f}" cy="{y:.1f}" r="5">'
                f"<title>{text(dot.note or dot.label)}</title></circle>"
                + letters(f"{side[0]} {series}", side[1], down + 4, dot.label)
            )
        return marks


def apart(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move ascending positions just enough to keep them apart and within bounds.

    Args:
        places: The positions, in ascending order.
        gap: The smallest distance between two.
        low: The lower bound.
        high: The upper bound.
    """
    moved = list(places)
    for i in range(1, len(moved)):
        moved[i] = max(moved[i], moved[i - 1] + gap)
    over = max(0.0, moved[-1] - high) if moved else 0.0
    for i in reversed(range(len(moved))):
        limit = high if i + 1 == len(moved) else moved[i + 1] - gap
        moved[i] = min(moved[i], limit) if over else moved[i]
    return [max(place, low + i * gap) for i, place in enumerate(moved)]
