"""What is looked at: clouds of files, or of a run's data, with what a run's model says of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from dapt.adapters import AdaptedModel
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
from dapt.data.clouds import check_finite, read_cloud, upright
from dapt.data.labels import as_names
from dapt.errors import DataError, UsageError, listed, reading
from dapt.inference.labeling import palette
from dapt.runs.settings import Settings
from dapt.view.clouds import Channel, Classes, Cloud, Colors, Facts, Normals, Tokens, Values
from dapt.view.insight import Insight, look_at_cloud, look_at_room
from dapt.view.style import RIGHT, UNLABELED, WRONG, hex_of

PROBABLE = 5  # classes that are listed with their probability
Names = dict[str, list[tuple[str, str]]]
OUTCOME = [("right", RIGHT), ("wrong", WRONG), ("no label", UNLABELED)]


@dataclass(frozen=True)
class Subject:
    """A cloud before a model has seen it.

    Args:
        name: What the page calls it.
        points: float64 [N, 3], in the file's coordinates.
        attributes: What else the file says of the points.
        truth: The name of its class, where that is known.
        up: The axis that points up.
    """

    name: str
    points: np.ndarray
    attributes: Attributes = field(default_factory=Attributes)
    truth: str | None = None
    up: str = "y"


def of_file(path: str | Path, up: str | None = None) -> Iterator[Subject]:
    """The subjects in a file of points: one, or of an .npz file as many as it has clouds.

    Args:
        path: of the file.
        up: the axis that points up; found from the points by default.
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
    """Samples of a dataset, spread evenly over it.

    Args:
        dataset: of any kind.
        limit: most samples.
    """
    count = min(limit, len(dataset))
    yield from of_rows(dataset, np.linspace(0, len(dataset) - 1, count).round().astype(int))


def of_rows(dataset: PointDataset, rows: Sequence[int]) -> Iterator[Subject]:
    """Samples of a dataset by their numbers; their points are upright.

    Args:
        dataset: of any kind.
        rows: numbers of samples.
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
    """z for what is wide and flat along z, as scans of the ground are; else y, as most datasets
    have it.

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
    """Arrays of the same length that belong to a cloud by their names: `<name>_color` and such."""
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


@dataclass(frozen=True)
class Observer:
    """A run's model, and how it is used to see clouds.

    Args:
        model: The trained model.
        settings: Of the run.
        category: Of the objects, where their parts are labeled and files do not say it.
        block: Side of a scene's blocks; by default the run's.
        stride: From block to block; by default half a block.
        up: The axis of files that points up; by default the run's.
    """

    model: AdaptedModel
    settings: Settings
    category: str | None = None
    block: float | None = None
    stride: float | None = None
    up: str | None = None

    @property
    def is_for_rooms(self) -> bool:
        """Whether the model labels scenes."""
        return self.model.adapter.task.name == "semantic_segmentation"

    def up_of_files(self) -> str:
        """The axis that points up in files."""
        return self.up or self.settings.data.get("up", "z" if self.is_for_rooms else "y")

    def look(self, subject: Subject, is_sample: bool = False) -> Insight:
        """What the model makes of a subject.

        Args:
            subject: a cloud or a room.
            is_sample: whether it comes from a dataset, so that it is already normalized and cut.
        """
        num_points = self.settings.training.num_points
        normalize = bool(self.settings.data.get("normalize", True)) and not is_sample
        if self.is_for_rooms and not is_sample:
            block = self.block or float(self.settings.data.get("block", 1.0))
            stride = self.stride or block / 2
            grid = {"block": block, "stride": stride, "up": subject.up}
            return look_at_room(
                self.model, subject.points, num_points, normalize, **grid, where=subject.name
            )
        if len(subject.points) < num_points:
            raise DataError(
                f"{subject.name} has {len(subject.points)} points, and the network was trained on "
                f"{num_points}: give a denser cloud"
            )
        inputs = self._category(subject)
        points = upright(subject.points, subject.up)
        return look_at_cloud(self.model, points, num_points, normalize, *inputs)

    def _category(self, subject: Subject) -> tuple[torch.Tensor, ...]:
        task = self.model.adapter.task
        if task.name != "part_segmentation":
            return ()
        chosen = self.category or subject.truth
        if chosen not in task.category_names:
            wanted = f"choose one of {listed(task.category_names)}"
            raise UsageError(
                f"parts are those of a category: --category must be given, {wanted}"
                if chosen is None
                else f"unknown category '{chosen}': {wanted}"
            )
        return (torch.tensor([task.category_names.index(chosen)], device=self.model.device),)


