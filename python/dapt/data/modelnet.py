"""ModelNet40: `modelnet40_normal_resampled`, as text or as the 8192-point .dat; few-shot folds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from dapt.data.clouds import read_table
from dapt.data.convert import Sample, Source
from dapt.data.file_dataset import FileDataset, read_lines
from dapt.data.pickles import load_pickle
from dapt.data.registry import register
from dapt.errors import DataError, UsageError, reading


@register("modelnet40")
@dataclass(kw_only=True)
class ModelNet40(FileDataset):
    """CAD shapes of 40 classes.

    Args:
        root: The folder `modelnet40_normal_resampled`.
        source: The source: text (10,000 points), dat (8192 points), or auto for dat if it exists.
    """

    root: Path
    source: Literal["auto", "dat", "text"] = "auto"

    def __post_init__(self):
        super().__post_init__()
        if self.source not in ("auto", "dat", "text"):
            raise UsageError(f"source must be auto, dat or text, got {self.source!r}")

    def files(self, split: str) -> list[Path]:
        names = self.root / "modelnet40_shape_names.txt"
        pickled = self.root / f"modelnet40_{split}_8192pts_fps.dat"
        if self.source == "dat" or (self.source == "auto" and pickled.is_file()):
            return [names, pickled]
        shapes = self.root / f"modelnet40_{split}.txt"
        return [
            names,
            shapes,
            *(
                self.root / shape.rpartition("_")[0] / f"{shape}.txt"
                for shape in read_lines(shapes)
            ),
        ]

    def read(self, split: str) -> Source:
        names, first, *clouds = self.files(split)
        class_names = read_lines(names)
        if first.suffix == ".dat":
            samples = _dat_samples(first)
            return Source(first, class_names, len(samples), iter(samples))
        unknown = sorted({path.parent.name for path in clouds} - set(class_names))
        if unknown:
            raise DataError(f"{first} lists shapes of {unknown[0]!r}, which {names} does not name")
        return Source(first, class_names, len(clouds), self._text_samples(clouds, class_names))

    def _text_samples(self, clouds: list[Path], class_names: list[str]):
        for path in clouds:
            with reading(path):
                points = read_table(path)
            yield Sample(str(path), points, class_names.index(path.parent.name))


@register("modelnet40_fewshot")
@dataclass(kw_only=True)
class ModelNet40FewShot(FileDataset):
    """The standard few-shot episodes: `way` classes, `shot` training and 20 test clouds of each.

    Args:
        root: The folder `ModelNetFewshot`, with `5way_10shot/0.pkl` and so on.
        way: The number of classes in an episode, 5 or 10.
        shot: The number of training clouds per class, 10 or 20.
        fold: The number of the episode, 0 to 9.
    """

    root: Path
    way: int = 5
    shot: int = 10
    fold: int = 0

    def label(self, split: str) -> str:
        return f"{self.name}-{self.way}way-{self.shot}shot-{self.fold}-{split}"

    def files(self, split: str) -> list[Path]:
        joined = self.root / f"{self.way}way{self.shot}shot" / f"{self.fold}.pkl"
        named = self.root / f"{self.way}way_{self.shot}shot" / f"{self.fold}.pkl"
        return [joined if joined.is_file() else named]

    def read(self, split: str) -> Source:
        [path] = self.files(split)
        content = load_pickle(path)
        try:
            class_of = {}  # label of the episode -> class of ModelNet40
            for _points, label, key in content["train"]:
                if not isinstance(key, str | int | np.integer):
                    raise TypeError
                class_of[int(label)] = str(key)
            samples = [
                Sample(f"{split} cloud {row} of {path}", points[:, :3], int(label))
                for row, (points, label, _key) in enumerate(content[split])
            ]
        except (TypeError, ValueError, KeyError, IndexError) as error:
            raise DataError(
                f"{path} must hold a dict of 'train' and 'test', lists of (points, label, key)"
            ) from error
        class_names = [class_of.get(label, str(label)) for label in range(self.way)]
        return Source(path, class_names, len(samples), iter(samples))


def _dat_samples(path: Path) -> list[Sample]:
    content = load_pickle(path)
    try:
        clouds, labels = content
        return [
            Sample(f"cloud {row} of {path}", points[:, :3], _label(label))
            for row, (points, label) in enumerate(zip(clouds, labels, strict=True))
        ]
    except (TypeError, ValueError, IndexError) as error:
        raise DataError(f"{path} must hold a list of clouds and a list of labels") from error


def _label(label) -> int:
    """Convert a number or an array of one; lists are refused, as they could be nested deeply."""
    if not isinstance(label, int | np.integer | np.ndarray):
        raise TypeError
    return int(np.ravel(label)[0])
