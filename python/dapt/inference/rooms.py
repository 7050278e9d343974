"""Label whole rooms: a network slides over overlapping blocks, whose predictions are averaged."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dapt.adapters import AdaptedModel
from dapt.data.blocks import Grid, at_least
from dapt.data.channels import all_upright
from dapt.data.clouds import check_cloud, check_up
from dapt.data.preprocessing import Preprocessing
from dapt.data.tiles import Region
from dapt.data.transforms import FarthestPoints
from dapt.errors import DataError
from dapt.inference.score import check_probabilities
from dapt.progress import watched

CHUNK = 4096  # points that the head labels at a time
COMPARED = 16  # blocks of a scene that are compared with the training data


class PointLabels(NamedTuple):
    """The predicted labels of a scene's points.

    Args:
        labels: The labels, int64 [N].
        confidence: The probability of each label, float32 [N].
    """

    labels: np.ndarray  # int64 [N]
    confidence: np.ndarray  # float32 [N]


@torch.no_grad()
def label_room(
    model: AdaptedModel,
    points: np.ndarray,
    num_points: int,
    block: float = 1.0,
    stride: float = 0.5,
    up: str = "z",
    normalize: bool = True,
    where: str = "the room",
    after_block: Callable[[np.ndarray], None] = lambda index: None,
    trained: Preprocessing | None = None,
) -> PointLabels:
    """Label each point by the mean prediction over all blocks that contain it.

    The network reads `num_points` points of a block, and its head labels all points of the block.
    Memory holds one block at a time, and a row of probabilities for each point.

    Args:
        model: A model that labels points.
        points: [N, D].
        num_points: The number of points per block that the network reads.
        block: The side of a square block, in the points' unit.
        stride: The distance from one block to the next.
        up: The vertical axis.
        normalize: Whether each block is scaled to the unit ball.
        where: The name to use in errors.
        after_block: Called with the indices of a block's points after each block.
        trained: The preprocessing of the training; if given, warns about a scene whose blocks
            differ much from those of the training.
    """
    check_cloud(where, points[:, :3], num_points)
    low, high = points[:, :3].min(0), points[:, :3].max(0)
    check_ground(low, high, block, up, where)
    grid = Grid.around(low, high, block, stride, up)
    ready = Preprocessing(num_points, normalize, up)
    whole = Region(np.arange(len(points)), points, np.ones(len(points), bool))
    return label_region(model, whole, grid, ready, where, after_block, trained)


@torch.no_grad()
def label_region(
    model: AdaptedModel,
    region: Region,
    grid: Grid,
    ready: Preprocessing,
    where: str,
    after_block: Callable[[np.ndarray], None] = lambda index: None,
    trained: Preprocessing | None = None,
) -> PointLabels:
    """Label a region's own points, independently of what else of the scene is in memory.

    Args:
        model: A model that labels points.
        region: A part of a scene, with all blocks that contain its own points.
        grid: The grid of the whole scene.
        ready: How a block is prepared for the network.
        where: The name of the scene in errors.
        after_block: Called with the indices in the region of a block's points after each block.
        trained: The preprocessing of the training, to compare the first blocks with, or None.
    """
    compared = []
    model.eval()
    votes = np.zeros((len(region.points), model.adapter.task.num_classes), np.float32)
    blocks = partial(grid.windows, region.points[:, :3], region.own)
    for index in watched(blocks(), "blocks", lambda: sum(1 for _ in blocks())):
        cloud = _cloud(
            all_upright(region.points[index], ready.up), ready.num_points, ready.normalize
        )
        seen = FarthestPoints(ready.num_points)(cloud.whole.to(model.device))
        if trained is not None and len(compared) < COMPARED:
            compared.append(seen.cpu())
        votes[index] += _probabilities(model, seen, cloud.points.to(model.device))
        after_block(index)
    if compared:
        trained.compare(where, torch.cat(compared))
    votes = votes[region.own]
    check_probabilities(where, votes)
    labels = votes.argmax(1)
    best = votes[np.arange(len(votes)), labels]
    return PointLabels(labels, best / votes.sum(1))


@torch.no_grad()
def probabilities(
    model: AdaptedModel, points: np.ndarray, num_points: int, normalize: bool, *inputs: Tensor
) -> np.ndarray:  # [N, labels]
    """Predict label probabilities for all points of one cloud.

    Args:
        model: A model that labels points.
        points: [N, D].
        num_points: The number of points that the network reads.
        normalize: Whether the cloud is scaled to the unit ball.
        inputs: Further inputs of the head.
    """
    cloud = _cloud(points, num_points, normalize)
    seen = FarthestPoints(num_points)(cloud.whole.to(model.device))
    return _probabilities(model, seen, cloud.points.to(model.device), *inputs)


class _Cloud(NamedTuple):
    points: Tensor  # [1, N, D]
    whole: Tensor  # the same points, repeated if there are too few


def _cloud(points: np.ndarray, num_points: int, normalize: bool) -> _Cloud:
    cloud = Preprocessing(num_points, normalize).ready(points)
    repeated = torch.from_numpy(at_least(np.arange(len(points)), num_points))
    return _Cloud(cloud, cloud[:, repeated])


def _probabilities(
    model: AdaptedModel, seen: Tensor, points: Tensor, *inputs: Tensor
) -> np.ndarray:  # [1, n, D], [1, N, D] -> [N, labels]
    head, features = model.adapter.head, model.features(seen)
    places = points[..., :3]
    parts = [
        head(features, chunk, *inputs)[0].float().softmax(1) for chunk in places.split(CHUNK, 1)
    ]
    return torch.cat(parts).cpu().numpy()


def check_ground(low: np.ndarray, high: np.ndarray, block: float, up: str, where: str) -> None:
    """Refuse a scene that is smaller than a block.

    Args:
        low: The smallest coordinates [3].
        high: The largest coordinates [3].
        block: The side of a block.
        up: The vertical axis.
        where: The name of the scene in the error.
    """
    check_up(up)
    ground = np.delete(high - low, "xyz".index(up))
    if ground.max() < block:
        raise DataError(
            f"{where} is {ground[0]:.3g} by {ground[1]:.3g}, smaller than a block of {block}: "
            "give it in the unit that the network was trained in, or a smaller block"
        )