class Portrayal:
    """Turns subjects and insights into clouds of one page, and collects its tables of names.

    Args:
        label_names: what the model tells apart, in its order.
        max_points: a larger cloud is thinned at random to so many.
    """

    def __init__(self, label_names: Sequence[str] = (), max_points: int = 500_000):
        self.max_points = max_points
        self._labels = list(label_names)  # what the model tells apart, in its order
        self._extra: dict[str, int] = {}  # further labels of files

    def names(self) -> Names:
        """The tables of names and colors that the channels point to."""
        entries = [*self._labels, *self._extra]
        colors = [hex_of(color) for color in palette(len(entries))]
        table = list(zip(entries, colors, strict=True))
        return {"labels": [("unlabeled", UNLABELED), *table], "outcome": OUTCOME}

    def cloud(self, subject: Subject, insight: Insight | None = None) -> Cloud:
        """A subject as the page shows it.

        Args:
            subject: what is shown.
            insight: what the model makes of it, if one has looked.
        """
        keep = slice(None)
        if len(subject.points) > self.max_points:
            order = np.random.default_rng(0).permutation(len(subject.points))
            keep = np.sort(order[: self.max_points])
        channels = self._of_file(subject, keep)
        lines, verdict, probabilities = [], None, ()
        if insight is not None:
            channels = [*self._of_insight(subject, insight, keep), *channels]
            probabilities = self._probable(insight)
        if subject.truth is not None:
            lines.append(("class", subject.truth))
            if probabilities:
                verdict = "right" if probabilities[0][0] == subject.truth else "wrong"
        if len(subject.points) > self.max_points:
            lines.append(("in the file", f"{len(subject.points):,} points"))
        outcome = self._outcome(subject, insight)
        if outcome is not None:
            share = (outcome == 0).sum() / max((outcome < 2).sum(), 1)
            lines.append(("points right", f"{100 * share:.1f} %"))
        first = _first(channels)
        facts = Facts(lines, probabilities, verdict)
        return Cloud(subject.name, subject.points[keep], channels, subject.up, facts, first)

    def _probable(self, insight: Insight) -> list[tuple[str, float]]:
        if insight.probabilities is None:
            return []
        best = np.argsort(-insight.probabilities, kind="stable")[:PROBABLE]
        return [(self._labels[i], round(float(insight.probabilities[i]), 4)) for i in best]

    def _of_file(self, subject: Subject, keep) -> list[Channel]:
        told, channels = subject.attributes, []
        if told.colors is not None:
            channels.append(Colors("rgb", "Color", told.colors[keep], note="As in the file."))
        if told.labels is not None:
            numbers = self._numbered(told.labels[keep], told.label_names)
            channels.append(Classes("label", "Label", numbers, "labels"))
        if told.normals is not None:
            note = "Red, green and blue are right, up and toward you."
            channels.append(Normals("normals", "Normals", told.normals[keep], note=note))
        for i, (name, values) in enumerate(told.values.items()):
            channels.append(Values(f"value{i}", name.capitalize(), values[keep]))
        return channels

    def _of_insight(self, subject: Subject, insight: Insight, keep) -> list[Channel]:
        channels = []
        if insight.labels is not None:
            channels.append(Classes("predicted", "Predicted", 1 + insight.labels[keep], "labels"))
            confidence = Values(
                "confidence", "Confidence", insight.confidence[keep], "confidence", (0.0, 1.0), True
            )
            channels.append(confidence)
            outcome = self._outcome(subject, insight)
            if outcome is not None:
                channels.append(Classes("outcome", "Right or wrong", outcome[keep], "outcome"))
        if insight.scales is not None:
            note = "How much the dynamic adapter of a block adds at the patch around a point."
            scales = Tokens(
                "scale", "Adapter scale", insight.scales, insight.token[keep], note=note
            )
            channels.append(scales)
        if insight.attention is not None:
            note = "The share of its attention that the class token gives to the patch of a point."
            attention = insight.attention, insight.token[keep]
            channels.append(Tokens("attention", "Attention", *attention, "plain", note=note))
        return channels

    def _outcome(self, subject: Subject, insight: Insight | None) -> np.ndarray | None:
        """Of each point its place among OUTCOME; None where the file has no label of the model."""
        labels = subject.attributes.labels
        if insight is None or insight.labels is None or labels is None:
            return None
        truth = self._numbered(labels, subject.attributes.label_names)
        known = (truth > 0) & (truth <= len(self._labels))
        wrong = (truth != 1 + insight.labels).astype(np.int64)
        return np.where(known, wrong, 2) if known.any() else None

    def _numbered(self, labels: np.ndarray, label_names: Mapping[int, str]) -> np.ndarray:
        """Places in the table of labels; what has no label gets the first one."""
        numbers = np.zeros(len(labels), np.int64)
        for label in np.unique(labels):
            if label >= 0:
                numbers[labels == label] = 1 + self._place(int(label), label_names)
        return numbers

    def _place(self, label: int, label_names: Mapping[int, str]) -> int:
        name = label_names.get(label)
        if name is None and label < len(self._labels):
            return label
        name = str(label) if name is None else name
        if name in self._labels:
            return self._labels.index(name)
        return len(self._labels) + self._extra.setdefault(name, len(self._extra))


def _first(channels: Sequence[Channel]) -> str | None:
    """What tells the most, of what there is."""
    present = {channel.key for channel in channels}
    wanted = ("predicted", "scale", "rgb", "label")
    return next((key for key in wanted if key in present), None)
