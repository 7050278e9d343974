"""What a model is worth: every sample of a split once, its metrics and its table of classes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from dapt.data import BatchSampler, PointDataset, loader
from dapt.data.transforms import Compose, FarthestPoints, RandomPoints, Scale
from dapt.distributed import sum_over_processes


@dataclass(frozen=True)
class Scores:
    """confusion: [true, predicted] counts, int64. loss: mean cross-entropy of the samples."""

    confusion: Tensor
    loss: float

    @property
    def samples(self) -> int:
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        return float(self.confusion.trace()) / max(self.samples, 1)

    @property
    def class_accuracies(self) -> list[float | None]:
        """None for a class without a sample."""
        totals, right = self.confusion.sum(1).tolist(), self.confusion.diagonal().tolist()
        return [r / n if n else None for r, n in zip(right, totals, strict=True)]

    @property
    def mean_class_accuracy(self) -> float:
        known = [accuracy for accuracy in self.class_accuracies if accuracy is not None]
        return sum(known) / max(len(known), 1)

    def summary(self) -> dict[str, float]:
        return {
            "accuracy": self.accuracy,
            "mean_class_accuracy": self.mean_class_accuracy,
            "loss": self.loss,
        }

    def per_class(self, names: Sequence[str]) -> list[dict]:
        counts = self.confusion.sum(1).tolist()
        return [
            {"class": name, "samples": count, "accuracy": accuracy}
            for name, count, accuracy in zip(names, counts, self.class_accuracies, strict=True)
        ]


def reduction(num_points: int | None) -> Compose:
    """What a cloud goes through before a network sees it, outside training."""
    return Compose([] if num_points is None else [FarthestPoints(num_points)])


def test_batches(dataset: PointDataset, batch_size: int, fabric: Fabric) -> Iterable[dict]:
    """This process's share of the samples, each of which one process has."""
    per_step = batch_size * fabric.world_size
    sampler = BatchSampler(
        len(dataset),
        per_step,
        shuffle=False,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
    )
    for batch in loader(dataset, sampler):
        if len(batch["labels"]):
            yield {key: values.to(fabric.device) for key, values in batch.items()}


@torch.no_grad()
def classify(
    model: nn.Module,
    dataset: PointDataset,
    fabric: Fabric,
    num_points: int | None,
    batch_size: int = 32,
    votes: int = 1,
    seed: int = 0,
) -> Scores:
    """Scores of a classifier; the mean probability of `votes` views where there are several."""
    classes = dataset.num_classes
    confusion = torch.zeros(classes, classes, dtype=torch.int64, device=fabric.device)
    loss = torch.zeros((), dtype=torch.float64, device=fabric.device)
    generator = torch.Generator().manual_seed(seed)
    was_training = model.training
    model.eval()
    for batch in test_batches(dataset, batch_size, fabric):
        labels = batch["labels"]
        with fabric.autocast():
            logs = log_probabilities(model, batch["points"], num_points, votes, generator)
        loss += F.nll_loss(logs, labels, reduction="sum").double()
        cells = labels * classes + logs.argmax(1)
        confusion += cells.bincount(minlength=classes * classes).view(classes, classes)
    model.train(was_training)
    confusion, loss = sum_over_processes(fabric, confusion), sum_over_processes(fabric, loss)
    return Scores(confusion.cpu(), float(loss) / max(int(confusion.sum()), 1))


def log_probabilities(
    model: nn.Module, points: Tensor, num_points: int | None, votes: int, generator
) -> Tensor:  # [B, classes]
    """The first view is the cloud as it is; the others are random choices of it, rescaled."""
    total = model(reduction(num_points)(points, None)).float().softmax(1)
    wanted = points.shape[1] if num_points is None else num_points
    another_view = Compose([RandomPoints(wanted), Scale(0.8, 1.2, per_axis=False)])
    for _ in range(votes - 1):
        total += model(another_view(points, generator)).float().softmax(1)
    return (total / votes).log()


# by the task's name: called as `classify` is, gives what has its summary() and per_class()
SCORES = {"classification": classify}
