"""Scores of labels, computed from counts that are summed over batches and processes.

Vocabulary: B clouds, N points in each, P labels of points (parts), R categories of objects.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dapt.data.labels import IGNORED


def confusion_matrix(truth: Tensor, predicted: Tensor, labels: int) -> Tensor:
    """Counts [..., true label, predicted label], int64; the last dimension is counted over.

    Args:
        truth: int64 [..., N].
        predicted: int64 [..., N].
        labels: How many there are.
    """
    rows = truth.shape[:-1].numel()
    row = torch.arange(rows, device=truth.device).view(*truth.shape[:-1], 1)
    cells = (row * labels + truth) * labels + predicted
    counts = cells.flatten().bincount(minlength=rows * labels * labels)
    return counts.view(*truth.shape[:-1], labels, labels)


def intersection_over_union(confusion: Tensor) -> Tensor:
    """float64 [..., P]; NaN for a label that is neither there nor predicted.

    Args:
        confusion: [..., P, P].
    """
    hits = confusion.diagonal(dim1=-2, dim2=-1).double()
    return hits / (confusion.sum(-1) + confusion.sum(-2) - hits)


def recall(confusion: Tensor) -> Tensor:
    """The recall of each label, float64 [P]; NaN for a label that does not occur.

    Args:
        confusion: [P, P].
    """
    return confusion.diagonal().double() / confusion.sum(1)


def part_iou(confusion: Tensor, own_parts: Tensor) -> Tensor:
    """Mean IoU over each cloud's own parts, [B]; a part absent and not predicted counts 1.

    Args:
        confusion: [B, P, P].
        own_parts: bool [B, P], the parts of the cloud's category.
    """
    iou = intersection_over_union(confusion).nan_to_num(nan=1.0)
    return (iou * own_parts).sum(1) / own_parts.sum(1)


def _confusion_of_seen(truth: Tensor, predicted: Tensor, seen: Tensor, labels: int) -> Tensor:
    """`confusion_matrix` of the points that are not ignored."""
    spare = torch.where(seen, truth, labels)  # an extra label, which is cut off again
    return confusion_matrix(spare, predicted, labels + 1)[..., :labels, :labels]


class Scores(ABC):
    """Counts from which the scores of a split follow; `counts` can be summed over processes.

    `clouds` is what each cloud contributes, [B] for every batch in turn, for significance tests,
    and `each` is its name. Scores without them are not tested.
    """

    counts: dict[str, Tensor]
    clouds: Sequence[Tensor] = ()
    each = "accuracy"

    @abstractmethod
    def update(self, logs: Tensor, batch: Mapping[str, Tensor]) -> None:
        """Count a batch.

        Args:
            logs: The log-probabilities.
            batch: The batch, with the true labels.
        """

    @property
    @abstractmethod
    def samples(self) -> int:
        """The number of clouds counted."""

    @abstractmethod
    def summary(self) -> dict[str, float]:
        """The scores of the whole split."""

    @abstractmethod
    def per_class(self) -> list[dict]:
        """One row per class; None if it does not occur."""


def _known_mean(values: Tensor) -> float:
    """The mean of the values that are not NaN; 0 if there are none."""
    known = values[~values.isnan()]
    return float(known.mean()) if len(known) else 0.0


def _or_none(values: Tensor) -> list[float | None]:
    return [None if value != value else value for value in values.tolist()]


class ClassScores(Scores):
    """Accuracy of labels of clouds.

    Args:
        names: The names of the classes.
        device: Where counts are kept.
    """

    def __init__(self, names: Sequence[str], device: torch.device):
        self.names, self.clouds = names, []
        self.counts = {
            "confusion": torch.zeros(len(names), len(names), dtype=torch.int64, device=device),
            "loss": torch.zeros((), dtype=torch.float64, device=device),
        }

    def update(self, logs: Tensor, batch: Mapping[str, Tensor]) -> None:  # logs: [B, classes]
        labels = batch["labels"]
        self.counts["loss"] += F.nll_loss(logs, labels, reduction="sum").double()
        predicted = logs.argmax(1)
        self.counts["confusion"] += confusion_matrix(labels, predicted, len(self.names))
        self.clouds.append((predicted == labels).double())

    @property
    def samples(self) -> int:
        return int(self.counts["confusion"].sum())

    def summary(self) -> dict[str, float]:
        confusion = self.counts["confusion"]
        return {
            "accuracy": float(confusion.trace()) / max(self.samples, 1),
            "mean_class_accuracy": _known_mean(recall(confusion)),
            "loss": float(self.counts["loss"]) / max(self.samples, 1),
        }

    def per_class(self) -> list[dict]:
        confusion = self.counts["confusion"]
        columns = confusion.sum(1).tolist(), _or_none(recall(confusion))
        return [
            {"class": name, "samples": count, "accuracy": accuracy}
            for name, count, accuracy in zip(self.names, *columns, strict=True)
        ]


class PointScores(Scores):
    """Intersection over union of labels of points, over the points of all clouds together.

    Args:
        names: The names of the labels.
        device: Where counts are kept.
    """

    def __init__(self, names: Sequence[str], device: torch.device):
        self.names, self.clouds = names, []
        self.counts = {
            "confusion": torch.zeros(len(names), len(names), dtype=torch.int64, device=device),
            "loss": torch.zeros((), dtype=torch.float64, device=device),
            "samples": torch.zeros((), dtype=torch.int64, device=device),
        }

    def update(self, logs: Tensor, batch: Mapping[str, Tensor]) -> None:  # logs: [B, N, P]
        seen = batch["part_labels"] != IGNORED  # [B, N]
        right = (logs.argmax(2) == batch["part_labels"]) & seen
        self.clouds.append(right.sum(1) / seen.sum(1).clamp_min(1).double())
        truth = batch["part_labels"].flatten()
        logs, truth = logs.flatten(0, 1)[truth != IGNORED], truth[truth != IGNORED]
        self.counts["loss"] += F.nll_loss(logs, truth, reduction="sum").double()
        self.counts["confusion"] += confusion_matrix(truth, logs.argmax(1), len(self.names))
        self.counts["samples"] += len(batch["part_labels"])

    @property
    def samples(self) -> int:
        return int(self.counts["samples"])

    def summary(self) -> dict[str, float]:
        confusion = self.counts["confusion"]
        points = max(float(confusion.sum()), 1.0)
        return {
            "miou": _known_mean(intersection_over_union(confusion)),
            "accuracy": float(confusion.trace()) / points,
            "mean_class_accuracy": _known_mean(recall(confusion)),
            "loss": float(self.counts["loss"]) / points,
        }

    def per_class(self) -> list[dict]:
        confusion = self.counts["confusion"]
        columns = (
            confusion.sum(1).tolist(),
            _or_none(intersection_over_union(confusion)),
            _or_none(recall(confusion)),
        )
        return [
            {"class": name, "points": count, "iou": iou, "accuracy": accuracy}
            for name, count, iou, accuracy in zip(self.names, *columns, strict=True)
        ]


class PartScores(Scores):
    """The usual scores of part segmentation: a cloud's points get parts of its own category only.

    instance_miou: mean over clouds of `part_iou`; class_miou: mean over categories of the mean over
    their clouds.

    Args:
        names: The names of the categories.
        own_parts: bool [R, P], which parts each of them has.
    """

    each = "instance_miou"

    def __init__(self, names: Sequence[str], own_parts: Tensor):
        self.names, self.own_parts, self.clouds = names, own_parts, []
        device = own_parts.device
        self.counts = {
            "iou": torch.zeros(len(names), dtype=torch.float64, device=device),
            "samples": torch.zeros(len(names), dtype=torch.int64, device=device),
            "right": torch.zeros(len(names), dtype=torch.int64, device=device),
            "points": torch.zeros(len(names), dtype=torch.int64, device=device),
            "loss": torch.zeros((), dtype=torch.float64, device=device),
        }

    def update(self, logs: Tensor, batch: Mapping[str, Tensor]) -> None:  # logs: [B, N, P]
        categories, truth = batch["labels"], batch["part_labels"]
        own = self.own_parts[categories]  # [B, P]
        predicted = logs.masked_fill(~own[:, None], -torch.inf).argmax(2)  # [B, N]
        seen = truth != IGNORED  # [B, N]
        confusion = _confusion_of_seen(truth, predicted, seen, logs.shape[2])  # [B, P, P]
        right = ((predicted == truth) & seen).sum(1)
        counts = self.counts
        self.clouds.append(part_iou(confusion, own))
        counts["iou"].index_add_(0, categories, self.clouds[-1])
        counts["samples"].index_add_(0, categories, torch.ones_like(categories))
        counts["right"].index_add_(0, categories, right)
        counts["points"].index_add_(0, categories, seen.sum(1))
        counts["loss"] += F.nll_loss(
            logs.flatten(0, 1), truth.flatten(), ignore_index=IGNORED, reduction="sum"
        ).double()

    @property
    def samples(self) -> int:
        return int(self.counts["samples"].sum())

    def summary(self) -> dict[str, float]:
        counts = self.counts
        points = max(float(counts["points"].sum()), 1.0)
        return {
            "instance_miou": float(counts["iou"].sum()) / max(self.samples, 1),
            "class_miou": _known_mean(counts["iou"] / counts["samples"]),
            "accuracy": float(counts["right"].sum()) / points,
            "loss": float(counts["loss"]) / points,
        }

    def per_class(self) -> list[dict]:
        counts = self.counts
        columns = (
            counts["samples"].tolist(),
            _or_none(counts["iou"] / counts["samples"]),
            _or_none(counts["right"].double() / counts["points"]),
        )
        return [
            {"class": name, "samples": count, "miou": miou, "accuracy": accuracy}
            for name, count, miou, accuracy in zip(self.names, *columns, strict=True)
        ]
