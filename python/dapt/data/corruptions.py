"""Corrupt clouds as in the real world: noisy, sparse, half hidden, tilted.

There are five kinds in five severities, modeled on ModelNet-C. Random numbers derive from the seed,
the cloud's number and the kind, so a cloud suffers more of the same as the severity rises.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

import dapt_ext
from dapt.data.clouds import unit_ball
from dapt.data.dataset import PointDataset
from dapt.errors import UsageError, look_up

SEVERITIES = (1, 2, 3, 4, 5)
JITTER = (0.01, 0.02, 0.03, 0.04, 0.05)  # standard deviation, for a cloud in the unit ball
DROPOUT = (0.25, 0.375, 0.5, 0.625, 0.75)  # share of the points that are lost at random
OCCLUSION = (0.1, 0.2, 0.3, 0.4, 0.5)  # share of the points that are hidden, all on one side
DENSITY = tuple(4 ** (-severity / 5) for severity in SEVERITIES)  # 2048 -> 512 points at the end
ROTATION = (15.0, 30.0, 45.0, 60.0, 75.0)  # degrees, about a random axis
_TURNED = (slice(0, 3), slice(6, 9))  # coordinates and normals

Cloud = np.ndarray  # [N, 3, 6 or 9]
# returns the corrupted cloud, and the indices of its points in the original
Corruption = Callable[[Cloud, int, np.random.Generator], tuple[Cloud, np.ndarray]]


def _jitter(cloud: Cloud, severity: int, rng: np.random.Generator) -> tuple[Cloud, np.ndarray]:
    """Gaussian noise on every point."""
    noisy = cloud.copy()
    noisy[:, :3] += JITTER[severity - 1] * rng.standard_normal((len(cloud), 3))
    return noisy, np.arange(len(cloud))


def _dropout(cloud: Cloud, severity: int, rng: np.random.Generator) -> tuple[Cloud, np.ndarray]:
    """Points lost at random."""
    order = rng.permutation(len(cloud))
    return _left(cloud, order, 1 - DROPOUT[severity - 1])


def _occlusion(cloud: Cloud, severity: int, rng: np.random.Generator) -> tuple[Cloud, np.ndarray]:
    """One side cut off, as if hidden by something in front of it."""
    order = np.argsort(cloud[:, :3] @ _direction(rng), kind="stable")
    return _left(cloud, order, 1 - OCCLUSION[severity - 1])


def _density(cloud: Cloud, severity: int, rng: np.random.Generator) -> tuple[Cloud, np.ndarray]:
    """Fewer points, as evenly spread as before: a coarser sensor."""
    count = max(round(DENSITY[severity - 1] * len(cloud)), 1)
    start = torch.tensor([int(rng.integers(len(cloud)))])
    places = torch.from_numpy(np.ascontiguousarray(cloud[None, :, :3], dtype=np.float32))
    kept = dapt_ext.farthest_point_sample(places, count, start=start)[0].numpy()
    return cloud[kept], kept


def _rotation(cloud: Cloud, severity: int, rng: np.random.Generator) -> tuple[Cloud, np.ndarray]:
    """A tilt about a random axis."""
    x, y, z = _direction(rng)
    angle = np.radians(ROTATION[severity - 1])
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turn = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    turned = cloud.copy()
    for columns in _TURNED:
        if cloud.shape[1] >= columns.stop:
            turned[:, columns] = cloud[:, columns] @ turn.T
    return turned, np.arange(len(cloud))


def _direction(rng: np.random.Generator) -> np.ndarray:
    direction = rng.standard_normal(3)
    return direction / np.linalg.norm(direction)


def _left(cloud: Cloud, order: np.ndarray, share: float) -> tuple[Cloud, np.ndarray]:
    """Keep the first share of points by an order, in the order of the cloud."""
    kept = np.sort(order[: max(round(share * len(cloud)), 1)])
    return cloud[kept], kept


CORRUPTIONS: dict[str, Corruption] = {
    "jitter": _jitter,
    "dropout": _dropout,
    "occlusion": _occlusion,
    "density": _density,
    "rotation": _rotation,
}


def kinds_of(names: str) -> list[str]:
    """Parse a list of kinds.

    Args:
        names: "all", or kinds separated by commas.
    """
    if names == "all":
        return list(CORRUPTIONS)
    kinds = names.split(",")
    for kind in kinds:
        look_up("corruption", kind, CORRUPTIONS)
    return list(dict.fromkeys(kinds))


class Corrupted(PointDataset):
    """A dataset with corrupted clouds; the labels of lost points are removed with them.

    Args:
        dataset: The original dataset.
        kind: A name in `CORRUPTIONS`.
        severity: The severity, from 1 to 5.
        seed: The seed of all random numbers.
        normalize: Whether corrupted clouds are scaled to the unit ball again, as they would be by
            a program that never saw the original.
    """

    def __init__(
        self,
        dataset: PointDataset,
        kind: str,
        severity: int,
        seed: int = 0,
        normalize: bool = True,
    ):
        self._corrupt = look_up("corruption", kind, CORRUPTIONS)
        if severity not in SEVERITIES:
            raise UsageError(f"severity must be a whole number from 1 to 5, got {severity}")
        self.dataset, self.severity, self.normalize = dataset, severity, normalize
        self._seed = (seed, list(CORRUPTIONS).index(kind))
        blank = np.zeros((dataset.num_points, 3))
        blank[:, 0] = np.arange(len(blank))
        left = len(self._corrupt(blank, severity, np.random.default_rng(0))[0])
        names = dataset.class_names, left, dataset.part_names, dataset.class_parts
        super().__init__(dataset.labels, *names)
        self.scenes = dataset.scenes

    def batch(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        batch = dict(self.dataset.batch(indices))
        clouds, kept = [], []
        for index, cloud in zip(indices, batch["points"].numpy(), strict=True):
            rng = np.random.default_rng([*self._seed, int(index)])
            cloud, rows = self._corrupt(cloud.astype(np.float64), self.severity, rng)
            if self.normalize:
                cloud[:, :3] = unit_ball(cloud[:, :3])
            clouds.append(torch.from_numpy(cloud.astype(np.float32)))
            kept.append(torch.from_numpy(rows))
        batch["points"] = torch.stack(clouds) if clouds else batch["points"]
        if "part_labels" in batch and kept:
            batch["part_labels"] = batch["part_labels"].gather(1, torch.stack(kept))
        return batch
