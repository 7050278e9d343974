"""What a model is worth: every sample of a split once, its metrics and its table of classes."""

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
    """What a cloud goes through before a network sees it, outside training.

    Args:
        num_points: that the network sees; None for all.
    """
    return Compose([] if num_points is None else [FarthestPoints(num_points)])


def test_batches(
    dataset: PointDataset, batch_size: int, fabric: Fabric, what: str = "evaluation"
) -> Iterable[dict]:
    """This process's share of the samples, under a bar.

    Args:
        dataset: each of its samples comes to one process.
        batch_size: of this process.
        fabric: of this process.
        what: the bar's title.
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
    """That what a network says of a cloud are numbers.

    Args:
        where: Name of the cloud.
        values: Probabilities, or their logarithms.
    """
    if np.isnan(values).any():
        raise DataError(
            f"{where} gets no probabilities that are numbers: its coordinates are too large for "
            "the network, or the model's weights are damaged"
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
    """The task's scores over a dataset.

    Args:
        model: back in its own mode afterwards.
        dataset: with labels.
        fabric: of this process.
        num_points: that the network sees; None for all.
        batch_size: of this process.
        votes: views of each cloud whose probabilities are averaged.
        seed: of the views.
        what: the bar's title.
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
        scores.clouds = [fabric.all_reduce(clouds, reduce_op="sum").cpu()]  # of all, in their order
    return scores


def log_probabilities(
    model: AdaptedModel,
    batch: Mapping[str, Tensor],
    num_points: int | None,
    votes: int,
    generator: torch.Generator,
) -> Tensor:
    """[B, classes] of the clouds, or [B, N, labels] of all their points, for a task of points.

    The first view is the cloud as it is; the others are random choices of it, rescaled. Where
    points are labeled, each view has all of them and the network sees `num_points` of them.

    Args:
        model: in eval mode.
        batch: of the dataset.
        num_points: that the network sees; None for all.
        votes: views.
        generator: of the views.
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
    """The clouds as they are, then random choices of their points, rescaled.

    Args:
        points: [B, N, D].
        num_points: of a choice; None for all.
        votes: how many views.
        generator: of the choices and the factors.
        whole: whether every view has all points.
    """
    wanted = points.shape[1] if num_points is None else num_points
    rescaled = Scale(0.8, 1.2, per_axis=False)
    another_view = rescaled if whole else Compose([RandomPoints(wanted), rescaled])
    yield points
    for _ in range(votes - 1):
        yield another_view(points, generator)


def log_mean(probabilities: Iterable[Tensor]) -> Tensor:
    """Logarithm of the mean over views, finite where the mean is 0.

    Args:
        probabilities: of each view, all of one shape.
    """
    several = iter(probabilities)
    total, votes = next(several), 1
    for of_view in several:
        total += of_view
        votes += 1
    return (total / votes).clamp_min(torch.finfo(total.dtype).tiny).log()
