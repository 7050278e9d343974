"""ShapeNetPart: `shapenetcore_partanno_segmentation_benchmark_v0_normal`, text with part labels."""

import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dapt.data.blocks import at_least
from dapt.data.convert import Sample, Source
from dapt.data.file_dataset import FileDataset, read_lines
from dapt.data.registry import register
from dapt.errors import DataError, reading

# the number of parts per category, in the order in which the 50 parts are numbered
PARTS = {
    "Airplane": 4, "Bag": 2, "Cap": 2, "Car": 4, "Chair": 4, "Earphone": 3, "Guitar": 3,
    "Knife": 2, "Lamp": 4, "Laptop": 2, "Motorbike": 6, "Mug": 2, "Pistol": 3, "Rocket": 3,
    "Skateboard": 3, "Table": 3,
}  # fmt: skip


@register("shapenetpart")
@dataclass(kw_only=True)
class ShapeNetPart(FileDataset):
    """CAD shapes of 16 categories with 50 parts; as usual, both train and val lists are trained on.

    Args:
        root: The folder with `synsetoffset2category.txt`, `train_test_split` and the shapes.
        num_points: The number of points to keep per shape; a shape of fewer repeats some.
    """

    root: Path
    num_points: int = 2500

    @property
    def _categories(self) -> Path:
        return self.root / "synsetoffset2category.txt"

    def _lists(self, split: str) -> list[Path]:
        names = ("train", "val") if split == "train" else ("test",)
        folder = self.root / "train_test_split"
        return [folder / f"shuffled_{name}_file_list.json" for name in names]

    def _shapes(self, split: str) -> list[Path]:
        """Listed as shape_data/<synset>/<id>."""
        shapes = []
        for path in self._lists(split):
            with reading(path):
                lines = json.loads(path.read_text())
            if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
                raise DataError(f"{path} must hold a list of names")
            for line in lines:
                *_, synset, name = ["", *line.split("/")]
                shapes.append(self.root / synset / f"{name}.txt")
        return shapes

    def files(self, split: str) -> list[Path]:
        return [self._categories, *self._lists(split), *self._shapes(split)]

    def read(self, split: str) -> Source:
        category_of = {}  # synset -> number of the category
        for line in read_lines(self._categories):
            name, _, synset = line.partition("\t")
            if name not in PARTS:
                raise DataError(
                    f"{self._categories} names the category {name!r}: the known ones are "
                    f"{', '.join(PARTS)}"
                )
            category_of[synset.strip()] = list(PARTS).index(name)
        shapes = self._shapes(split)
        unknown = sorted({path.parent.name for path in shapes} - set(category_of))
        if unknown:
            raise DataError(
                f"{self._lists(split)[0]} lists a shape of category {unknown[0]!r}, which "
                f"{self._categories} does not name"
            )
        ends = np.cumsum([0, *PARTS.values()]).tolist()
        return Source(
            self._lists(split)[0],
            list(PARTS),
            len(shapes),
            self._samples(shapes, category_of),
            [f"{name} {part}" for name, count in PARTS.items() for part in range(count)],
            [list(range(a, b)) for a, b in zip(ends[:-1], ends[1:], strict=True)],
        )

    def _samples(self, shapes: list[Path], category_of: dict[str, int]) -> Iterator[Sample]:
        for path in shapes:
            with reading(path), warnings.catch_warnings():
                warnings.simplefilter("error")  # an empty file only causes a warning
                table = np.loadtxt(path, ndmin=2)
            if table.shape[1] != 7:
                raise DataError(
                    f"{path} must hold lines of x y z, normal and part label, "
                    f"got {table.shape[1]} columns"
                )
            kept = at_least(np.arange(len(table)), self.num_points)
            points, parts = table[kept, :3], table[kept, 6].astype(np.int64)
            yield Sample(str(path), points, category_of[path.parent.name], parts)
