"""What a backbone's pre-training is worth: a linear probe on it and on random weights.

    python benchmarks/probe.py --backbone point_mae_tiny

Prints JSON.
"""

import argparse
import json
import sys

import torch

import dapt
from dapt.data import load
from dapt.probe import linear_probe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="point_mae_tiny")
    parser.add_argument("--checkpoint", default="shipped")
    parser.add_argument("--variants", default="only,bg,hardest", help="of the scan task")
    options = parser.parse_args()
    table = {}
    for variant in options.variants.split(","):
        data = {"variant": variant, "num_points": 1024, "train_size": 1500, "test_size": 900}
        train, test = (load("synthetic", data, split) for split in ("train", "test"))
        torch.manual_seed(0)
        random = dapt.create_backbone(options.backbone)
        trained = dapt.create_backbone(options.backbone, checkpoint=options.checkpoint)
        table[variant] = {
            name: round(linear_probe(backbone, train, test), 4)
            for name, backbone in (("random", random), ("pretrained", trained))
        }
        print(variant, table[variant], file=sys.stderr)
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
