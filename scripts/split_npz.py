"""Cut an npz dataset in two, a share of every class to be held out: the same for the same seed.
Clouds of one of its `groups`, if it has such, stay together.

    python scripts/split_npz.py clouds.npz --out runs/clouds

writes runs/clouds_train.npz and runs/clouds_validation.npz; with --turn every cloud in a pose of
its own. Arrays with a row for each cloud are cut, others are copied to both.
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
    parser.add_argument("--out", type=Path, help="where to, without `_train.npz`")
    parser.add_argument("--share", type=float, default=0.2, help="of each class, held out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--turn", action="store_true", help="every cloud by a random rotation")
    options = parser.parse_args()
    out = options.out or options.file.with_suffix("")
    with reading(options.file), np.load(options.file, allow_pickle=False) as file:
        arrays, points, labels = dict(file), file["points"], file["labels"]
    if "offsets" in arrays:
        raise DataError(f"{options.file} holds clouds of different lengths, which are not cut here")
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
