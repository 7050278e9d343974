"""Anyone's own data in .npz files: points, labels, and where known names and part labels."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from dapt.data.clouds import check_up, upright
from dapt.data.convert import Sample, Source
from dapt.data.file_dataset import FileDataset
from dapt.data.registry import register
from dapt.errors import DataError, UsageError, reading

logger = logging.getLogger(__name__)


@register("npz")
@dataclass(kw_only=True)
class Npz(FileDataset):
    """`points` float [S, N, 3], `labels` int [S], optional `class_names`, `part_labels` [S, N] and
    `part_names`.

    Args:
        train: The training file; it says how many classes and part labels there are.
        test: The test file, if there is one.
        up: The axis that points up; clouds are turned so that it is y, as in the data that the
            backbones were pre-trained on.
    """

    train: Path
    test: Path | None = None
    up: Literal["x", "y", "z"] = "y"

    def __post_init__(self):
        super().__post_init__()
        check_up(self.up)

    def _path(self, split: str) -> Path:
        path = self.train if split == "train" else self.test
        if path is None:
            raise UsageError("the options of dataset 'npz' name no test file: set test")
        return path

    def home(self, split: str) -> Path:
        return self._path(split).parent

    def label(self, split: str) -> str:
        return f"{self._path(split).stem}-{split}"

    def files(self, split: str) -> list[Path]:
        return [self.train, self._path(split)]

    def read(self, split: str) -> Source:
        path = self._path(split)
        training = _read(self.train, ("labels", "class_names", "part_labels", "part_names"))
        arrays = training if path == self.train else _read(path, ("labels", "part_labels"))
        points = _read(path, ("points",))["points"]  # [S, N, 3]
        labels, parts = arrays["labels"], arrays["part_labels"]
        if points.ndim != 3 or points.shape[2] != 3 or points.dtype.kind not in "fiu":
            raise DataError(
                f"points of {path} must be numbers [S, N, 3], "
                f"got {points.dtype} {list(points.shape)}"
            )
        if labels.shape != points.shape[:1]:
            raise DataError(
                f"labels of {path} must be [{len(points)}], one for each cloud, "
                f"got {list(labels.shape)}"
            )
        if parts is not None and parts.shape != points.shape[:2]:
            raise DataError(
                f"part_labels of {path} must be {list(points.shape[:2])}, one for each point, "
                f"got {list(parts.shape)}"
            )
        if (parts is None) != (training["part_labels"] is None):
            raise DataError(f"part_labels must be in both {self.train} and {path}, or in neither")
        class_names = _class_names(training, self.train)
        return Source(
            where=path,
            class_names=class_names,
            length=len(points),
            samples=(
                Sample(
                    where=f"cloud {row} of {path}",
                    points=upright(points[row], self.up),
                    label=int(labels[row]),
                    part_labels=None if parts is None else parts[row],
                )
                for row in range(len(points))
            ),
            part_names=() if parts is None else _names(training, "part_labels", "part_names"),
            class_parts=None if parts is None else _class_parts(training, self.train, class_names),
        )


def _read(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray | None]:
    """The named arrays; None for an optional one that is not there."""
    with reading(path), np.load(path, allow_pickle=False) as file:
        for required in {"points", "labels"} - set(file.files):
            raise DataError(
                f"{path} must hold 'points' and 'labels', and holds no {required!r}: "
                f"it holds {', '.join(file.files) or 'nothing'}"
            )
        arrays = {name: file[name] if name in file else None for name in names}
    for name in ("labels", "part_labels"):
        values = arrays.get(name)
        if values is not None and values.dtype.kind not in "iu":
            raise DataError(f"{name} of {path} must be whole numbers, got {values.dtype}")
    return arrays


def _class_names(training: dict, path: Path) -> list[str]:
    """The file's names or the numbers; a class without a cloud is pointed out."""
    labels, names = training["labels"], _names(training, "labels", "class_names")
    empty = sorted(set(range(len(names))) - set(labels.tolist()))
    if empty:
        logger.warning(
            "%s has no cloud of %s: labels count from 0",
            path,
            ", ".join(names[label] for label in empty),
        )
    return names


def _names(training: dict, labels: str, names: str) -> list[str]:
    """The file's names, or the numbers that occur."""
    if training[names] is None:
        return [str(label) for label in range(int(training[labels].max(initial=-1)) + 1)]
    return [
        name.decode() if isinstance(name, bytes) else str(name) for name in training[names].ravel()
    ]


def _class_parts(training: dict, path: Path, class_names: list[str]) -> list[list[int]]:
    """Which parts each class has in the training file; a class without a cloud may have any."""
    labels, parts = training["labels"], training["part_labels"]
    if parts.shape[:1] != labels.shape:
        raise DataError(
            f"part_labels of {path} must have a row for each of its {len(labels)} clouds, "
            f"got {list(parts.shape)}"
        )
    everything = np.unique(parts).tolist()
    return [
        np.unique(parts[labels == label]).tolist() or everything
        for label in range(len(class_names))
    ]
