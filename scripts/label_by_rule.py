"""Labels an unlabeled scan of a room by a simple rule: floor, level, upright, cluttered.

    python scripts/label_by_rule.py scans.npz --cloud scannet_room --out runs/room

writes runs/room/{train,test}/room.npz, the parts of the room on either side of a line across it,
and classes.txt, which together are a `scenes` dataset for trying out segmentation. z is up.
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
FLOOR = 0.08  # height of the floor above the lowest points, in the scan's unit
FLAT = 0.05  # a place is flat if less of its 24 neighbors' variance is across their plane


def labels_of(points: np.ndarray) -> np.ndarray:  # [N, 3] -> [N]
    """Labels points by their height and by the plane through their neighbors."""
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
    parser.add_argument("--cloud", default="points", help="the name of the cloud in the file")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write to")
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
