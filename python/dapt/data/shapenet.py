"""ShapeNet-55, the usual pre-training dataset: one .npy file per shape, named in lists."""

from dataclasses import dataclass
from pathlib import Path

from dapt.data.arrays import load_npy
from dapt.data.convert import Sample, Source
from dapt.data.file_dataset import FileDataset, read_lines
from dapt.data.registry import register
from dapt.errors import DataError, reading


@register("shapenet55")
@dataclass(kw_only=True)
class ShapeNet55(FileDataset):
    """CAD shapes of 55 classes, 8192 points each; a class is named by its synset.

    Args:
        root: The folder with `ShapeNet-55/train.txt`, `ShapeNet-55/test.txt` and `shapenet_pc`.
        whole: Whether to train on both lists, as Point-MAE's pre-training does.
    """

    root: Path
    whole: bool = False

    def _lists(self, split: str) -> list[Path]:
        splits = ["train", "test"] if self.whole and split == "train" else [split]
        return [self.root / "ShapeNet-55" / f"{name}.txt" for name in splits]

    def files(self, split: str) -> list[Path]:
        # the training list also numbers the classes of the test split
        lists = self._lists(split)
        clouds = [self.root / "shapenet_pc" / line for path in lists for line in read_lines(path)]
        return [self._lists("train")[0], *lists, *clouds]

    def read(self, split: str) -> Source:
        class_names = sorted({_synset(line) for line in read_lines(self._lists("train")[0])})
        lines = [line for path in self._lists(split) for line in read_lines(path)]
        unknown = sorted({_synset(line) for line in lines} - set(class_names))
        if unknown:
            raise DataError(f"no shape of class {unknown[0]!r} is in {self._lists('train')[0]}")
        return Source(
            self._lists(split)[0], class_names, len(lines), self._samples(lines, class_names)
        )

    def _samples(self, lines: list[str], class_names: list[str]):
        label_of = {name: label for label, name in enumerate(class_names)}
        for line in lines:
            path = self.root / "shapenet_pc" / line
            with reading(path):
                points = load_npy(path)[:, :3]
            yield Sample(str(path), points, label_of[_synset(line)])


def _synset(line: str) -> str:
    return line.partition("-")[0]
