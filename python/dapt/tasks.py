"""Tasks: the head that a network gets, the loss that it learns by, and how it is scored."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dapt.data.dataset import PointDataset
from dapt.errors import UsageError
from dapt.metrics import ClassScores, PartScores, PointScores, Scores
from dapt.models.heads import ClassificationHead
from dapt.models.segmentation import SegmentationHead, thirds


class Task(ABC):
    """The settings of a task: a frozen dataclass."""

    name: ClassVar[str]
    metric: ClassVar[str]  # of its scores, the one that chooses the best epoch; higher is better
    from_data: ClassVar[frozenset[str]]  # the fields that are known from a dataset
    labels_points: ClassVar[bool] = False  # or else whole clouds
    evaluation_batch: ClassVar[int] = 32

    @classmethod
    @abstractmethod
    def of(cls, dataset: PointDataset, **fields) -> "Task":
        """The task of a training set; `fields` are those that a dataset does not tell."""

    @abstractmethod
    def build_head(self, backbone: nn.Module, head_tokens: Sequence[str]) -> nn.Module:
        """A module called with (features, points, *inputs) that names the `levels` it reads."""

    def inputs(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """What the head is given beside features and points."""
        return ()

    @abstractmethod
    def loss(self, output: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """What training minimises, from the head's output."""

    @abstractmethod
    def scores(self, device: torch.device) -> Scores:
        """Fresh counts."""


def _check_count(name: str, count: int) -> None:
    if count < 1:
        raise UsageError(f"{name} must be at least 1, got {count}")


def _set_names(task: Task, field: str, kind: str, count: int) -> None:
    """The names as a tuple, one for each of `count`."""
    names = getattr(task, field)
    if names is None:
        return
    object.__setattr__(task, field, tuple(names))
    if len(names) != count:
        raise UsageError(f"{field} must name {count} {kind}, got {len(names)}")


def _names(names: Sequence[str] | None, count: int) -> tuple[str, ...]:
    return tuple(map(str, range(count))) if names is None else tuple(names)


