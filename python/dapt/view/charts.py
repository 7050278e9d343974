"""Charts for papers and READMEs, as PNG: direct labels, percentages, and no decoration."""

import io
from collections.abc import Mapping, Sequence

from dapt.view.axes import plain_number
from dapt.view.style import FONTS, INK, LINE, SERIES, SOFT

DPI = 150
GROUND = {"facecolor": "white", "edgecolor": "none", "pad": 1.2}  # hides the grid behind words
DASHES = ("-", "--", ":", "-.")  # once the colors are used up
Panel = tuple[str, Mapping[str, Sequence[tuple[float, float]]]]
Point = tuple[str, int, float, float]  # method, trained parameters, mean score, its spread
Speed = tuple[str, str, float, str]  # group, case, speedup, name of the peer


def score_against_parameters(points: Sequence[Point], metric: str, caption: str) -> bytes:
    """Plot scores against trained parameters, as a PNG.

    Args:
        points: One point per method.
        metric: The name of the score.
        caption: The text above the chart.
    """
    figure, axes = _figure(7.2, 4.6, caption)
    axes.set_xscale("log")
    counts = [trained for _, trained, *_ in points]
    axes.set_xlim(min(counts) / 1.6, max(counts) * 1.6)
    edges = [100 * (score + side * spread) for *_, score, spread in points for side in (-1, 1)]
    space = max(0.1 * (max(edges) - min(edges)), 1.0)  # so that small differences look small
    axes.set_ylim(min(edges) - space, max(edges) + space)
    ordered = sorted(points, key=lambda point: point[2])
    for i, (_, trained, score, spread) in enumerate(ordered):
        color = SERIES[(len(ordered) - 1 - i) % len(SERIES)]
        axes.errorbar(
            trained, 100 * score, yerr=100 * spread or None, color=color, fmt="o", markersize=7,
            markeredgecolor="white", elinewidth=2, alpha=0.95,
        )  # fmt: skip
    axes.set_xlabel("trained parameters", loc="right")
    axes.set_title(f"{metric.replace('_', ' ')}, %, mean ± std", loc="left", fontsize=9, color=INK)
    axes.set_xticks([s * 10.0**p for p in range(2, 10) for s in (1, 2, 5)])
    axes.set_xlim(min(counts) / 1.6, max(counts) * 1.6)
    axes.xaxis.set_major_formatter(lambda value, _: plain_number(value))
    axes.xaxis.set_minor_formatter("")
    _label_dots(axes, ordered)
    return _png(figure)


def _label_dots(axes, ordered: Sequence[Point]) -> None:
    """Write each method's name and score beside its dot. Labels that would overlap are moved up or
    down and connected to their dots by lines."""
    axes.figure.canvas.draw()
    point = axes.figure.dpi / 72
    inside, gap = axes.get_window_extent(), 11 * point
    dots = [axes.transData.transform((trained, 100 * score)) for _, trained, score, _ in ordered]
    taken = [(x - 5 * point, x + 5 * point, y) for x, y in dots]
    for i in reversed(range(len(ordered))):
        (x, y), (name, trained, score, _) = dots[i], ordered[i]
        words = f"{name} {100 * score:.1f}"
        width = 5.6 * point * len(words)
        left = x + 9 * point + width > inside.x1
        begin = x - 9 * point - width if left else x + 9 * point
        others = [place for k, place in enumerate(taken) if k != i]
        at = next(
            (
                y + step * gap / 2
                for step in sorted(range(-24, 25), key=abs)
                if inside.y0 < y + step * gap / 2 < inside.y1
                and not any(
                    begin < end and start < begin + width and abs(y + step * gap / 2 - other) < gap
                    for start, end, other in others
                )
            ),
            y,
        )
        taken.append((begin, begin + width, at))
        color = SERIES[(len(ordered) - 1 - i) % len(SERIES)]
        offset = (-9 if left else 9, (at - y) / point)
        line = {"arrowstyle": "-", "color": color, "alpha": 0.4, "shrinkA": 0, "shrinkB": 5,
                "relpos": (1.0 if left else 0.0, 0.5)}  # fmt: skip
        axes.annotate(
            words, (trained, 100 * score), xytext=offset, textcoords="offset points",
            ha="right" if left else "left", va="center", fontsize=8.5, color=color, weight="bold",
            arrowprops=line if abs(at - y) > gap / 2 else None,
        )  # fmt: skip


