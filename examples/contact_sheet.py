"""Draws the built-in world: one object of every family, and scans of the three variants."""

import argparse
from pathlib import Path

import numpy as np

from dapt.data import load
from dapt.synthetic import FAMILIES
from dapt.view.pictures import draw_sheet

SCANNED = ("chair", "table", "sofa", "toilet")


def cloud(families: str, **options):
    options = {"families": families, "train_size": 1, "num_points": 1500, **options}
    points, parts = load("synthetic", options, "train").make(0)
    return points, parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/images/synthetic.webp"))
    parser.add_argument("--npz", type=Path, help="also write the objects to a file for `dapt view`")
    options = parser.parse_args()
    out = options.out
    sheet = []
    for name in sorted(FAMILIES):
        points, parts = cloud(name, domain="clean")
        sheet.append((name.replace("_", " "), points, parts))
    if options.npz:
        names = [name for name, *_ in sheet]
        points = np.stack([points for _, points, _ in sheet])
        np.savez(options.npz, points=points, labels=np.arange(len(names)), class_names=names)
    for variant in ("only", "bg", "hardest"):
        for name in SCANNED:
            points, parts = cloud(name, variant=variant)
            sheet.append((f"{name}, {variant}", points, parts))
    out.parent.mkdir(parents=True, exist_ok=True)
    draw_sheet(out, sheet, columns=10)
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
