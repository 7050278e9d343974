"""Labels for whole clouds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dapt.data import PointDataset
from dapt.errors import UsageError, check_at_least, check_rates
from dapt.tasks.heads import ClassificationHead
from dapt.tasks.metrics import ClassScores, Scores
from dapt.tasks.task import Task, names_or_numbers, set_names


@dataclass(frozen=True)
class Classification(Task):
    """One label for a whole cloud.

    Args:
        num_classes: The number of classes.
        head: The paper whose head is used: point_mae, point_bert, ppt or linear.
        dropout: The dropout rate in the head.
        label_smoothing: The share of a label that is spread over all classes.
        class_names: The names of the classes; numbers by default.
    """

    name: ClassVar[str] = "classification"
    metric: ClassVar[str] = "accuracy"
    from_data: ClassVar[frozenset[str]] = frozenset({"num_classes", "class_names"})

    num_classes: int
    head: str = "point_mae"
    dropout: float = 0.5
    label_smoothing: float = 0.0
    class_names: tuple[str, ...] | None = None

    def __post_init__(self):
        check_at_least(self, num_classes=1)
        check_rates(self, "dropout", "label_smoothing")
        set_names(self, "class_names", "classes", self.num_classes)

    @property
    def label_names(self) -> tuple[str, ...]:
        return names_or_numbers(self.class_names, self.num_classes)

    @classmethod
    def of(cls, dataset: PointDataset, **fields) -> "Classification":
        return cls(dataset.num_classes, class_names=tuple(dataset.class_names), **fields)

    def build_head(self, backbone: nn.Module, head_tokens: Sequence[str]) -> nn.Module:
        if "cls" in head_tokens and getattr(backbone, "cls_token", None) is None:
            raise UsageError("head_tokens: this backbone has no class token, so none can be 'cls'")
        return ClassificationHead(
            backbone.dim, self.num_classes, head_tokens, style=self.head, dropout=self.dropout
        )

    def loss(self, output: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        return F.cross_entropy(output, batch["labels"], label_smoothing=self.label_smoothing)

    def scores(self, device: torch.device) -> Scores:
        return ClassScores(self.label_names, device)


@dataclass(frozen=True)
class FewShot(Classification):
    """Classification of `way` classes from `shot` clouds of each, in several folds.

    Args:
        way: Classes per episode.
        shot: Training clouds per class.
        queries: Test clouds per class.
        folds: Number of episodes, each a separate run.
        fold: The only fold to train; all of them by default.
    """

    name: ClassVar[str] = "few_shot"

    way: int = 5
    shot: int = 10
    queries: int = 20
    folds: int = 10
    fold: int | None = None

    def __post_init__(self):
        super().__post_init__()
        check_at_least(self, way=1, shot=1, queries=1, folds=1)
        if self.fold is not None and not 0 <= self.fold < self.folds:
            raise UsageError(f"fold must lie in 0 to {self.folds - 1}, got {self.fold}")
