"""ScanObjectNN, from the h5 files in the published folder `h5_files`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from dapt.data.arrays import H5
from dapt.data.convert import Sample, Source
from dapt.data.file_dataset import FileDataset
from dapt.data.registry import register
from dapt.errors import DataError, UsageError, listed, reading

CLASS_NAMES = [
    *("bag", "bin", "box", "cabinet", "chair", "desk", "display", "door"),
    *("shelf", "table", "bed", "pillow", "sink", "sofa", "toilet"),
]
Variant = Literal["bg", "only", "hardest", "pb_t25", "pb_t25_r", "pb_t50_r"]
FILES = {
    "bg": "main_split/{}_objectdataset.h5",
    "only": "main_split_nobg/{}_objectdataset.h5",
    "hardest": "main_split/{}_objectdataset_augmentedrot_scale75.h5",
    "pb_t25": "main_split/{}_objectdataset_augmented25_norot.h5",
    "pb_t25_r": "main_split/{}_objectdataset_augmented25rot.h5",
    "pb_t50_r": "main_split/{}_objectdataset_augmentedrot.h5",
}
KINDS = ("fi", "fu", "ii", "iu", "ui", "uu")  # kinds of the dtypes of clouds and labels
ROWS = 256  # clouds read at a time


@register("scanobjectnn")
@dataclass(kw_only=True)
class ScanObjectNN(FileDataset):
    """Real scans of 15 classes, 2048 points each.

    The perturbed variants contain several copies of each object without identifying them, so a
    validation split shares objects with the training part.

    Args:
        root: The folder with `main_split` and `main_split_nobg`.
        variant: bg (OBJ_BG), only (OBJ_ONLY), hardest (PB_T50_RS) or a perturbation in between.
        normalize: Whether each cloud is centered and scaled to the unit ball; off as in published
            work, because the clouds already are.
    """

    root: Path
    variant: Variant = "hardest"
    normalize: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.variant not in get_args(Variant):
            raise UsageError(
                f"variant must be one of {', '.join(get_args(Variant))}, got {self.variant!r}"
            )

    def label(self, split: str) -> str:
        return f"{self.name}-{self.variant}-{split}"

    def files(self, split: str) -> list[Path]:
        name = FILES[self.variant].format({"train": "training", "test": "test"}[split])
        nested = self.root / "h5_files" / name
        return [nested if nested.is_file() else self.root / name]

    def read(self, split: str) -> Source:
        [path] = self.files(split)
        with reading(path), H5(path) as file:
            missing = [key for key in ("data", "label") if key not in file]
            if missing:
                found = listed(file) or "nothing"
                raise DataError(f"{path} must hold 'data' and 'label', and holds {found}")
            data, labels = file.dataset("data"), np.ravel(file["label"])
            shape, kind = data.shape, data.dtype.kind
        if len(shape) != 3 or len(labels) != shape[0] or kind + labels.dtype.kind not in KINDS:
            raise DataError(
                f"{path} must hold 'data' [S, N, 3] and 'label' [S] of whole numbers, "
                f"got {list(shape)} and {labels.dtype} {list(labels.shape)}"
            )
        return Source(path, CLASS_NAMES, len(labels), self._samples(path, labels))

    def _samples(self, path: Path, labels: np.ndarray):
        with reading(path), H5(path) as file:
            clouds = file.dataset("data")
            for start in range(0, len(labels), ROWS):
                for row, points in enumerate(clouds[start : start + ROWS], start):
                    yield Sample(f"cloud {row} of {path}", points, int(labels[row]))
