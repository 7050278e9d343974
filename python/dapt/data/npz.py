"""Your own data in .npz files: points, labels, and optionally names and part labels."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from dapt.data.arrays import open_arrays
from dapt.data.channels import COLUMNS, Channels, beside, check_channels, taken_apart
from dapt.data.clouds import check_up, upright
from dapt.data.convert import Sample, Source
from dapt.data.file_dataset import FileDataset
from dapt.data.labels import IGNORED, as_names, as_numbers, count_labels, is_named, numbered
from dapt.data.registry import register
from dapt.errors import DataError, UsageError, listed, reading, shown

logger = logging.getLogger(__name__)

ALSO_CALLED = {"points": ("points", "data"), "labels": ("labels", "label")}


@register("npz")
@dataclass(kw_only=True)
class Npz(FileDataset):
    """`points` float [S, N, 3], plus `channels` if any, and `labels` [S], which are names or
    integers from 0.

    Optional arrays are `class_names`, `part_labels` [S, N], `part_names` and `groups` [S], numbers
    or names; clouds of one group stay on one side of a validation split. `points` and `labels` may
    also be called `data` and `label`, and the file may be an .h5. Clouds of different lengths are
    concatenated as `points` [T, 3] and `part_labels` [T], with `offsets` [S + 1] of where each
    begins and the last ends; then set num_points.

    Args:
        train: The training file; it determines the number of classes and part labels.
        test: The test file, if there is one.
        up: The vertical axis; clouds are turned so that it is y, as in the data that the backbones
            were pre-trained on.
        ignore_label: Clouds with this label are left out; points with it do not count in any loss
            or score.
        channels: What a point has besides its coordinates, for backbones that read it: color for
            `points` [S, N, 6], normal for color and normal [S, N, 9], intensity or height above the
            ground [S, N, 4].
    """

    train: Path
    test: Path | None = None
    up: Literal["x", "y", "z"] = "y"
    ignore_label: int | None = None
    channels: Channels = "xyz"

    def __post_init__(self):
        super().__post_init__()
        check_channels(self.channels)
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
        training = self._labels(self.train)
        arrays = training if path == self.train else self._labels(path)
        points, where = _read(path, "points"), f"points of {path}"  # [S, N, 3]
        labels, parts = arrays.labels, arrays.parts
        columns = COLUMNS[self.channels]
        offsets = _read(path, "offsets")
        dims = 3 if offsets is None else 2
        if points.ndim != dims or points.shape[-1] != columns or points.dtype.kind not in "fiu":
            more = ""
            if points.ndim == dims and points.shape[-1] > 3 and columns == 3:
                more = (
                    ": keep points[..., :3], or, for a backbone that reads them, set "
                    "data.channels to color (6 columns) or normal (9)"
                )
            if points.ndim == 2 and offsets is None:
                more = ": clouds one after another need `offsets` of where each begins"
            wanted = "[S, N" if offsets is None else "with offsets [T"
            raise DataError(
                f"{where} must be numbers {wanted}, {columns}], got {points.dtype} "
                f"{list(points.shape)}{more}"
            )
        if offsets is None:
            places = range(len(points))
        else:
            places = [slice(*b) for b in bounds_of(offsets, len(points), f"offsets of {path}")]
        if labels.shape != (len(places),):
            raise DataError(
                f"labels of {path} must be [{len(places)}], one for each cloud, "
                f"got {list(labels.shape)}"
            )
        if parts is not None and parts.shape != points.shape[:-1]:
            raise DataError(
                f"part_labels of {path} must be {list(points.shape[:-1])}, one for each point, "
                f"got {list(parts.shape)}"
            )
        if (parts is None) != (training.parts is None):
            raise DataError(f"part_labels must be in both {self.train} and {path}, or in neither")
        groups = _groups(path, len(places))
        class_names = self._class_names(training)
        if is_named(labels):
            labels = numbered(labels, class_names, f"labels of {path}")
        rows = range(len(places))
        if self.ignore_label is not None:
            rows = np.flatnonzero(labels != self.ignore_label).tolist()
        part_names, class_parts = (), None
        if parts is not None:
            part_names = self._part_names(training)
            class_parts = _class_parts(training, self.train, class_names)
        return Source(
            where=path,
            class_names=class_names,
            length=len(rows),
            samples=(
                Sample(
                    where=f"cloud {row} of {path}",
                    points=upright(points[places[row]][:, :3], self.up),
                    label=int(labels[row]),
                    part_labels=None if parts is None else parts[places[row]],
                    scene=None if groups is None else int(groups[row]),
                    channels=self._channels_of(f"cloud {row} of {path}", points[places[row]]),
                )
                for row in rows
            ),
            part_names=part_names,
            class_parts=class_parts,
        )

    def _channels_of(self, where: str, cloud: np.ndarray) -> np.ndarray | None:
        if self.channels == "xyz":
            return None
        known = taken_apart(self.channels, cloud[:, 3:])
        if "normals" in known:
            known["normals"] = upright(known["normals"], self.up)
        return beside(where, self.channels, len(cloud), known)

    def _labels(self, path: Path) -> "_Labels":
        labels, parts = _read(path, "labels"), _read(path, "part_labels")
        if not is_named(labels):
            labels = as_numbers(labels, f"labels of {path}")
        if parts is not None:
            parts = as_numbers(parts, f"part_labels of {path}")
            if self.ignore_label is not None:
                parts = np.where(parts == self.ignore_label, IGNORED, parts)
        labels = np.squeeze(labels, 1) if labels.shape[1:] == (1,) else labels
        offsets = _read(path, "offsets")
        if parts is not None and offsets is not None and parts.ndim == 1:
            bounds = bounds_of(offsets, len(parts), f"part_labels of {path}: its offsets")
            return _Labels(path, labels, parts, [slice(*each) for each in bounds])
        return _Labels(path, labels, parts)

    def _class_names(self, training: "_Labels") -> list[str]:
        """The file's names, or the numbers; warn about a class without a cloud."""
        labels, names = training.labels, _read(training.path, "class_names")
        if is_named(labels):
            return as_names(np.unique(labels) if names is None else names)
        labels = labels[labels != self.ignore_label] if self.ignore_label is not None else labels
        if names is None:
            count = count_labels(labels, f"labels of {training.path}")
            names = np.array([str(label) for label in range(count)])
        names = as_names(names)
        empty = sorted(set(range(len(names))) - set(labels.tolist()))
        if empty:
            logger.warning(
                "%s has no cloud of %s: labels count from 0",
                training.path,
                shown(listed(names[label] for label in empty)),
            )
        return names

    def _part_names(self, training: "_Labels") -> list[str]:
        names = _read(training.path, "part_names")
        if names is not None:
            return as_names(names)
        count = count_labels(
            training.parts[training.parts != IGNORED], f"part_labels of {training.path}"
        )
        return [str(label) for label in range(count)]


