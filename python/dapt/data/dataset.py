"""A dataset: clouds of equal size with one label each, returned as batches.

Vocabulary: S samples in the dataset, B of them in a batch, N points in a cloud, P labels of points
("parts": of an object, or the classes of a scene's points).
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch

from dapt.data.labels import IGNORED


class PointDataset(ABC):
    """A map-style dataset; a new kind of dataset only has to define `batch`.

    The attribute `scenes`, int64 [S] or None, says which samples belong together, such as the
    blocks of a scene or near-duplicates, and stay on one side of a split.

    Args:
        labels: The class of each sample [S].
        class_names: The names of the classes.
        num_points: N, the number of points per cloud.
        part_names: The names of the point labels, if points have labels.
        class_parts: For each class, the labels that its points may have; all of them by default.
    """

    scenes: np.ndarray | None = None
    digested = 256  # number of clouds in a digest

    def __init__(
        self,
        labels,
        class_names: Sequence[str],
        num_points: int,
        part_names: Sequence[str] = (),
        class_parts: Sequence[Sequence[int]] | None = None,
    ):
        self.labels = np.asarray(labels, dtype=np.int64)
        self.class_names = list(class_names)
        self.num_points = num_points
        self.part_names = list(part_names)
        self.class_parts = class_parts or [list(range(self.num_parts)) for _ in self.class_names]

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @property
    def num_parts(self) -> int:
        """The number of point labels."""
        return len(self.part_names)

    def part_counts(self) -> np.ndarray:  # [P]
        """The number of points with each part label."""
        counts = np.zeros(self.num_parts, dtype=np.int64)
        for start in range(0, len(self), 256):
            rows = range(start, min(start + 256, len(self)))
            parts = self.batch(rows)["part_labels"].flatten().numpy()
            counts += np.bincount(parts[parts != IGNORED], minlength=self.num_parts)
        return counts

    def digest(self) -> str:
        """A digest of labels, names and some clouds, to distinguish datasets."""
        digest = hashlib.sha256(repr((self.num_points, self.class_names, self.part_names)).encode())
        digest.update(self.labels.tobytes())
        rows = (
            np.unique(np.linspace(0, len(self) - 1, self.digested).astype(int)) if len(self) else []
        )
        for values in self.batch(rows).values():
            digest.update(values.numpy().tobytes())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def batch(self, indices) -> dict[str, torch.Tensor]:
        """Return points, float32 [B, N, 3], and labels, int64 [B]; and part_labels, int64 [B, N],
        if points have labels, with `IGNORED` for points excluded from losses and scores.

        Args:
            indices: The samples [B].
        """

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {key: values[0] for key, values in self.batch([index]).items()}

    def __getitems__(self, indices) -> dict[str, torch.Tensor]:
        return self.batch(indices)


class ArrayDataset(PointDataset):
    """Arrays with one row per sample, in memory or memory-mapped: a batch is a gather.

    A memory-mapped array is sent to another process as its file name.

    Args:
        arrays: `points` [S, N, 3] and `labels` [S]; optionally `part_labels` [S, N] and
            `scenes` [S].
        class_names: The names of the classes.
        part_names: The names of the point labels, if points have labels.
        class_parts: For each class, the labels that its points may have.
    """

    def __init__(self, arrays: dict[str, np.ndarray], class_names, part_names=(), class_parts=None):
        num_points = arrays["points"].shape[1]
        super().__init__(arrays["labels"], class_names, num_points, part_names, class_parts)
        self.arrays = dict(arrays)
        scenes = self.arrays.pop("scenes", None)
        self.scenes = None if scenes is None else np.array(scenes)

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
    """Some samples of a dataset, by index; few-shot episodes also give them their own labels.

    Args:
        dataset: The dataset of the samples.
        indices: The samples, in order.
        labels: Other labels for them.
        class_names: The names of these labels.
    """

    def __init__(self, dataset: PointDataset, indices, labels=None, class_names=None):
        self.dataset = dataset
        self.indices = np.asarray(indices, dtype=np.int64)
        super().__init__(
            dataset.labels[self.indices] if labels is None else labels,
            dataset.class_names if class_names is None else class_names,
            dataset.num_points,
            dataset.part_names,
            dataset.class_parts if class_names is None else None,
        )
        self.scenes = None if dataset.scenes is None else dataset.scenes[self.indices]

    def batch(self, indices) -> dict[str, torch.Tensor]:
        rows = np.asarray(indices, dtype=np.int64)
        batch = self.dataset.batch(self.indices[rows])
        return {**batch, "labels": torch.from_numpy(self.labels[rows])}
