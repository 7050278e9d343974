"""A request's way: its bytes become clouds, these get their answers."""

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
    """What is said of one cloud.

    Args:
        answer: Label and probabilities.
        scan: The labels with their points, where points are labeled.
        remark: That the cloud is unlike those of the training.
    """

    answer: Answer
    scan: Scan | None = None
    remark: str | None = None


class Stopped(Exception):
    """Nobody waits for the scene any more."""


class Noted:
    """The preprocessing of a training, which keeps what it remarks in place of saying it.

    Args:
        served: The adapter.
    """

    def __init__(self, served: Served):
        self._trained = served.preprocessing
        self.remarks: list[str] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._trained, name)

    def compare(self, where: str, seen: Tensor) -> None:
        """Note that clouds differ much from those of the training.

        Args:
            where: What the remark calls them.
            seen: [B, N, D], as the network sees them.
        """
        remark = self._trained.remark(where, seen)
        if remark is not None:
            self.remarks.append(remark)

    @property
    def remark(self) -> str | None:
        """All of them."""
        return "; ".join(self.remarks) or None


@dataclass(frozen=True)
class Ready:
    """A cloud on its way through the batches.

    Args:
        where: What it is called.
        points: [N, D], as they came.
        ticket: Its place in the line.
        category: The category of an object whose parts are labeled.
        remark: As in `Labeled`.
    """

    where: str
    points: np.ndarray
    ticket: Ticket
    category: str | None
    remark: str | None

    def labeled(self, logits: Tensor) -> Labeled:
        """The answer.

        Args:
            logits: [classes], or [N, labels].
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
    """Whether clouds are no part of a batch: scenes are cut into blocks, large objects into rows of
    points.

    Args:
        served: The adapter that they are for.
        clouds: The clouds of a request.
    """
    task = served.adapter.task
    if task.name == "part_segmentation":
        return any(len(points) > CHUNK for _, points in clouds)
    return task.labels_points


def check_category(served: Served, category: str | None) -> None:
    """That a category is named where parts are labeled, and nowhere else.

    Args:
        served: The adapter.
        category: What the request says.
    """
    task = served.adapter.task
    if task.name == "part_segmentation":
        labeling.category_number(task, category)
    elif category is not None:
        raise UsageError(f"adapter {served.name} has no categories: leave out category")


@torch.no_grad()
def made_ready(served: Served, cloud: Cloud, category: str | None) -> Ready:
    """A cloud as the network sees it.

    Args:
        served: Who will see it.
        cloud: Its name and points [N, D].
        category: The category of an object whose parts are labeled.
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
    """Answers for clouds that are no part of a batch.

    Args:
        served: The adapter.
        clouds: Names and points [N, D].
        category: Of objects whose parts are labeled.
        stop: Set when nobody waits for the answer any more.
    """
    answers = []
    for cloud in clouds:
        trained = Noted(served)
        for scan in label_points(_Watched(served, stop), [cloud], trained, category):
            names = served.adapter.task.label_names
            answers.append(_of_points(scan.where, scan.points, scan.result, names, trained.remark))
    return answers


class _Watched:
    """A served adapter that looks at no more clouds when nobody waits."""

    def __init__(self, served: Served, stop: threading.Event):
        self._served, self._stop = served, stop

    def __getattr__(self, name: str) -> object:
        return getattr(self._served, name)

    def features(self, points: Tensor) -> object:
        """As the adapter's, which every block of a scene goes through."""
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
