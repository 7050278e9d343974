"""Judge a backbone's frozen features by the accuracy of a linear probe."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dapt.data import PointDataset
from dapt.inference.score import reduction
from dapt.progress import watched

DECAYS = (1e-4, 1e-3, 1e-2)


def linear_probe(
    backbone: nn.Module,
    train: PointDataset,
    test: PointDataset,
    num_points: int | None = None,
    batch_size: int = 64,
) -> float:
    """The accuracy of a logistic regression on the mean and maximum of the patches' tokens.

    Its weight decay is chosen on a fifth of the training clouds.

    Args:
        backbone: The backbone, whose mode is restored afterward.
        train: The data to fit on.
        test: The data to score on.
        num_points: The number of points per cloud that the network reads; None for all.
        batch_size: The number of clouds per batch.
    """
    was_training = backbone.training
    backbone.eval()
    x, labels = features(backbone, train, num_points, batch_size)
    x_test, labels_test = features(backbone, test, num_points, batch_size)
    backbone.train(was_training)
    mean, deviation = x.mean(0), x.std(0) + 1e-5
    x, x_test = (x - mean) / deviation, (x_test - mean) / deviation
    held = torch.arange(len(x), device=x.device) % 5 == 4

    def accuracy(decay: float) -> float:
        predict = _fit(x[~held], labels[~held], train.num_classes, decay)
        return float((predict(x[held]) == labels[held]).float().mean())

    predict = _fit(x, labels, train.num_classes, max(DECAYS, key=accuracy))
    return float((predict(x_test) == labels_test).float().mean())


@torch.no_grad()
def features(
    backbone: nn.Module, dataset: PointDataset, num_points: int | None, batch_size: int
) -> tuple[Tensor, Tensor]:  # [S, 2 C], [S]
    """The mean and maximum of each cloud's tokens [S, 2 C], and its label [S].

    Args:
        backbone: The backbone, in eval mode.
        dataset: A labeled dataset.
        num_points: The number of points per cloud that the network reads; None for all.
        batch_size: The number of clouds per batch.
    """
    device = next(backbone.parameters()).device
    rows, labels = [], []
    begins = range(0, len(dataset), batch_size)
    for begin in watched(begins, "linear probe", len(begins)):
        batch = dataset.batch(range(begin, min(begin + batch_size, len(dataset))))
        points = reduction(num_points)(batch["points"].to(device), None)
        tokens = backbone(points).patches  # [B, G, C]
        rows.append(torch.cat([tokens.mean(1), tokens.amax(1)], 1).float())
        labels.append(batch["labels"].to(device))
    return torch.cat(rows), torch.cat(labels)


@torch.enable_grad()
def _fit(x: Tensor, labels: Tensor, classes: int, decay: float):
    weight = x.new_zeros(x.shape[1], classes, requires_grad=True)
    bias = x.new_zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(x @ weight + bias, labels) + decay * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return lambda x: (x @ weight + bias).argmax(1)
