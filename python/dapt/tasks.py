"""Tasks: the head that a network gets and the loss that it learns by."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from dapt.errors import UsageError
from dapt.models.heads import ClassificationHead


class Task(ABC):
    """The settings of a task: a frozen dataclass."""

    name: ClassVar[str]
    metric: ClassVar[str]  # of its scores, the one that chooses the best epoch; higher is better

    @abstractmethod
    def build_head(self, backbone: nn.Module, head_tokens: Sequence[str]) -> nn.Module:
        """A module called with (features, points, *inputs) that names the `levels` it reads."""

    @abstractmethod
    def loss(self, output: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """What training minimises, from the head's output."""


@dataclass(frozen=True)
class Classification(Task):
    name: ClassVar[str] = "classification"
    metric: ClassVar[str] = "accuracy"

    num_classes: int
    head: str = "point_mae"  # or "point_bert", "linear": whose layers the head has
    dropout: float = 0.5
    label_smoothing: float = 0.0
    class_names: tuple[str, ...] | None = None

    def __post_init__(self):
        if self.num_classes < 1:
            raise UsageError(f"num_classes must be at least 1, got {self.num_classes}")
        if self.class_names is None:
            return
        object.__setattr__(self, "class_names", tuple(self.class_names))
        if len(self.class_names) != self.num_classes:
            raise UsageError(
                f"class_names must name {self.num_classes} classes, got {len(self.class_names)}"
            )

    def build_head(self, backbone: nn.Module, head_tokens: Sequence[str]) -> nn.Module:
        if "cls" in head_tokens and not backbone.num_class_tokens:
            raise UsageError("head_tokens: this backbone has no class token, so none can be 'cls'")
        return ClassificationHead(
            backbone.dim, self.num_classes, head_tokens, style=self.head, dropout=self.dropout
        )

    def loss(self, output: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        return F.cross_entropy(output, batch["labels"], label_smoothing=self.label_smoothing)


TASKS: dict[str, type[Task]] = {task.name: task for task in (Classification,)}


def task_class(name: str) -> type[Task]:
    if name not in TASKS:
        raise UsageError(f"unknown task '{name}'; choose from {', '.join(TASKS)}")
    return TASKS[name]
