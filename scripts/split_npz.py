"""Splits an npz dataset in two, holding out a share of every class, reproducibly by seed.

    python scripts/split_npz.py clouds.npz --out runs/clouds

writes runs/clouds_train.npz and runs/clouds_validation.npz; with --turn, every cloud is rotated at
random. If the file has `groups`, clouds of one group stay together. Arrays with one row per cloud
are split, others are copied to both files.
"""

import argparse
import io
import sys
from pathlib import Path

import numpy as np
import torch

from dapt.data import stratified
from dapt.data.transforms import RotateFreely
from dapt.errors import DaptError, DataError, reading
from dapt.files import write_atomically


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--out", type=Path, help="path of the results, without `_train.npz`")
    parser.add_argument("--share", type=float, default=0.2, help="share of each class to hold out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--turn", action="store_true", help="rotate every cloud at random")
    options = parser.parse_args()
    out = options.out or options.file.with_suffix("")
    with reading(options.file), np.load(options.file, allow_pickle=False) as file:
        arrays, points, labels = dict(file), file["points"], file["labels"]
    if "offsets" in arrays:
        raise DataError(
            f"{options.file} holds clouds of different lengths, which this script cannot split"
        )
    if options.turn:
        generator = torch.Generator().manual_seed(options.seed)
        turned = RotateFreely()(torch.from_numpy(points).float(), generator).numpy()
        arrays["points"] = turned.astype(np.result_type(points, np.float16))
    held = stratified(labels, options.share, options.seed, arrays.get("groups"))
    out.parent.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", ~held), ("validation", held)):
        path = out.with_name(f"{out.name}_{name}.npz")
        cut = {k: v[rows] if v.shape[:1] == held.shape else v for k, v in arrays.items()}
        buffer = io.BytesIO()
        np.savez(buffer, **cut)
        write_atomically(path, buffer.getvalue())
        print(f"{path}: {rows.sum()} clouds")


if __name__ == "__main__":
    try:
        main()
    except DaptError as error:
        sys.exit(f"split_npz.py: {error}")