def corruption_curves(found: Mapping[str, Mapping[str, dict]], metric: str, caption: str) -> bytes:
    """Plot scores against severity, with a panel per kind of corruption, as a PNG.

    Args:
        found: By method and kind, the `mean` and `std` at severities 0 to 5.
        metric: The name of the score.
        caption: The text above the chart.
    """
    kinds = list(next(iter(found.values())))
    panels = [
        (kind, {name: list(enumerate(curves[kind]["mean"])) for name, curves in found.items()})
        for kind in kinds
    ]
    return curves_of_methods(panels, "severity", metric, caption)


def curves_of_methods(
    panels: Sequence[Panel], across: str, metric: str, caption: str, log: bool = False
) -> bytes:
    """Plot curves of methods in panels that share their axes and colors, as a PNG.

    Args:
        panels: The title of each panel and its curves by method, as (x, share) from left to right.
        across: The label of the horizontal axis.
        metric: The name of the score.
        caption: The text above the chart.
        log: Whether the horizontal axis is logarithmic.
    """
    from matplotlib import rc_context

    figure, first = _figure(2.0 + 2.4 * len(panels), 3.6, caption)
    first.remove()
    with rc_context(FONTS):
        row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, curves) in zip(row, panels, strict=True):
        _plain(axes)
        for i, (name, points) in enumerate(curves.items()):
            xs, ys = [x for x, _ in points], [100 * y for _, y in points]
            style = {"color": SERIES[i % len(SERIES)], "linestyle": DASHES[i // len(SERIES) % 4]}
            axes.plot(xs, ys, label=name, marker="o", markersize=3.5, linewidth=1.8, **style)
        if log:
            axes.set_xscale("log")
        ticks = sorted({x for points in curves.values() for x, _ in points})
        axes.set_xticks(ticks, [plain_number(tick) for tick in ticks])
        axes.minorticks_off()
        axes.set_title(title, loc="left", fontsize=9, color=INK)
        axes.set_xlabel(across, loc="right")
    row[0].set_ylabel(f"{metric.replace('_', ' ')}, %", fontsize=8.5, color=SOFT)
    names, labels = row[0].get_legend_handles_labels()
    figure.legend(names, labels, loc="outside right center", frameon=False, fontsize=8.5)
    return _png(figure)


def speedups(rows: Sequence[Speed], caption: str) -> bytes:
    """Plot how many times faster each case is than the best peer, as a PNG.

    Args:
        rows: The cases, from top to bottom; each group has a color.
        caption: The text above the chart.
    """
    figure, axes = _figure(9, 0.9 + 0.24 * len(rows), caption)
    groups = list(dict.fromkeys(group for group, *_ in rows))
    for i, (group, _, times, peer) in enumerate(reversed(rows)):
        color = SERIES[groups.index(group) % len(SERIES)]
        axes.barh(i, times - 1, left=1, height=0.62, color=color)
        axes.annotate(
            f"{times:.1f}x", (max(times, 1), i), xytext=(4, 0), textcoords="offset points",
            va="center", fontsize=8, color=INK, weight="bold", bbox=GROUND,
        )  # fmt: skip
        axes.annotate(
            peer, (max(times, 1), i), xytext=(36, 0), textcoords="offset points", va="center",
            fontsize=7, color=SOFT, bbox=GROUND,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlim(min(0.9, *(times for *_, times, _ in rows)), 4 * max(t for *_, t, _ in rows))
    axes.set_yticks(range(len(rows)), [f"{group}  {case}" for group, case, *_ in reversed(rows)])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.axvline(1, color=INK, linewidth=1)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color=LINE)
    axes.spines["bottom"].set_visible(False)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    axes.xaxis.set_minor_formatter("")
    axes.tick_params(axis="y", labelsize=7.5)
    axes.set_xlabel("times faster than the best peer, named at the bar", loc="right")
    return _png(figure)


def _figure(width: float, height: float, caption: str):
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(FONTS):
        figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
        figure.suptitle(caption, fontsize=8.5, color=SOFT, x=0.01, ha="left", wrap=True)
        axes = figure.add_subplot()
    return figure, _plain(axes)


def _plain(axes):
    """Remove decoration from axes."""
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(SOFT)
    axes.grid(axis="y", color=LINE)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=8.5, labelcolor=SOFT, which="both")
    axes.xaxis.label.set(fontsize=8.5, color=SOFT)
    return axes


def _png(figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()
