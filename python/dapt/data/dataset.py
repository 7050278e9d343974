"""A dataset: clouds of equal size, a label each, handed out as batches.

Vocabulary: S samples in the dataset, B of them in a batch, N points in a cloud.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch

from dapt.errors import UsageError


class PointDataset(ABC):
    """Map-style dataset; `batch` is all that a new kind of dataset has to write.

    labels: [S] int64, in memory. num_parts: how many part labels there are, 0 without them.
    """

    def __init__(self, labels, class_names: Sequence[str], num_points: int, num_parts: int = 0):
        self.labels = np.asarray(labels, dtype=np.int64)
        self.class_names = list(class_names)
        self.num_points = num_points
        self.num_parts = num_parts

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def batch(self, indices) -> dict[str, torch.Tensor]:
        """points [B, N, 3] float32, labels [B] int64, part_labels [B, N] int64 where known."""

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {key: values[0] for key, values in self.batch([index]).items()}

    def __getitems__(self, indices) -> dict[str, torch.Tensor]:
        return self.batch(indices)


class ArrayDataset(PointDataset):
    """Arrays with one row per sample, in memory or memory-mapped: a batch is a gather.

    A memory-mapped array travels to another process as its file name.
    """

    def __init__(self, arrays: dict[str, np.ndarray], class_names, num_parts: int = 0):
        super().__init__(arrays["labels"], class_names, arrays["points"].shape[1], num_parts)
        self.arrays = arrays

    def batch(self, indices) -> dict[str, torch.Tensor]:
        rows = np.asarray(indices, dtype=np.int64)  # [B]
        return {
            key: torch.from_numpy(np.take(np.asarray(values), rows, axis=0))
            for key, values in self.arrays.items()
        }

    def __getstate__(self) -> dict:
        arrays = {
            key: values.filename if isinstance(values, np.memmap) else values
            for key, values in self.arrays.items()
        }
        return {**self.__dict__, "arrays": arrays}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self.arrays = {
            key: values if isinstance(values, np.ndarray) else np.load(values, mmap_mode="r")
            for key, values in self.arrays.items()
        }


class Subset(PointDataset):
    """Some samples of a dataset, by index; few-shot episodes also give them their own labels."""

    def __init__(self, dataset: PointDataset, indices, labels=None, class_names=None):
        self.dataset = dataset
        self.indices = np.asarray(indices, dtype=np.int64)
        super().__init__(
            dataset.labels[self.indices] if labels is None else labels,
            dataset.class_names if class_names is None else class_names,
            dataset.num_points,
            dataset.num_parts,
        )

    def batch(self, indices) -> dict[str, torch.Tensor]:
        rows = np.asarray(indices, dtype=np.int64)
        batch = self.dataset.batch(self.indices[rows])
        return {**batch, "labels": torch.from_numpy(self.labels[rows])}


def split_validation(
    dataset: PointDataset, fraction: float, seed: int
) -> tuple[PointDataset, PointDataset]:
    """(train, validation): `fraction` of every class, the same for the same seed.

    A class of two or more samples is on both sides; a single sample stays in training.
    """
    if not 0 < fraction < 1:
        raise UsageError(f"the validation fraction must lie between 0 and 1, got {fraction}")
    validation = np.zeros(len(dataset), dtype=bool)
    for label in range(dataset.num_classes):
        members = np.flatnonzero(dataset.labels == label)
        if len(members) > 1:
            count = min(max(round(fraction * len(members)), 1), len(members) - 1)
            order = np.random.default_rng([seed, label]).permutation(members)
            validation[order[:count]] = True
    if not validation.any():
        raise UsageError(
            "no validation split can be made: every class has a single sample, "
            "and at least one class needs two"
        )
    return (
        Subset(dataset, np.flatnonzero(~validation)),
        Subset(dataset, np.flatnonzero(validation)),
    )


def few_shot_fold(
    dataset: PointDataset, way: int, shot: int, fold: int, seed: int = 0, queries: int = 20
) -> tuple[PointDataset, PointDataset]:
    """(train, test) of one episode: `way` classes, `shot` and `queries` samples of each.

    Labels are renumbered from 0 in the order of the draw.
    """
    rng = np.random.default_rng([seed, fold])
    counts = np.bincount(dataset.labels, minlength=dataset.num_classes)
    usable = np.flatnonzero(counts >= shot + queries)
    if len(usable) < way:
        raise UsageError(
            f"{way}-way {shot}-shot with {queries} queries needs {way} classes of "
            f"{shot + queries} samples, and only {len(usable)} are that large"
        )
    classes = rng.choice(usable, way, replace=False)
    picks = np.stack(
        [
            rng.choice(np.flatnonzero(dataset.labels == label), shot + queries, replace=False)
            for label in classes
        ]
    )  # [way, shot + queries]
    names = [dataset.class_names[label] for label in classes]

    def episode(indices: np.ndarray) -> Subset:
        labels = np.repeat(np.arange(way), indices.shape[1])
        return Subset(dataset, indices.ravel(), labels, names)

    return episode(picks[:, :shot]), episode(picks[:, shot:])
