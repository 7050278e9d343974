"""Label the points of scans, and write labels and colored clouds."""

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dapt.adapters import AdaptedModel
from dapt.data.clouds import check_cloud
from dapt.data.preprocessing import Preprocessing
from dapt.errors import UsageError, listed, shown
from dapt.files import write_atomically
from dapt.inference.prediction import Cloud
from dapt.inference.rooms import PointLabels, label_room, probabilities
from dapt.inference.score import check_probabilities, reduction
from dapt.tasks import PartSegmentation


@dataclass(frozen=True)
class Scan:
    """One cloud of a file, labeled.

    Args:
        where: The name to use in errors.
        points: The coordinates [N, 3].
        result: The label of each point and its confidence.
        label_names: The names of the labels, in order.
    """

    where: str
    points: np.ndarray  # [N, 3]
    result: PointLabels
    label_names: tuple[str, ...]

    @property
    def name(self) -> str:
        """The stem of the files that it is written to."""
        return _file_name(self.where)

    def counts(self) -> np.ndarray:  # [labels]
        """The number of points of each label."""
        return np.bincount(self.result.labels, minlength=len(self.label_names))

    def shares(self) -> dict[str, float]:
        """The share of points of each label that occurs, largest first."""
        return shares(self.counts(), self.label_names)


