"""What a backbone's frozen features are worth: accuracy of a linear probe, against random weights.

    python benchmarks/probe.py --backbone point_mae_tiny

The features are the mean and the maximum over the patches' tokens. The probe is a logistic
regression; its weight decay is chosen on a fifth of the training clouds. Prints JSON.
"""

import argparse
import json
import sys

import torch
import torch.nn.functional as F
from torch import Tensor

import dapt
from dapt.data import PointDataset, load

DECAYS = (1e-4, 1e-3, 1e-2)


@torch.no_grad()
def features(backbone, dataset: PointDataset, batch_size: int = 64) -> tuple[Tensor, Tensor]:
    rows = []
    for begin in range(0, len(dataset), batch_size):
        batch = dataset.batch(range(begin, min(begin + batch_size, len(dataset))))
        tokens = backbone(batch["points"]).patches  # [B, G, C]
        rows.append(torch.cat([tokens.mean(1), tokens.amax(1)], 1))
    return torch.cat(rows), torch.from_numpy(dataset.labels)


def fit(x: Tensor, labels: Tensor, classes: int, decay: float):
    weight = torch.zeros(x.shape[1], classes, requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(x @ weight + bias, labels) + decay * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return lambda x: (x @ weight + bias).argmax(1)


def probe(backbone, train: PointDataset, test: PointDataset) -> float:
    backbone.eval()
    (x, labels), (x_test, labels_test) = features(backbone, train), features(backbone, test)
    mean, deviation = x.mean(0), x.std(0) + 1e-5
    x, x_test = (x - mean) / deviation, (x_test - mean) / deviation
    held = torch.arange(len(x)) % 5 == 4

    def accuracy(decay: float) -> float:
        predict = fit(x[~held], labels[~held], train.num_classes, decay)
        return float((predict(x[held]) == labels[held]).float().mean())

    predict = fit(x, labels, train.num_classes, max(DECAYS, key=accuracy))
    return float((predict(x_test) == labels_test).float().mean())


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
            name: round(probe(backbone, train, test), 4)
            for name, backbone in (("random", random), ("pretrained", trained))
        }
        print(variant, table[variant], file=sys.stderr)
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
