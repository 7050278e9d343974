"""Drawings without axes, as SVG whose colors come from the page, for light, dark and print.

The classes `s0` to `s9` are the colors of series. Style attributes, which the page forbids, are not
used.
"""

from collections.abc import Sequence

from dapt.view.axes import percent, plain_number
from dapt.view.page import text

SERIES = 10  # number of colors, after which they repeat
LETTER = 6.1  # approximate width of a letter at 11 pixels


def drawing(title: str, width: float, height: float, marks: str) -> str:
    """Wrap marks in an SVG element.

    Args:
        title: The description for screen readers.
        width: The width in pixels.
        height: The height in pixels.
        marks: The SVG markup of the marks.
    """
    return (
        f'<svg class="chart" role="img" aria-label="{text(title)}" viewBox="0 0 {width:.0f} '
        f'{height:.0f}" width="{width:.0f}" height="{height:.0f}" '
        f'xmlns="http://www.w3.org/2000/svg">{marks}</svg>'
    )


def letters(kind: str, x: float, y: float, words: str) -> str:
    """Place text in a drawing.

    Args:
        kind: Its CSS classes.
        x: The horizontal position in pixels.
        y: The vertical position in pixels.
        words: Any text.
    """
    x, y = (f"{at:.1f}" if isinstance(at, float) else at for at in (x, y))
    return f'<text class="{kind}" x="{x}" y="{y}">{text(words)}</text>'


def bars(
    title: str, rows: Sequence[tuple[str, float, int, str]], unit: str, width: int = 560
) -> str:
    """Draw horizontal bars, each with its name and its value.

    Args:
        title: The description for screen readers.
        rows: For each bar its name, value, series, and a remark in parentheses or an empty string.
        unit: The unit after each value.
        width: The width in pixels.
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
            letters("name end", left - 8, y + 14, name)
            + f'<rect class="{kind} s{series % SERIES}" x="{left:.1f}" y="{y + 2}" rx="3" '
            f'width="{length:.1f}" height="17"/>' + letters("tick", left + length + 7, y + 14, said)
        )
    return drawing(title, width, 12 + 26 * len(rows), "".join(marks))


def heatmap(title: str, names: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Draw a confusion matrix in which each row is shaded by its shares.

    Args:
        title: The description for screen readers.
        names: The names of the classes, for both rows and columns.
        counts: The counts; rows are the truth, columns the predictions.
    """
    n = len(names)
    cell = max(14, min(34, 560 // max(n, 1)))
    longest = min(max(map(len, names), default=0), 22)
    left, top = 26 + LETTER * longest, 22 + 0.72 * LETTER * longest
    marks = []
    for i, (name, row) in enumerate(zip(names, counts, strict=True)):
        total = sum(row) or 1
        y = top + cell * i
        marks.append(letters("tick end", left - 6, y + cell / 2 + 4, shortened(name)))
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
                kind, half = f"count middle {strong}", cell / 2
                marks.append(letters(kind, x + half, y + half + 4, plain_number(count)))
            marks.append("</g>")
    frame = (
        f'<rect class="frame" x="{left:.1f}" y="{top:.1f}" width="{cell * n}" height="{cell * n}"/>'
    )
    width, height = left + cell * n + 0.72 * LETTER * longest, top + cell * n + 22
    axes = letters("name", 2, 11, "truth ↓ prediction →")
    return drawing(title, width, height, frame + "".join(marks) + axes)


def scatter(
    title: str, points: Sequence[tuple[float, float]], classes: Sequence[int], size: int = 300
) -> str:
    """Draw points without axes, with a color per class that the page assigns.

    Args:
        title: The description for screen readers.
        points: The (x, y) of each point.
        classes: The class of each point.
        size: The size of the square drawing in pixels.
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
    """Shorten a name that is too long.

    Args:
        name: The name.
        most: The largest number of characters.
    """
    return name if len(name) <= most else name[: most - 1] + "…"