@dataclass(frozen=True)
class Classification(Task):
    name: ClassVar[str] = "classification"
    metric: ClassVar[str] = "accuracy"
    from_data: ClassVar[frozenset[str]] = frozenset({"num_classes", "class_names"})

    num_classes: int
    head: str = "point_mae"  # or "point_bert", "linear": whose layers the head has
    dropout: float = 0.5
    label_smoothing: float = 0.0
    class_names: tuple[str, ...] | None = None

    def __post_init__(self):
        _check_count("num_classes", self.num_classes)
        _set_names(self, "class_names", "classes", self.num_classes)

    @classmethod
    def of(cls, dataset: PointDataset, **fields) -> "Classification":
        return cls(dataset.num_classes, class_names=tuple(dataset.class_names), **fields)

    def build_head(self, backbone: nn.Module, head_tokens: Sequence[str]) -> nn.Module:
        if "cls" in head_tokens and not backbone.num_class_tokens:
            raise UsageError("head_tokens: this backbone has no class token, so none can be 'cls'")
        return ClassificationHead(
            backbone.dim, self.num_classes, head_tokens, style=self.head, dropout=self.dropout
        )

    def loss(self, output: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        return F.cross_entropy(output, batch["labels"], label_smoothing=self.label_smoothing)

    def scores(self, device: torch.device) -> Scores:
        return ClassScores(_names(self.class_names, self.num_classes), device)


@dataclass(frozen=True)
class FewShot(Classification):
    """Classification of `way` classes from `shot` clouds of each, in several folds."""

    name: ClassVar[str] = "few_shot"

    way: int = 5
    shot: int = 10
    queries: int = 20  # test clouds of each class
    folds: int = 10
    fold: int | None = None  # the only one to train; all of them by default

    def __post_init__(self):
        super().__post_init__()
        for name in ("way", "shot", "queries", "folds"):
            _check_count(name, getattr(self, name))
        if self.fold is not None and not 0 <= self.fold < self.folds:
            raise UsageError(f"fold must lie in 0 to {self.folds - 1}, got {self.fold}")


@dataclass(frozen=True)
class PartSegmentation(Task):
    """Labels for the points of an object whose category is known."""

    name: ClassVar[str] = "part_segmentation"
    metric: ClassVar[str] = "instance_miou"
    from_data: ClassVar[frozenset[str]] = frozenset(
        {"num_classes", "num_parts", "class_parts", "class_names", "part_names"}
    )
    labels_points: ClassVar[bool] = True
    evaluation_batch: ClassVar[int] = 8

    num_classes: int  # categories
    num_parts: int
    dropout: float = 0.5
    class_parts: tuple[tuple[int, ...], ...] | None = None  # of each category; None: all of them
    class_names: tuple[str, ...] | None = None
    part_names: tuple[str, ...] | None = None

    def __post_init__(self):
        _check_count("num_classes", self.num_classes)
        _check_count("num_parts", self.num_parts)
        _set_names(self, "class_names", "categories", self.num_classes)
        _set_names(self, "part_names", "parts", self.num_parts)
        if self.class_parts is None:
            return
        class_parts = tuple(map(tuple, self.class_parts))
        object.__setattr__(self, "class_parts", class_parts)
        known = range(self.num_parts)
        if len(class_parts) != self.num_classes or not all(class_parts):
            raise UsageError(
                f"class_parts must list the parts of each of {self.num_classes} categories, "
                f"got {class_parts}"
            )
        for part in (part for parts in class_parts for part in parts if part not in known):
            raise UsageError(f"class_parts must lie in 0 to {self.num_parts - 1}, got {part}")

    @classmethod
    def of(cls, dataset: PointDataset, **fields) -> "PartSegmentation":
        _check_has_parts(cls, dataset)
        return cls(
            dataset.num_classes,
            dataset.num_parts,
            class_parts=dataset.class_parts,
            class_names=tuple(dataset.class_names),
            part_names=tuple(dataset.part_names),
            **fields,
        )

    def build_head(self, backbone: nn.Module, head_tokens: Sequence[str]) -> nn.Module:
        levels = thirds(len(backbone.stacks[-1]))
        return SegmentationHead(
            backbone.dim, self.num_parts, levels, self.num_classes, self.dropout
        )

    def inputs(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        return (batch["labels"],)

    def loss(self, output: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        return F.cross_entropy(output.flatten(0, 1), batch["part_labels"].flatten())

    def own_parts(self, device: torch.device) -> Tensor:  # bool [categories, parts]
        own = torch.zeros(self.num_classes, self.num_parts, dtype=torch.bool, device=device)
        for category in range(self.num_classes):
            own[category, ... if self.class_parts is None else self.class_parts[category]] = True
        return own

    def scores(self, device: torch.device) -> Scores:
        return PartScores(_names(self.class_names, self.num_classes), self.own_parts(device))


@dataclass(frozen=True)
class SemanticSegmentation(Task):
    """Labels for the points of a scene."""

    name: ClassVar[str] = "semantic_segmentation"
    metric: ClassVar[str] = "miou"
    from_data: ClassVar[frozenset[str]] = frozenset({"num_classes", "class_weights", "class_names"})
    labels_points: ClassVar[bool] = True
    evaluation_batch: ClassVar[int] = 8

    num_classes: int
    dropout: float = 0.5
    weighted: bool = True  # rare classes count more in the loss
    class_weights: tuple[float, ...] | None = None
    class_names: tuple[str, ...] | None = None

    def __post_init__(self):
        _check_count("num_classes", self.num_classes)
        _set_names(self, "class_names", "classes", self.num_classes)
        _set_names(self, "class_weights", "classes", self.num_classes)

    @classmethod
    def of(cls, dataset: PointDataset, weighted: bool = True, **fields) -> "SemanticSegmentation":
        """The weight of a class is the cube root of how much rarer it is than the commonest."""
        _check_has_parts(cls, dataset)
        weights = None
        if weighted:
            counts = dataset.part_counts().clip(min=1)
            weights = tuple(((counts.max() / counts) ** (1 / 3)).tolist())
        return cls(
            dataset.num_parts,
            weighted=weighted,
            class_weights=weights,
            class_names=tuple(dataset.part_names),
            **fields,
        )

    def build_head(self, backbone: nn.Module, head_tokens: Sequence[str]) -> nn.Module:
        levels = thirds(len(backbone.stacks[-1]))
        return SegmentationHead(backbone.dim, self.num_classes, levels, dropout=self.dropout)

    def loss(self, output: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        weights = None if self.class_weights is None else output.new_tensor(self.class_weights)
        return F.cross_entropy(output.flatten(0, 1), batch["part_labels"].flatten(), weights)

    def scores(self, device: torch.device) -> Scores:
        return PointScores(_names(self.class_names, self.num_classes), device)


def _check_has_parts(task: type[Task], dataset: PointDataset) -> None:
    if not dataset.num_parts:
        raise UsageError(
            f"task '{task.name}' needs a label for each point, and the dataset has none: "
            "an npz file holds them as part_labels [S, N]"
        )


TASKS: dict[str, type[Task]] = {
    task.name: task for task in (Classification, FewShot, PartSegmentation, SemanticSegmentation)
}


def task_class(name: str) -> type[Task]:
    if name not in TASKS:
        raise UsageError(f"unknown task '{name}'; choose from {', '.join(TASKS)}")
    return TASKS[name]
