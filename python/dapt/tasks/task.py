"""A task: the head of a network, its loss and its scores."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from dapt.data import PointDataset
from dapt.data.labels import check_distinct
from dapt.errors import UsageError
from dapt.models import Features
from dapt.tasks.metrics import Scores


class Head(Protocol):
    """The module that turns a backbone's features into logits.

    Attributes:
        levels: The blocks whose tokens it reads beside those of the last one.
    """

    levels: Sequence[int]

    def __call__(self, features: Features, points: Tensor, *inputs: Tensor) -> Tensor:
        """Logits [B, classes] of the clouds, or [B, N, labels] of the points [B, N, 3]."""
        ...


class Task(ABC):
    """The settings of a task: a frozen dataclass."""

    name: ClassVar[str]
    metric: ClassVar[str]  # the score that chooses the best epoch; higher is better
    from_data: ClassVar[frozenset[str]]  # the fields that a dataset determines
    labels_points: ClassVar[bool] = False  # otherwise it labels whole clouds
    evaluation_batch: ClassVar[int] = 32

    @property
    @abstractmethod
    def label_names(self) -> tuple[str, ...]:
        """The names of the head's logits."""

    @classmethod
    @abstractmethod
    def of(cls, dataset: PointDataset, **fields) -> "Task":
        """Make the task for a training set; `fields` are those that a dataset does not determine.

        Args:
            dataset: The training set.
            fields: Settings of the task.
        """

    @abstractmethod
    def build_head(self, backbone: nn.Module, head_tokens: Sequence[str]) -> Head:
        """Build the head for this task on a backbone.

        Args:
            backbone: The backbone whose features it reads.
            head_tokens: The tokens that a head for whole clouds reads, by the names of `Pool`.
        """

    def inputs(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """The inputs of the head besides features and points.

        Args:
            batch: The batch of a dataset.
        """
        return ()

    @abstractmethod
    def loss(self, output: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """The loss, computed from the head's output.

        Args:
            output: The output of the head.
            batch: The batch of a dataset.
        """

    @abstractmethod
    def scores(self, device: torch.device) -> Scores:
        """New, empty scores.

        Args:
            device: Where to count.
        """


def names_or_numbers(names: Sequence[str] | None, count: int) -> tuple[str, ...]:
    """The names, or "0", "1" and so on if there are none.

    Args:
        names: The names of the labels.
        count: How many labels there are.
    """
    return tuple(map(str, range(count))) if names is None else tuple(names)


def set_names(task: Task, field: str, kind: str, count: int) -> None:
    """Make the names of a task a tuple, and check their number.

    Args:
        task: In its making.
        field: The field of the names.
        kind: of what they name, for the error.
        count: How many there must be.
    """
    names = getattr(task, field)
    if names is None:
        return
    object.__setattr__(task, field, tuple(names))
    if len(names) != count:
        raise UsageError(f"{field} must name {count} {kind}, got {len(names)}")
    check_distinct(field, names)