class _Labels(NamedTuple):
    path: Path
    labels: np.ndarray  # [S]
    parts: np.ndarray | None  # [S, N], or [T] with places
    places: list[slice] | None = None  # where each cloud is in [T]


def bounds_of(offsets: np.ndarray, total: int, where: str) -> list[tuple[int, int]]:
    """(start, stop) of each of several concatenated clouds.

    Args:
        offsets: The start of each cloud and the end of the last [S + 1], or only the starts [S].
        total: T, the number of points in all clouds.
        where: The name to use in errors.
    """
    offsets = as_numbers(offsets, where)
    if offsets.ndim == 1 and len(offsets) and offsets[-1] != total:
        offsets = np.append(offsets, total)
    if offsets.ndim != 1 or not len(offsets) or offsets[0] != 0 or (np.diff(offsets) < 1).any():
        raise DataError(
            f"{where} must begin with 0 and increase to the {total} points, one for the start of "
            f"each cloud: no cloud is empty, got {offsets.ravel()[:4].tolist()} ..."
        )
    return list(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True))


def _read(path: Path, name: str) -> np.ndarray | None:
    """Read an array of the file; None for an optional one that is missing."""
    with reading(path), open_arrays(path) as file:
        names = ALSO_CALLED.get(name, (name,))
        found = next((each for each in names if each in file), None)
        if found is not None:
            return file[found]
        if name in ALSO_CALLED:
            raise DataError(
                f"{path} must hold 'points' and 'labels', and holds no {name!r}: "
                f"it holds {listed(file) or 'nothing'}"
            )
    return None


def _groups(path: Path, clouds: int) -> np.ndarray | None:
    """The group numbers [S] of the file; None if it has no groups."""
    groups = _read(path, "groups")
    if groups is None:
        return None
    if groups.shape != (clouds,) or groups.dtype.kind not in "iuUS":
        raise DataError(
            f"groups of {path} must be [{clouds}], a number or a name for each cloud, "
            f"got {groups.dtype} {list(groups.shape)}"
        )
    return np.unique(groups, return_inverse=True)[1]


def _class_parts(training: _Labels, path: Path, class_names: list[str]) -> list[list[int]]:
    """The parts of each class in the training file; a class without a cloud may have any."""
    labels, parts = training.labels, training.parts
    clouds = parts if training.places is None else training.places
    if (len(clouds),) != labels.shape:
        raise DataError(
            f"part_labels of {path} must have a row for each of its {len(labels)} clouds, "
            f"got {list(parts.shape)}"
        )
    if is_named(labels):
        labels = numbered(labels, class_names, f"labels of {path}")

    def occurring(rows: np.ndarray) -> list[int]:
        return [int(part) for part in np.unique(rows) if part != IGNORED]

    everything = occurring(parts)

    def of_class(label: int) -> np.ndarray:
        if training.places is None:
            return parts[labels == label]
        own = [parts[training.places[row]] for row in np.flatnonzero(labels == label)]
        return np.concatenate(own) if own else parts[:0]

    return [occurring(of_class(label)) or everything for label in range(len(class_names))]
