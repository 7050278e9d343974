"""The clouds to show: from files or from a dataset, without a model's view of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from dapt.data import PointDataset
from dapt.data.arrays import Npz
from dapt.data.attributes import (
    Attributes,
    as_colors,
    as_labels,
    named_columns,
    of_columns,
    read_attributes,
)
from dapt.data.clouds import check_finite, read_cloud
from dapt.data.labels import as_names
from dapt.errors import DataError, listed, reading


@dataclass(frozen=True)
class Subject:
    """A cloud to show.

    Args:
        name: Its name on the page.
        points: The points in the file's coordinates, float64 [N, 3].
        attributes: What else the file says about the points.
        truth: The name of its class, if known.
        up: The vertical axis.
    """

    name: str
    points: np.ndarray
    attributes: Attributes = field(default_factory=Attributes)
    truth: str | None = None
    up: str = "y"


def of_file(path: str | Path, up: str | None = None) -> Iterator[Subject]:
    """Read the subjects in a file: one, or all clouds of an .npz file.

    Args:
        path: The file.
        up: The vertical axis; guessed from the points by default.
    """
    path = Path(path)
    if path.suffix.lower() == ".npz":
        found = _of_npz(path)
    else:
        points = read_cloud(path)
        found = [Subject(path.name, points, read_attributes(path, len(points)))]
    for subject in found:
        check_finite(subject.name, subject.points)
        yield replace(subject, up=up or probable_up(subject.points))


def of_dataset(dataset: PointDataset, limit: int) -> Iterator[Subject]:
    """Take evenly spread samples from a dataset.

    Args:
        dataset: The dataset.
        limit: The largest number of samples.
    """
    count = min(limit, len(dataset))
    yield from of_rows(dataset, np.linspace(0, len(dataset) - 1, count).round().astype(int))


def of_rows(dataset: PointDataset, rows: Sequence[int]) -> Iterator[Subject]:
    """Take samples from a dataset by index; their points are upright.

    Args:
        dataset: The dataset.
        rows: The indices of the samples.
    """
    names = dict(enumerate(dataset.part_names))
    for row in rows:
        batch = dataset.batch([row])
        points = batch["points"][0].numpy().astype(np.float64)
        parts = batch["part_labels"][0].numpy() if "part_labels" in batch else None
        truth = dataset.class_names[int(batch["labels"][0])] if dataset.num_classes > 1 else None
        yield Subject(
            f"{truth or 'block'} #{row}", points, Attributes(labels=parts, label_names=names), truth
        )


def probable_up(points: np.ndarray) -> str:
    """Guess the vertical axis: z for points that are wide and flat along z, such as scans of the
    ground; otherwise y, as in most datasets.

    Args:
        points: [N, 3].
    """
    extent = np.ptp(points, axis=0)
    return "z" if 2 * extent[2] < min(extent[0], extent[1]) else "y"


def _of_npz(path: Path) -> Iterator[Subject]:
    with reading(path), Npz(path) as file:
        arrays = dict(file)
    points = arrays.get("points", arrays.get("data"))
    if points is not None and points.ndim == 3:
        yield from _of_set(path, points, arrays)
        return
    found = False
    for name, table in arrays.items():
        if table.ndim == 2 and table.shape[1] in (3, 4, 6, 7) and table.dtype.kind in "fiu":
            if name.endswith(("_color", "_colors", "_normals")):
                continue
            found = True
            title = path.name if name in ("points", "data") else f"{path.stem}: {name}"
            yield Subject(title, table[:, :3].astype(np.float64), _beside(name, table, arrays))
    if not found:
        held = listed(arrays) or "nothing"
        raise DataError(f"{path} must hold points [N, 3] or [S, N, 3], it holds {held}")


def _beside(name: str, table: np.ndarray, arrays: dict[str, np.ndarray]) -> Attributes:
    """The arrays of the same length that belong to a cloud by name, such as `<name>_color`."""
    plain = "" if name in ("points", "data") else f"{name}_"
    attributes = of_columns(named_columns(table), {})
    for end in ("color", "colors"):
        rgb = arrays.get(plain + end)
        if rgb is not None and len(rgb) == len(table):
            attributes = replace(attributes, colors=as_colors(rgb))
    for end in ("label", "labels", "class", "part_labels", "segment_index"):
        labels = arrays.get(plain + end)
        if labels is not None and labels.shape == (len(table),) and labels.dtype.kind in "fiub":
            names = arrays.get("part_names", arrays.get("class_names", np.zeros(0, "U1")))
            named = dict(enumerate(as_names(names)))
            attributes = replace(attributes, labels=as_labels(labels), label_names=named)
    normals = arrays.get(plain + "normals")
    if normals is not None and normals.shape == (len(table), 3):
        attributes = replace(attributes, normals=normals.astype(np.float64))
    return attributes


def _of_set(path: Path, points: np.ndarray, arrays: dict[str, np.ndarray]) -> Iterator[Subject]:
    if points.shape[2] not in (3, 4, 6, 7) or points.dtype.kind not in "fiu":
        raise DataError(f"points of {path} must be numbers [S, N, 3], got {list(points.shape)}")
    labels, parts = arrays.get("labels", arrays.get("label")), arrays.get("part_labels")
    if labels is not None and labels.shape[:1] != points.shape[:1]:
        labels = None
    class_names = as_names(arrays["class_names"]) if "class_names" in arrays else None
    part_names = dict(enumerate(as_names(arrays.get("part_names", np.zeros(0, "U1")))))
    for row, table in enumerate(points):
        attributes = of_columns(named_columns(table), {})
        if parts is not None and parts.shape == points.shape[:2]:
            named = as_labels(parts[row])
            attributes = replace(attributes, labels=named, label_names=part_names)
        truth = None if labels is None else _name_of(np.ravel(labels[row])[0], class_names)
        yield Subject(f"{path.name}[{row}]", table[:, :3].astype(np.float64), attributes, truth)


def _name_of(label: object, names: Sequence[str] | None) -> str:
    if isinstance(label, str | bytes):
        return label.decode() if isinstance(label, bytes) else str(label)
    number = int(label)
    return names[number] if names is not None and 0 <= number < len(names) else str(number)
