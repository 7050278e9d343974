"""Charts of runs."""

import io
from collections.abc import Sequence

Point = tuple[str, int, float, float]  # method, trained parameters, mean score, its spread


def score_against_parameters(points: Sequence[Point], metric: str, caption: str) -> bytes:
    """Score against trained parameters, as a PNG.

    Args:
        points: One for each method.
        metric: What the score is called.
        caption: Stands above the chart.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot(
        xscale="log", xlabel="trained parameters", ylabel=f"{metric}, mean ± std"
    )
    for i, (method, trained, score, spread) in enumerate(sorted(points, key=lambda p: -p[2])):
        axes.errorbar(
            trained,
            score,
            yerr=spread,
            fmt="os^Dv"[i // 10 % 5],  # ten colors, then the next marker
            color=f"C{i}",
            capsize=3,
            label=f"{method} {score:.3f}",
        )
    counts = [trained for _, trained, *_ in points]
    axes.set_xlim(min(counts) / 2, max(counts) * 2)
    axes.margins(y=0.15)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    axes.set_title(caption, fontsize=8, wrap=True)
    axes.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()
