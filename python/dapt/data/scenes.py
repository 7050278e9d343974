"""Your own scenes with a label for each point, cut into blocks."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dapt.data.arrays import Npz, load_npy
from dapt.data.attributes import read_attributes
from dapt.data.blocks import BlockDataset, Scene, by_name
from dapt.data.channels import PARTS
from dapt.data.clouds import read_cloud
from dapt.data.convert import Source
from dapt.data.file_dataset import read_lines
from dapt.data.labels import IGNORED, as_numbers, count_labels
from dapt.data.registry import register
from dapt.errors import DataError, UsageError, listed, reading

ENDINGS = (".las", ".npy", ".npz", ".pcd", ".ply")


@register("scenes")
@dataclass(kw_only=True)
class Scenes(BlockDataset):
    """Scenes of any size, one per file.

    A file is an .npz with `points` [N, 3] and `labels` [N], and optionally `colors` and
    `normals` [N, 3], `intensity` and `heights` [N]; an .npy [N, 4 or more] with x y z, optionally
    r g b and the normal, and the label last; or a .las, .ply or .pcd with a column of labels.

    Args:
        train: The folder of the training scenes. A `classes.txt` in it names the labels, one per
            line; without it, the labels are those that occur in the training scenes.
        test: The folder of the test scenes, if there is one.
        ignore_label: Points with this label do not count in any loss or score.
    """

    train: Path
    test: Path | None = None
    ignore_label: int | None = None

    def _folder(self, split: str) -> Path:
        folder = self.train if split == "train" else self.test
        if folder is None:
            raise UsageError("the options of dataset 'scenes' name no test folder: set test")
        return folder

    def home(self, split: str) -> Path:
        return self._folder(split)

    def label(self, split: str) -> str:
        return f"{self._folder(split).resolve().name}-{split}"

    def _scenes(self, split: str) -> list[Path]:
        folder = self._folder(split)
        found = by_name(path for path in folder.glob("*.*") if path.suffix.lower() in ENDINGS)
        if not found:
            raise DataError(f"{folder} holds no scenes: they end in {', '.join(ENDINGS)}")
        return found

    @property
    def _names(self) -> Path:
        return self.train / "classes.txt"

    def files(self, split: str) -> list[Path]:
        scenes = self._scenes(split)
        return [*([self._names] if self._names.is_file() else self._scenes("train")), *scenes]

    def read(self, split: str) -> Source:
        if self._names.is_file():
            names = read_lines(self._names)
        else:
            labels = [np.unique(self._read(path).labels) for path in self._scenes("train")]
            labels = np.concatenate(labels)
            count = count_labels(labels[labels != IGNORED], f"labels of {self.train}")
            names = [str(label) for label in range(count)]
        samples = self.blocks(self._read_all(split), split)
        return Source(self._folder(split), ["scene"], None, samples, names)

    def _read_all(self, split: str) -> Iterator[Scene]:
        for path in self._scenes(split):
            yield self._read(path)

    def _read(self, path: Path) -> Scene:
        scene = _read(path, self.channels)
        if self.ignore_label is None:
            return scene
        is_ignored = scene.labels == self.ignore_label
        return scene._replace(labels=np.where(is_ignored, IGNORED, scene.labels))


def _read(path: Path, channels: str) -> Scene:
    if path.suffix.lower() not in (".npy", ".npz"):
        return _of_a_cloud(path, channels)
    with reading(path):
        if path.suffix.lower() == ".npy":
            return _columns(path, load_npy(path))
        with Npz(path) as content:
            missing = {"points", "labels"} - set(content)
            if missing:
                raise DataError(
                    f"{path} must hold 'points' and 'labels', it holds "
                    f"{listed(content) or 'nothing'}"
                )
            points, labels = content["points"], content["labels"]
            known = {name: content[name] for name in PARTS[channels] if name in content}
    return Scene(str(path), points, as_numbers(labels, f"labels of {path}"), **known)


def _of_a_cloud(path: Path, channels: str) -> Scene:
    points = read_cloud(path)
    known = read_attributes(path, len(points), heights="heights" in PARTS[channels])
    if known.labels is None:
        raise DataError(
            f"{path} has no labels of its {len(points)} points: a column of whole numbers, called "
            "label or classification"
        )
    parts = {name: getattr(known, name) for name in PARTS[channels]}
    return Scene(str(path), points, known.labels, **parts)


def _columns(path: Path, table: np.ndarray) -> Scene:
    if table.ndim != 2 or table.shape[1] < 4 or table.dtype.kind not in "fiu":
        raise DataError(
            f"{path} must hold numbers [N, 4 or more], x y z first and the label last, "
            f"got {table.dtype} {list(table.shape)}"
        )
    labels = as_numbers(table[:, -1], f"labels in the last column of {path}")
    between = table[:, 3:-1]
    return Scene(
        str(path),
        table[:, :3],
        labels,
        colors=between[:, :3] if between.shape[1] >= 3 else None,
        normals=between[:, 3:6] if between.shape[1] >= 6 else None,
    )
