"""Labels by a rule, for a scan of a room that has none: floor, level, upright, cluttered.

    python scripts/label_by_rule.py scans.npz --cloud scannet_room --out runs/room

writes runs/room/{train,test}/room.npz, the parts of the room before and behind a line across it,
and classes.txt: a dataset `scenes` for trying segmentation out. z is up.
"""

import argparse
import io
from pathlib import Path

import numpy as np
import torch

import dapt_ext
from dapt.errors import reading
from dapt.files import write_atomically

NAMES = ("floor", "level", "upright", "cluttered")
FLOOR = 0.08  # above the lowest points, in the unit of the scan
FLAT = 0.05  # share of the variance of 24 neighbors that a flat place has across its plane


def labels_of(points: np.ndarray) -> np.ndarray:  # [N, 3] -> [N]
    """By the height of a point and the plane through its neighbors."""
    cloud = torch.from_numpy(points.astype(np.float32))[None]
    _, near = dapt_ext.knn(cloud, cloud, 24)  # [1, N, 24]
    around = dapt_ext.gather(cloud, near.flatten(1)).view(len(points), 24, 3).double()
    around -= around.mean(1, keepdim=True)
    spread, axes = torch.linalg.eigh(around.mT @ around)  # ascending
    normal = axes[..., 0].abs().numpy()
    is_flat = (spread[:, 0] / spread.sum(1)).numpy() < FLAT
    labels = np.full(len(points), 3)
    labels[is_flat & (normal[:, 2] < 0.35)] = 2
    labels[is_flat & (normal[:, 2] > 0.85)] = 1
    labels[points[:, 2] < np.quantile(points[:, 2], 0.01) + FLOOR] = 0
    return labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="an .npz with a cloud [N, 3]")
    parser.add_argument("--cloud", default="points", help="its name in the file")
    parser.add_argument("--out", type=Path, required=True, help="a folder")
    options = parser.parse_args()
    with reading(options.file), np.load(options.file, allow_pickle=False) as file:
        points = file[options.cloud].astype(np.float64)
    labels = labels_of(points)
    line = np.quantile(points[:, 0], 0.7)
    for split, kept in (("train", points[:, 0] < line), ("test", points[:, 0] >= line)):
        buffer = io.BytesIO()
        np.savez(buffer, points=points[kept].astype(np.float32), labels=labels[kept])
        (options.out / split).mkdir(parents=True, exist_ok=True)
        write_atomically(options.out / split / "room.npz", buffer.getvalue())
    write_atomically(options.out / "train" / "classes.txt", "\n".join((*NAMES, "")).encode())
    shares = np.bincount(labels, minlength=len(NAMES)) / len(labels)
    told = ", ".join(f"{name} {share:.0%}" for name, share in zip(NAMES, shares, strict=True))
    print(f"{options.out}: {told}")


if __name__ == "__main__":
    main()
