"""Cuts a synthetic cloud into patches and draws them: the first thing a point transformer does."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import matplotlib
import torch

import dapt_ext

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402


def knot(N: int) -> torch.Tensor:
    """Points on a trefoil knot's tube: [1, N, 3]."""
    rng = torch.Generator().manual_seed(0)
    t, around = 2 * torch.pi * torch.rand(2, N, generator=rng)
    radius = 2 + torch.cos(3 * t) + 0.35 * torch.cos(around)
    height = torch.sin(3 * t) + 0.35 * torch.sin(around)
    return torch.stack([radius * torch.cos(2 * t), radius * torch.sin(2 * t), height], -1)[None]


def draw(axes, points: torch.Tensor, color, title: str, cmap: str = "tab20") -> None:
    axes.scatter(*points.T, c=color, s=2, cmap=cmap)
    axes.set_title(title, fontsize=9)
    axes.set_box_aspect((3, 3, 1), zoom=1.7)
    axes.set_axis_off()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo-out/patches.png"))
    out = parser.parse_args().out

    points = knot(8192)
    start = time.perf_counter()
    groups = dapt_ext.group(points, num_groups=64, group_size=96)
    milliseconds = 1e3 * (time.perf_counter() - start)
    distance, nearest = dapt_ext.knn(points, groups.centers, 1)
    height = dapt_ext.interpolate(points, groups.centers, groups.centers[..., 2:])
    print(f"group: 8192 points -> 64 patches of 96 points in {milliseconds:.2f} ms")
    print(f"farthest point from its centre: {distance.max().sqrt():.3f}")
    sq_ab, sq_ba = dapt_ext.chamfer(points, groups.centers)
    print(f"chamfer between the cloud and its centres: {sq_ab.mean() + sq_ba.mean():.4f}")

    figure = plt.figure(figsize=(11, 3.2))
    panels = [figure.add_subplot(1, 3, 1 + i, projection="3d") for i in range(3)]
    draw(panels[0], points[0], nearest[0, :, 0] % 20, "nearest of 64 centres (fps, knn)")
    patches = (groups.patches + groups.centers[:, :, None])[0, ::3]  # every third patch
    colors = torch.arange(len(patches)).repeat_interleave(patches.shape[1]) % 20
    draw(panels[1], patches.flatten(0, 1), colors, "every third patch of 96 points (group)")
    draw(panels[2], points[0], height[0, :, 0], "height, interpolated from the centres", "viridis")
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130)
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