def shares(counts: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """The share of points of each label that occurs, largest first.

    Args:
        counts: The number of points of each label [labels].
        names: The names of the labels.
    """
    order = np.argsort(-counts, kind="stable")
    return {names[i]: counts[i] / counts.sum() for i in order if counts[i]}


def label_rooms(
    model: AdaptedModel,
    clouds: Iterable[Cloud],
    trained: Preprocessing,
    block: float,
    stride: float,
) -> Iterator[Scan]:
    """Label scenes with a semantic segmentation model.

    Args:
        model: The trained model.
        clouds: Names and points [N, D] of the scenes.
        trained: How the training scenes were prepared.
        block: The side of the square blocks that a scene is cut into.
        stride: The distance from one block to the next.
    """
    names = model.adapter.task.label_names
    how = {"up": trained.up, "normalize": trained.normalize, "trained": trained}
    for where, points in clouds:
        result = label_room(model, points, trained.num_points, block, stride, where=where, **how)
        yield Scan(where, points[:, :3], result, names)


def category_number(task: PartSegmentation, category: str | None) -> int:
    """Look up the index of a category.

    Args:
        task: The task with its categories.
        category: The name that a user gave; None is refused.
    """
    categories = task.category_names
    if category not in categories:
        wanted = f"choose one of {listed(categories)}"
        raise UsageError(
            f"parts depend on the category: set --category, {wanted}"
            if category is None
            else f"unknown category '{category}': {wanted}"
        )
    return categories.index(category)


def own_parts(task: PartSegmentation, category: str | None) -> np.ndarray:  # [P]
    """Whether each part belongs to a category.

    Args:
        task: The task of the model.
        category: The name of the category.
    """
    return task.own_parts(torch.device("cpu"))[category_number(task, category)].numpy()


def label_objects(
    model: AdaptedModel, clouds: Iterable[Cloud], trained: Preprocessing, category: str | None
) -> Iterator[Scan]:
    """Label objects of a category with a part segmentation model.

    Args:
        model: The trained model.
        clouds: The clouds to label.
        trained: How the training clouds were prepared.
        category: The category of all clouds.
    """
    task = model.adapter.task
    number = torch.tensor([category_number(task, category)], device=model.device)
    names = task.label_names
    own = own_parts(task, category)
    model.eval()
    for where, points in clouds:
        check_cloud(where, points[:, :3], trained.num_points)
        ready = trained.ready(points)
        trained.compare(where, reduction(trained.num_points)(ready, None))
        chances = probabilities(model, ready[0].numpy(), trained.num_points, False, number)
        yield Scan(where, points[:, :3], best_of(where, chances, own), names)


def best_of(where: str, chances: np.ndarray, own: np.ndarray) -> PointLabels:
    """Choose the most likely of a category's parts for each point.

    Its confidence is relative to the category's parts only.

    Args:
        where: The name of the cloud.
        chances: The probabilities of all parts [N, P].
        own: Whether each part belongs to the category [P].
    """
    check_probabilities(where, chances)
    labels = np.where(own, chances, -1.0).argmax(1)
    best = chances[np.arange(len(labels)), labels]
    best = best / np.maximum(chances[:, own].sum(1), np.finfo(chances.dtype).tiny)
    return PointLabels(labels, best)


def _file_name(where: str) -> str:
    """clouds.npz[3] -> clouds_3"""
    path, _, row = where.rstrip("]").partition("[")
    return f"{Path(path).stem}_{row}" if row else Path(path).stem


def write(scan: Scan, folder: Path) -> tuple[Path, Path]:
    """Write `<name>_labels.npy` and the colored cloud `<name>_labels.ply`, and return their paths.

    Args:
        scan: The labeled scan.
        folder: The folder of both files.
    """
    buffer = io.BytesIO()
    np.save(buffer, scan.result.labels)
    labels, cloud = (folder / f"{scan.name}_labels{suffix}" for suffix in (".npy", ".ply"))
    write_atomically(labels, buffer.getvalue())
    write_atomically(cloud, ply(scan))
    return labels, cloud


def ply(scan: Scan) -> bytes:
    """Encode a scan as binary PLY: coordinates, color of the label, label and confidence.

    Args:
        scan: The labeled scan.
    """
    labels, confidence = scan.result
    rows = ply_rows(scan.points, labels, confidence, len(scan.label_names))
    return ply_head(len(rows), scan.label_names) + rows.tobytes()


COLUMNS = {"x": "<f8", "y": "<f8", "z": "<f8", "red": "u1", "green": "u1", "blue": "u1"}
COLUMNS |= {"label": "<i4", "confidence": "<f4"}


def ply_head(count: int, names: Sequence[str]) -> bytes:
    """The header of a colored PLY file.

    Args:
        count: The number of points.
        names: The names of the labels.
    """
    types = {"<f8": "double", "u1": "uchar", "<i4": "int", "<f4": "float"}
    header = ["ply", "format binary_little_endian 1.0"]
    header += [f"comment label {i}: {shown(name)}" for i, name in enumerate(names)]
    header += [f"element vertex {count}"]
    header += [f"property {types[kind]} {name}" for name, kind in COLUMNS.items()]
    return "\n".join([*header, "end_header", ""]).encode()


def ply_rows(
    points: np.ndarray, labels: np.ndarray, confidence: np.ndarray, count: int
) -> np.ndarray:
    """The points of a colored PLY file.

    Args:
        points: [n, 3].
        labels: [n].
        confidence: [n].
        count: The number of different labels.
    """
    rows = np.empty(len(points), list(COLUMNS.items()))
    for axis, name in enumerate("xyz"):
        rows[name] = points[:, axis]
    colors = palette(count)[labels]
    for channel, name in enumerate(("red", "green", "blue")):
        rows[name] = colors[:, channel]
    rows["label"], rows["confidence"] = labels, confidence
    return rows


def palette(count: int) -> np.ndarray:  # [count, 3] uint8
    """Distinguishable colors, uint8 [count, 3].

    Hues are a golden section apart, so that successive ones differ, in three lightnesses of OKLCH,
    so that none stands out.

    Args:
        count: The number of colors.
    """
    order = np.arange(count)
    hue = 2 * np.pi * ((0.72 + 0.6180339887 * order) % 1)
    lightness = np.array([0.66, 0.79, 0.56])[order % 3]
    chroma = np.array([0.135, 0.125, 0.13])[order % 3]
    lab = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], 1)
    return (_srgb(lab) * 255).round().astype(np.uint8)


def _srgb(lab: np.ndarray) -> np.ndarray:  # [count, 3]
    """From OKLab: https://bottosson.github.io/posts/oklab"""
    to_cones = np.array(
        [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728],
         [1, -0.0894841775, -1.2914855480]]
    )  # fmt: skip
    to_linear = np.array(
        [[4.0767416621, -3.3077115913, 0.2309699292], [-1.2684380046, 2.6097574011, -0.3413193965],
         [-0.0041960863, -0.7034186147, 1.7076147010]]
    )  # fmt: skip
    linear = ((lab @ to_cones.T) ** 3 @ to_linear.T).clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
