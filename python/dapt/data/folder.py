"""A folder of clouds or meshes per class: the folder's name is the class."""

import csv
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from dapt.data.channels import Channels, all_upright, check_channels, read_beside
from dapt.data.clouds import READERS, check_up, read_cloud
from dapt.data.convert import Sample, Source
from dapt.data.file_dataset import FileDataset
from dapt.data.registry import register
from dapt.errors import DataError, UsageError, listed, reading


@register("folder")
@dataclass(kw_only=True)
class Folder(FileDataset):
    """Files `<class>/<name>`: ply, pcd, off, obj, xyz, txt, csv, npy or las; meshes are sampled by
    area.

    Args:
        train: The training folder, with one folder per class. If the split is a folder inside the
            class, a * stands for the class: `ModelNet10/*/train`.
        test: The test folder, if there is one; its classes are among those of the training folder.
        num_points: Points per cloud; a mesh is sampled with as many, a larger cloud is thinned.
        up: The vertical axis; clouds are turned so that it is y, as in the data that the backbones
            were pre-trained on.
        channels: What a point has besides its coordinates, for backbones that read it: color,
            normal for color and normal, intensity, or height above the ground. Channels that a file
            lacks are zero.
        groups: A text file with a line `<class>/<name>,<group>` for each file with near-duplicates;
            a group stays on one side of a validation split.
    """

    train: Path
    test: Path | None = None
    groups: Path | None = None
    num_points: int = 2048
    up: Literal["x", "y", "z"] = "y"
    channels: Channels = "xyz"

    def __post_init__(self):
        super().__post_init__()
        check_up(self.up)
        check_channels(self.channels)

    def _base(self, split: str) -> tuple[Path, str]:
        """The parent of the class folders, and the path of the files within a class folder."""
        path = self.train if split == "train" else self.test
        if path is None:
            raise UsageError("the options of dataset 'folder' name no test folder: set test")
        before, _, after = str(path).partition("*")
        return Path(before), after.strip("/")

    def home(self, split: str) -> Path:
        base = self._base(split)[0].resolve()
        return base if base.name == "" else base.parent

    def label(self, split: str) -> str:
        return f"{self._base(split)[0].resolve().name}-{split}"

    def _classes(self, split: str) -> dict[str, list[Path]]:
        """The files of each class, in order."""
        base, inner = self._base(split)
        if not base.is_dir():
            raise DataError(f"cannot read the folder {base}: it does not exist")
        classes = {}
        for folder in sorted(base.iterdir()):
            if folder.is_dir() and not folder.name.startswith("."):
                classes[folder.name] = sorted(
                    path
                    for path in (folder / inner).rglob("*")
                    if path.suffix.lower() in READERS and not path.name.startswith(".")
                )
        if not classes:
            raise DataError(f"{base} has no folders, and it must have one for each class")
        for name, files in classes.items():
            if not files:
                kinds = ", ".join(sorted(READERS))
                raise DataError(f"class {name!r} is empty: {base / name / inner} has no {kinds}")
        return classes

    def files(self, split: str) -> list[Path]:
        base = self._base("train")[0]  # its folders number the classes of both splits
        numbering = [base / name for name in self._classes("train")]
        named = [] if self.groups is None else [self.groups]
        return (
            numbering + named + [path for files in self._classes(split).values() for path in files]
        )

    def read(self, split: str) -> Source:
        class_names = list(self._classes("train"))
        classes = self._classes(split)
        unknown = sorted(set(classes) - set(class_names))
        if unknown:
            raise DataError(
                f"class {unknown[0]!r} of {self.test} is not a class of {self.train}: "
                f"{listed(class_names)}"
            )
        labeled = [(path, name) for name, files in classes.items() for path in files]
        groups = self._groups([self._name(split, path) for path, _ in labeled])
        samples = (
            self._sample(split, path, class_names.index(name))._replace(scene=group)
            for (path, name), group in zip(labeled, groups, strict=True)
        )
        return Source(self._base(split)[0], class_names, len(labeled), samples)

    def _name(self, split: str, path: Path) -> str:
        return path.relative_to(self._base(split)[0]).as_posix()

    def _groups(self, names: list[str]) -> list[int] | list[None]:
        """A group number for each file; a file that is not listed is its own group."""
        if self.groups is None:
            return [None] * len(names)
        with reading(self.groups), open(self.groups, newline="") as file:
            lines = [line for line in csv.reader(file, skipinitialspace=True) if line]
        of_name = {}
        for line in lines:
            if len(line) != 2:
                raise DataError(
                    f"{self.groups} must have lines `class/file,group`, got {','.join(line)!r:.80}"
                )
            of_name[line[0].strip()] = ("group", line[1].strip())
        if of_name and not of_name.keys() & set(names):
            raise DataError(
                f"{self.groups} names no file of the data: its first line is of "
                f"{next(iter(of_name))!r:.80}, and the first file is {names[0]!r:.80}"
            )
        units = [of_name.get(name, ("file", name)) for name in names]
        numbers = {unit: number for number, unit in enumerate(dict.fromkeys(units))}
        return [numbers[unit] for unit in units]

    def _sample(self, split: str, path: Path, label: int) -> Sample:
        seed = zlib.crc32(self._name(split, path).encode())
        points = read_cloud(path, self.num_points, seed)
        if self.channels == "xyz":
            return Sample(str(path), all_upright(points, self.up), label)
        beside, _ = read_beside(path, self.channels, len(points), seed)
        cloud = all_upright(np.concatenate([points, beside], 1), self.up)
        return Sample(str(path), cloud[:, :3], label, channels=cloud[:, 3:])
