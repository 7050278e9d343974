"""Pictures of clouds: what a model says of them, and where its adapters turn themselves up."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

ELEVATION, AZIMUTH = 20, -50  # degrees, from where clouds are seen; y is up


def draw_cloud(axes, points, colors="0.4", size: float = 1.5, **scatter):
    """Points [N, 3] with y up, seen from the side of the camera."""
    x, y, z = np.asarray(points).T
    drawn = axes.scatter(x, -z, y, c=colors, s=size, linewidths=0, **scatter)
    axes.view_init(ELEVATION, AZIMUTH)
    axes.set_box_aspect(np.ptp([x, z, y], axis=1) + 1e-6, zoom=1.3)
    axes.set_axis_off()
    return drawn


def draw_predictions(
    path: str | Path,
    points: Tensor,  # [B, N, 3]
    scales: Tensor,  # [B, N]
    labels: Sequence[str],
    predicted: Sequence[tuple[str, float]],
    title: str = "",
) -> None:
    """Each cloud by its scales, with its true label, the predicted one and how sure that is."""
    from matplotlib.figure import Figure

    columns = min(len(points), 5)
    rows = -(-len(points) // columns)
    figure = Figure(figsize=(2.3 * columns + 0.8, 2.35 * rows + 0.3), layout="constrained")
    low, high = 0.0, float(scales.quantile(0.98)) or 1.0  # stray points have extreme ones
    panels = []
    for i, (cloud, scale) in enumerate(zip(points, scales, strict=True)):
        axes = figure.add_subplot(rows, columns, i + 1, projection="3d")
        drawn = draw_cloud(axes, cloud, scale, size=5, cmap="viridis", vmin=low, vmax=high)
        name, probability = predicted[i]
        right = name == labels[i]
        said = f"{name} {probability:.0%}" if right else f"{name} {probability:.0%}, is {labels[i]}"
        axes.set_title(said, fontsize=9, color="black" if right else "crimson", y=0.98)
        panels.append(axes)
    bar = figure.colorbar(drawn, ax=panels, shrink=0.6, aspect=30, pad=0.01)
    bar.set_label("scale of the dynamic adapter at each token", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    if title:
        figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=130)


def draw_sheet(
    path: str | Path, clouds: Sequence[tuple[str, Tensor, object]], columns: int = 10
) -> None:
    """A contact sheet of (title, points [N, 3], colors)."""
    from matplotlib.figure import Figure

    rows = -(-len(clouds) // columns)
    figure = Figure(figsize=(1.35 * columns, 1.5 * rows))
    for i, (title, points, colors) in enumerate(clouds):
        axes = figure.add_subplot(rows, columns, i + 1, projection="3d")
        draw_cloud(axes, points, colors, size=0.8, cmap="tab10", vmin=0, vmax=9)
        axes.set_title(title, fontsize=7, y=0.95)
    figure.subplots_adjust(0.0, 0.0, 1.0, 0.975, wspace=0.0, hspace=0.12)
    figure.savefig(path, dpi=80)
