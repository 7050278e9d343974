"""Pictures for papers and READMEs, in one style: what a model sees, and contact sheets."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dapt.files import write_atomically
from dapt.inference.labeling import palette
from dapt.view.render import Camera, render
from dapt.view.style import FONTS, INK, RIGHT, SOFT, UNLABELED, WRONG, ramp

DPI = 160


def portrait(
    path: str | Path,
    points: Sequence[np.ndarray],
    scales: Sequence[np.ndarray],
    predicted: Sequence[Sequence[tuple[str, float]]],
    truth: Sequence[str],
) -> None:
    """What the project does at a glance: scans, their token scales through the blocks, answers.

    Args:
        path: A .png.
        points: A scan a row, each [N, 3], y up.
        scales: Of each scan [L, N].
        predicted: Of each scan its most probable classes with their probabilities.
        truth: The class of each scan.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    blocks = len(scales[0])
    rows, cell = len(points), 1.35
    widths = [1.0, *[1.0] * blocks, 1.45]
    top = float(np.quantile(np.concatenate([s.ravel() for s in scales]), 0.99)) or 1.0
    with rc_context(FONTS):
        figure = Figure(figsize=(cell * sum(widths), cell * 1.08 * rows + 0.75), facecolor="white")
        grid = figure.add_gridspec(
            rows, blocks + 2, width_ratios=widths, left=0.01, right=0.99, wspace=0.06, hspace=0.04,
            top=1 - 0.36 / figure.get_figheight(), bottom=0.4 / figure.get_figheight(),
        )  # fmt: skip
        for row, (cloud, scale, answers, name) in enumerate(
            zip(points, scales, predicted, truth, strict=True)
        ):
            height = ramp("height", _normal(cloud[:, 1]))
            _show(figure.add_subplot(grid[row, 0]), cloud, height, "scan" if row == 0 else "")
            for block, values in enumerate(scale):
                axes = figure.add_subplot(grid[row, 1 + block])
                title = f"block {block + 1}" if row == 0 else ""
                _show(axes, cloud, ramp("scale", values / top), title)
            _answers(figure.add_subplot(grid[row, -1]), answers, name, row == 0)
        _legend(figure, top, widths)
        _save(figure, path)


def draw_sheet(
    path: str | Path, clouds: Sequence[tuple[str, np.ndarray, np.ndarray]], columns: int = 10
) -> None:
    """A contact sheet.

    Args:
        path: A .png.
        clouds: Title, points [N, 3] with y up, and a class for each point, -1 for none.
        columns: Clouds in a row.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    rows = -(-len(clouds) // columns)
    with rc_context(FONTS):
        figure = Figure(figsize=(1.12 * columns, 1.3 * rows), facecolor="white")
        grid = figure.add_gridspec(
            rows, columns, left=0.005, right=0.995, bottom=0.005, top=0.985, wspace=0.04, hspace=0.2
        )
        for i, (title, points, classes) in enumerate(clouds):
            axes = figure.add_subplot(grid[i // columns, i % columns])
            classes = np.asarray(classes, np.int64)
            colors = np.where(
                (classes >= 0)[:, None],
                palette(int(classes.max(initial=0)) + 1)[classes],
                _rgb(UNLABELED),
            )
            _show(axes, np.asarray(points, np.float64), colors, title, pixels=200)
        _save(figure, path, dpi=110)


def _show(axes, cloud: np.ndarray, colors: np.ndarray, title: str, pixels: int = 260) -> None:
    axes.imshow(
        render(cloud, colors.astype(np.uint8), pixels, pixels, Camera()),
        interpolation="antialiased",
    )
    axes.set_axis_off()
    if title:
        axes.set_title(title, fontsize=8, color=SOFT, pad=3)


def _answers(axes, answers: Sequence[tuple[str, float]], truth: str, titled: bool) -> None:
    """Bars of the most probable classes; the true one stands out."""
    axes.set(xlim=(0, 1), ylim=(len(answers) - 0.2, -1.0))
    axes.set_axis_off()
    for i, (name, share) in enumerate(answers):
        color = RIGHT if name == truth else WRONG if i == 0 else "#c9cad0"
        axes.text(0.02, i - 0.08, name, fontsize=7.5, color=INK if i == 0 else SOFT,
                  weight="bold" if i == 0 else "normal", va="bottom")  # fmt: skip
        axes.text(
            0.98, i - 0.08, f"{100 * share:.0f} %", fontsize=7, color=SOFT, ha="right", va="bottom"
        )
        axes.barh(i + 0.1, 0.96, height=0.16, left=0.02, color="#efefeb")
        axes.barh(i + 0.1, 0.96 * share, height=0.16, left=0.02, color=color)
    if titled:
        axes.set_title("prediction", fontsize=8, color=SOFT, pad=3)


def _legend(figure, top: float, widths: Sequence[float]) -> None:
    """What the colors of the scales mean, under their columns."""
    left = widths[0] / sum(widths)
    height = figure.get_figheight()
    axes = figure.add_axes([left + 0.27, 0.2 / height, 0.2, 0.07 / height])
    axes.imshow(ramp("scale", np.linspace(0, 1, 256))[None], aspect="auto", extent=(0, top, 0, 1))
    axes.set_yticks([])
    axes.set_xticks([0, top], ["0", f"{top:.1f}"])
    axes.tick_params(length=0, labelsize=7, labelcolor=SOFT, pad=2)
    axes.spines[:].set_visible(False)
    figure.text(left + 0.255, 0.235 / height, "scale of the dynamic adapter at each token",
                fontsize=7.5, color=SOFT, ha="right", va="center")  # fmt: skip


def _normal(values: np.ndarray) -> np.ndarray:
    return (values - values.min()) / max(np.ptp(values), 1e-12)


def _rgb(text: str) -> np.ndarray:
    return np.array([int(text[at : at + 2], 16) for at in (1, 3, 5)], np.uint8)


def _save(figure, path: str | Path, dpi: int = DPI) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    write_atomically(path, buffer.getvalue())
