"""Evaluate a model: predict every sample of a split once and compute the task's scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from dapt.adapters import AdaptedModel
from dapt.data import BatchSampler, PointDataset, loader
from dapt.data.transforms import Compose, FarthestPoints, RandomPoints, Scale
from dapt.errors import DataError
from dapt.progress import watched
from dapt.tasks.metrics import Scores

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def reduction(num_points: int | None) -> Compose:
    """The transform that reduces a cloud to the network's number of points, outside training.

    Args:
        num_points: The number of points that the network reads; None for all.
    """
    return Compose([] if num_points is None else [FarthestPoints(num_points)])


def test_batches(
    dataset: PointDataset, batch_size: int, fabric: Fabric, what: str = "evaluation"
) -> Iterable[dict]:
    """Load this process's share of the samples, with a progress bar.

    Args:
        dataset: The dataset; each sample goes to exactly one process.
        batch_size: The number of samples per batch in this process.
        fabric: The Fabric of this process.
        what: The title of the progress bar.
    """
    sampler = _in_order(dataset, batch_size, fabric)
    batches = loader(dataset, sampler)
    for batch in watched(batches, what, len(sampler), shown=fabric.is_global_zero):
        if len(batch["labels"]):
            yield {key: values.to(fabric.device) for key, values in batch.items()}


def _in_order(dataset: PointDataset, batch_size: int, fabric: Fabric) -> BatchSampler:
    processes = {"rank": fabric.global_rank, "world_size": fabric.world_size}
    return BatchSampler(len(dataset), batch_size * fabric.world_size, shuffle=False, **processes)


def check_probabilities(where: str, values: np.ndarray) -> None:
    """Check that a network's predictions for a cloud are numbers.

    Args:
        where: The name of the cloud.
        values: Probabilities or their logarithms.
    """
    if np.isnan(values).any():
        raise DataError(
            f"the probabilities of {where} are not numbers: its coordinates are too large for the "
            "network, or the model's weights are damaged"
        )


@torch.no_grad()
def score(
    model: AdaptedModel,
    dataset: PointDataset,
    fabric: Fabric,
    num_points: int | None,
    batch_size: int,
    votes: int = 1,
    seed: int = 0,
    what: str = "evaluation",
) -> Scores:
    """Compute the task's scores over a dataset.

    Args:
        model: The model, whose mode is restored afterward.
        dataset: A labeled dataset.
        fabric: The Fabric of this process.
        num_points: The number of points that the network reads; None for all.
        batch_size: The number of samples per batch in this process.
        votes: The number of views of each cloud whose probabilities are averaged.
        seed: The seed of the views.
        what: The title of the progress bar.
    """
    scores = model.adapter.task.scores(fabric.device)
    generator = torch.Generator().manual_seed(seed)
    was_training = model.training
    model.eval()
    for batch in test_batches(dataset, batch_size, fabric, what):
        with fabric.autocast():
            logs = log_probabilities(model, batch, num_points, votes, generator)
        scores.update(logs, batch)
    model.train(was_training)
    for name, counts in scores.counts.items():
        scores.counts[name] = fabric.all_reduce(counts, reduce_op="sum").cpu()
    if scores.clouds:
        mine = [row for rows in _in_order(dataset, batch_size, fabric) for row in rows]
        clouds = torch.zeros(len(dataset), dtype=torch.float64, device=fabric.device)
        clouds[mine] = torch.cat(list(scores.clouds)).to(clouds)
        scores.clouds = [fabric.all_reduce(clouds, reduce_op="sum").cpu()]  # all, in order
    return scores


def log_probabilities(
    model: AdaptedModel,
    batch: Mapping[str, Tensor],
    num_points: int | None,
    votes: int,
    generator: torch.Generator,
) -> Tensor:
    """Log-probabilities [B, classes] of clouds, or [B, N, labels] of all points for a task that
    labels points.

    The first view is the cloud itself; the others are random subsets of its points, rescaled. If
    points are labeled, each view has all points and the network reads `num_points` of them.

    Args:
        model: The model, in eval mode.
        batch: A batch of the dataset.
        num_points: The number of points that the network reads; None for all.
        votes: The number of views.
        generator: The random generator of the views.
    """
    task, points = model.adapter.task, batch["points"]
    inputs = task.inputs(batch)

    def probabilities(view: Tensor) -> Tensor:
        seen = reduction(num_points)(view, None)
        queries = view if task.labels_points else None
        return model(seen, *inputs, queries=queries).float().softmax(-1)

    several = views(points, num_points, votes, generator, whole=task.labels_points)
    return log_mean(map(probabilities, several))


def views(
    points: Tensor,
    num_points: int | None,
    votes: int,
    generator: torch.Generator,
    whole: bool = False,
) -> Iterator[Tensor]:
    """Yield the clouds themselves, then random subsets of their points, rescaled.

    Args:
        points: [B, N, D].
        num_points: The number of points of a subset; None for all.
        votes: The number of views.
        generator: The random generator of the subsets and scales.
        whole: Whether every view has all points.
    """
    wanted = points.shape[1] if num_points is None else num_points
    rescaled = Scale(0.8, 1.2, per_axis=False)
    another_view = rescaled if whole else Compose([RandomPoints(wanted), rescaled])
    yield points
    for _ in range(votes - 1):
        yield another_view(points, generator)


def log_mean(probabilities: Iterable[Tensor]) -> Tensor:
    """The logarithm of the mean over views, finite even if the mean is 0.

    Args:
        probabilities: The probabilities of each view, all of one shape.
    """
    several = iter(probabilities)
    total, votes = next(several), 1
    for of_view in several:
        total += of_view
        votes += 1
    return (total / votes).clamp_min(torch.finfo(total.dtype).tiny).log()
