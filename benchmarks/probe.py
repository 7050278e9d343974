"""What a backbone's pre-training is worth: a linear probe on it and on random weights.

    python benchmarks/probe.py --backbone point_mae_tiny
    python benchmarks/probe.py --clouds train.npz test.npz --up z    # on your own clouds
    python benchmarks/probe.py --variants hardest --untrained    # also below an untrained DAPT

Prints JSON.
"""

import argparse
import json
import sys

import torch

import dapt
from dapt.data import load
from dapt.inference.probe import linear_probe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="point_mae_tiny")
    parser.add_argument("--checkpoint", default="shipped")
    parser.add_argument("--variants", default="only,bg,hardest", help="variants of built-in scans")
    parser.add_argument("--clouds", nargs=2, metavar=("TRAIN", "TEST"), help="npz files to use")
    parser.add_argument("--up", default="y", help="the clouds' vertical axis")
    parser.add_argument("--untrained", action="store_true", help="also below an untrained DAPT")
    options = parser.parse_args()
    if options.clouds:
        fields = dict(zip(("train", "test"), options.clouds, strict=True)) | {"up": options.up}
        sets = {"clouds": ("npz", fields)}
    else:
        sizes = {"num_points": 1024, "train_size": 1500, "test_size": 900}
        variants = options.variants.split(",")
        sets = {variant: ("synthetic", {"variant": variant} | sizes) for variant in variants}
    table = {}
    for title, (name, fields) in sets.items():
        train, test = (load(name, fields, split) for split in ("train", "test"))
        torch.manual_seed(0)
        random = dapt.create_backbone(options.backbone, "none")
        trained = dapt.create_backbone(options.backbone, checkpoint=options.checkpoint)
        networks = {"random": random, "pretrained": trained}
        for positions in ("once", "each_block") if options.untrained else ():
            torch.manual_seed(0)
            backbone = dapt.create_backbone(options.backbone, checkpoint=options.checkpoint)
            method = dapt.Dapt(dropout=0.0, drop_path=0.0, positions=positions)
            model = dapt.attach(backbone, method, dapt.Classification(train.num_classes))
            networks[f"untrained DAPT, positions {positions}"] = model.backbone
        table[title] = {
            weights: round(linear_probe(network, train, test), 4)
            for weights, network in networks.items()
        }
        print(title, table[title], file=sys.stderr)
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
