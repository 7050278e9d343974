"""Prepare the clouds of a request for the network, and turn logits into labels."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dapt.data.clouds import check_cloud
from dapt.errors import UsageError
from dapt.inference import labeling
from dapt.inference.labeling import Scan
from dapt.inference.prediction import Cloud
from dapt.inference.rooms import CHUNK, PointLabels
from dapt.inference.score import check_probabilities, reduction
from dapt.inference.serving.batching import Ticket
from dapt.inference.serving.shelf import Served
from dapt.inference.trained import Answer, answer_of, label_points


@dataclass(frozen=True)
class Labeled:
    """The result for one cloud.

    Args:
        answer: Its label and probabilities.
        scan: The points with their labels, if points are labeled.
        remark: A remark that the cloud is unlike those of the training.
    """

    answer: Answer
    scan: Scan | None = None
    remark: str | None = None


class Stopped(Exception):
    """Raised when nobody waits for a scene anymore."""


class Noted:
    """The preprocessing of an adapter's training, which collects remarks instead of logging them.

    Args:
        served: The adapter.
    """

    def __init__(self, served: Served):
        self._trained = served.preprocessing
        self.remarks: list[str] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._trained, name)

    def compare(self, where: str, seen: Tensor) -> None:
        """Add a remark if clouds differ much from those of the training.

        Args:
            where: The name of the clouds in the remark.
            seen: The points that the network reads [B, N, D].
        """
        remark = self._trained.remark(where, seen)
        if remark is not None:
            self.remarks.append(remark)

    @property
    def remark(self) -> str | None:
        """All remarks, or None."""
        return "; ".join(self.remarks) or None


@dataclass(frozen=True)
class Ready:
    """A cloud that is prepared for a batch.

    Args:
        where: The name of the cloud.
        points: The original points [N, D].
        ticket: Its ticket in the queue.
        category: The category of the object, for part segmentation.
        remark: As in `Labeled`.
    """

    where: str
    points: np.ndarray
    ticket: Ticket
    category: str | None
    remark: str | None

    def labeled(self, logits: Tensor) -> Labeled:
        """Turn the cloud's logits into its result.

        Args:
            logits: [classes] or [N, labels].
        """
        task = self.ticket.served.adapter.task
        chances = logits.softmax(-1).numpy()
        if not task.labels_points:
            check_probabilities(self.where, chances)
            names = task.label_names
            shares = dict(zip(names, chances.tolist(), strict=True))
            return Labeled(Answer(self.where, names[chances.argmax()], shares), None, self.remark)
        own = labeling.own_parts(task, self.category)
        result = labeling.best_of(self.where, chances, own)
        return _of_points(self.where, self.points, result, task.label_names, self.remark)


def goes_alone(served: Served, clouds: Sequence[Cloud]) -> bool:
    """Whether clouds are labeled outside of batches, as scenes and large objects are.

    Args:
        served: The adapter that they are for.
        clouds: The clouds of a request.
    """
    task = served.adapter.task
    if task.name == "part_segmentation":
        return any(len(points) > CHUNK for _, points in clouds)
    return task.labels_points


def check_category(served: Served, category: str | None) -> None:
    """Check that a category is given for part segmentation, and only then.

    Args:
        served: The adapter.
        category: The category of the request, or None.
    """
    task = served.adapter.task
    if task.name == "part_segmentation":
        labeling.category_number(task, category)
    elif category is not None:
        raise UsageError(f"adapter {served.name} has no categories: leave out category")


@torch.no_grad()
def made_ready(served: Served, cloud: Cloud, category: str | None) -> Ready:
    """Prepare a cloud for a batch.

    Args:
        served: The adapter.
        cloud: The name and points [N, D] of the cloud.
        category: The category of the object, for part segmentation.
    """
    where, points = cloud
    task, trained = served.adapter.task, Noted(served)
    check_cloud(where, points[:, :3], trained.num_points)
    whole = trained.ready(points).to(served.device)  # [1, N, D]
    seen = reduction(trained.num_points)(whole, None)
    trained.compare(where, seen)
    inputs, queries = (), None
    if task.labels_points:
        number = labeling.category_number(task, category)
        inputs, queries = (torch.tensor([number], device=served.device),), whole[..., :3]
    return Ready(where, points, Ticket(served, seen, inputs, queries), category, trained.remark)


def labeled_alone(
    served: Served, clouds: Sequence[Cloud], category: str | None, stop: threading.Event
) -> list[Labeled]:
    """Label clouds outside of batches.

    Args:
        served: The adapter.
        clouds: Names and points [N, D].
        category: The category of the objects, for part segmentation.
        stop: Set when nobody waits for the answer anymore.
    """
    answers = []
    for cloud in clouds:
        trained = Noted(served)
        for scan in label_points(_Watched(served, stop), [cloud], trained, category):
            names = served.adapter.task.label_names
            answers.append(_of_points(scan.where, scan.points, scan.result, names, trained.remark))
    return answers


class _Watched:
    """A served adapter that stops when nobody waits anymore."""

    def __init__(self, served: Served, stop: threading.Event):
        self._served, self._stop = served, stop

    def __getattr__(self, name: str) -> object:
        return getattr(self._served, name)

    def features(self, points: Tensor) -> object:
        """The adapter's features; called for every block of a scene."""
        if self._stop.is_set():
            raise Stopped
        return self._served.features(points)


def _of_points(
    where: str,
    points: np.ndarray,
    result: PointLabels,
    names: Sequence[str],
    remark: str | None,
) -> Labeled:
    scan = Scan(where, points[:, :3], result, tuple(names))
    return Labeled(answer_of(scan), scan, remark)
