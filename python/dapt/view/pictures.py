"""Pictures for papers and READMEs in one style: a model's view of clouds, and contact sheets."""

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
    """Draw the project at a glance: scans, their token scales in some blocks, and predictions.

    Args:
        path: The .png or .webp file.
        points: One scan [N, 3] per row, with y up.
        scales: The scales of each scan [L, N].
        predicted: The most probable classes of each scan with their probabilities.
        truth: The class of each scan.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    blocks = len(scales[0])
    rows, cell = len(points), 1.35
    widths = [1.0, *[1.0] * blocks, 1.45]
    top = float(np.quantile(np.concatenate([s.ravel() for s in scales]), 0.99)) or 1.0
    with rc_context(FONTS):
        figure = Figure(figsize=(cell * sum(widths), cell * rows + 0.8), facecolor="white")
        high = figure.get_figheight()
        grid = figure.add_gridspec(
            rows, blocks + 2, width_ratios=widths, left=0.01, right=0.99, wspace=0.06, hspace=0.04,
            top=1 - 0.32 / high, bottom=0.48 / high,
        )  # fmt: skip
        axes = [
            [figure.add_subplot(grid[row, i]) for i in range(blocks + 2)] for row in range(rows)
        ]
        for i, title in enumerate(["scan", *[f"block {b + 1}" for b in range(blocks)], "answer"]):
            box = axes[0][i].get_position(original=True)
            at = (box.x0 + box.x1) / 2, 1 - 0.2 / high
            figure.text(*at, title, fontsize=8, color=SOFT, ha="center", va="center")
        for row, (cloud, scale, answers, name) in enumerate(
            zip(points, scales, predicted, truth, strict=True)
        ):
            _show(axes[row][0], cloud, ramp("height", _normal(cloud[:, 1])))
            for block, values in enumerate(scale):
                _show(axes[row][1 + block], cloud, ramp("scale", values / top))
            _answers(axes[row][-1], answers, name)
        _legend(figure, top, axes[0][1], axes[0][-1])
        _save(figure, path)


def draw_sheet(
    path: str | Path, clouds: Sequence[tuple[str, np.ndarray, np.ndarray]], columns: int = 10
) -> None:
    """Draw a contact sheet.

    Args:
        path: The .png or .webp file.
        clouds: For each cloud its title, points [N, 3] with y up, and a class per point, -1 for
            none.
        columns: The number of clouds per row.
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
            _show(axes, np.asarray(points, np.float64), colors, pixels=200)
            axes.set_title(title, fontsize=8, color=SOFT, pad=3)
        _save(figure, path, dpi=110)


def _show(axes, cloud: np.ndarray, colors: np.ndarray, pixels: int = 260) -> None:
    drawn = render(cloud, colors.astype(np.uint8), pixels, pixels, Camera())
    axes.imshow(drawn, interpolation="antialiased")
    axes.set_axis_off()


def _answers(axes, answers: Sequence[tuple[str, float]], truth: str) -> None:
    """Draw bars for the most probable classes and highlight the true one."""
    axes.set(xlim=(0, 1), ylim=(len(answers) + 0.1, -0.9))
    axes.set_axis_off()
    for i, (name, share) in enumerate(answers):
        color = RIGHT if name == truth else WRONG if i == 0 else UNLABELED
        axes.text(0.02, i - 0.08, name, fontsize=7.5, color=INK if i == 0 else SOFT,
                  weight="bold" if i == 0 else "normal", va="bottom")  # fmt: skip
        said = f"{100 * share:.0f} %" if share >= 0.005 else "< 1 %"
        axes.text(0.98, i - 0.08, said, fontsize=7, color=SOFT, ha="right", va="bottom")
        axes.barh(i + 0.1, 0.96, height=0.16, left=0.02, color="#efefeb")
        axes.barh(i + 0.1, 0.96 * share, height=0.16, left=0.02, color=color)


def _legend(figure, top: float, first_block, answers) -> None:
    """Explain the colors under their columns."""
    high = figure.get_figheight()
    left = first_block.get_position(original=True).x0
    y = 0.25 / high
    said = figure.text(left, y, "scale of the dynamic adapter at each token", fontsize=7.5,
                       color=SOFT, va="center")  # fmt: skip
    end = said.get_window_extent().x1 / figure.bbox.width
    axes = figure.add_axes([end + 0.015, y - 0.035 / high, 0.2, 0.07 / high])
    axes.imshow(ramp("scale", np.linspace(0, 1, 256))[None], aspect="auto", extent=(0, top, 0, 1))
    axes.set_yticks([])
    axes.set_xticks([0, top], ["0", f"{top:.1f}"])
    axes.tick_params(length=0, labelsize=7, labelcolor=SOFT, pad=2)
    axes.spines[:].set_visible(False)
    box = answers.get_position(original=True)
    for share, color, meaning in ((0.02, RIGHT, "the true class"), (0.55, WRONG, "taken for it")):
        x = box.x0 + share * box.width
        figure.text(x, y, "\u25a0", fontsize=8, color=color, va="center")
        figure.text(x + 0.07 * box.width, y, meaning, fontsize=7, color=SOFT, va="center")


def _normal(values: np.ndarray) -> np.ndarray:
    return (values - values.min()) / max(np.ptp(values), 1e-12)


def _rgb(text: str) -> np.ndarray:
    return np.array([int(text[at : at + 2], 16) for at in (1, 3, 5)], np.uint8)


def _save(figure, path: str | Path, dpi: int = DPI) -> None:
    buffer = io.BytesIO()
    kind = Path(path).suffix.lstrip(".")
    figure.savefig(buffer, format=kind, dpi=dpi, pil_kwargs={"webp": {"quality": 82}}.get(kind))
    write_atomically(path, buffer.getvalue())
