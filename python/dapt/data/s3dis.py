"""S3DIS, rooms of six areas: blocks in h5 files, rooms in .npy files, or the published texts."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dapt.data.arrays import H5, load_npy
from dapt.data.blocks import BlockDataset, Scene, by_name
from dapt.data.clouds import read_table, upright
from dapt.data.convert import Sample, Source
from dapt.data.file_dataset import read_lines
from dapt.data.registry import register
from dapt.errors import DataError, UsageError, reading

CLASS_NAMES = [
    *("ceiling", "floor", "wall", "beam", "column", "window", "door"),
    *("table", "chair", "sofa", "bookcase", "board", "clutter"),
]
AREAS = [f"Area_{number}" for number in range(1, 7)]


@register("s3dis")
@dataclass(kw_only=True)
class S3dis(BlockDataset):
    """Rooms with 13 classes of points, in any of three forms.

    Args:
        root: `indoor3d_sem_seg_hdf5_data` with its blocks of 4096 points, a folder of
            `Area_1_office_1.npy` files (x y z r g b label), or
            `Stanford3dDataset_v1.2_Aligned_Version` with `Area_1/office_1/Annotations/*.txt`.
        test_area: The area of the test split, 1 to 6; the other areas are for training.
    """

    root: Path
    test_area: int = 5

    def __post_init__(self):
        super().__post_init__()
        if self.test_area not in range(1, 7):
            raise UsageError(f"test_area must lie in 1 to 6, got {self.test_area}")

    def label(self, split: str) -> str:
        return f"{self.name}-{self.test_area}-{split}"

    def _areas(self, split: str) -> list[str]:
        test = AREAS[self.test_area - 1]
        return [test] if split == "test" else [area for area in AREAS if area != test]

    @property
    def _list(self) -> Path:
        return self.root / "all_files.txt"

    def files(self, split: str) -> list[Path]:
        if self._list.is_file():
            names = [Path(line).name for line in read_lines(self._list)]
            return [self._list, self.root / "room_filelist.txt", *(self.root / n for n in names)]
        found = []
        for area in self._areas(split):
            found += by_name(self.root.glob(f"{area}_*.npy"))
            found += by_name(self.root.glob(f"{area}/*/Annotations/*.txt"))
        if not found:
            raise DataError(
                f"{self.root} holds nothing for {' or '.join(self._areas(split))}: it must have "
                "all_files.txt, Area_*.npy or Area_*/*/Annotations/*.txt"
            )
        return found

    def read(self, split: str) -> Source:
        if self._list.is_file():
            rooms = read_lines(self.root / "room_filelist.txt")
            samples = self._h5_blocks(self.files(split)[2:], rooms, split)
            count = sum(_area(room) in self._areas(split) for room in rooms)
        else:
            samples, count = self.blocks(self._rooms(self.files(split)), split), None
        return Source(self.root, AREAS, count, samples, CLASS_NAMES)

    def _h5_blocks(self, files: list[Path], rooms: list[str], split: str) -> Iterator[Sample]:
        numbers = {room: number for number, room in enumerate(dict.fromkeys(rooms))}
        remaining = iter(rooms)
        for path in files:
            with reading(path), H5(path) as file:
                for row, (block, labels) in enumerate(
                    zip(file.dataset("data"), file.dataset("label"), strict=True)
                ):
                    room = next(remaining, None)
                    if room is None:
                        raise DataError(
                            f"{path} holds more blocks than room_filelist.txt has lines"
                        )
                    if _area(room) in self._areas(split):
                        where, area = f"block {row} of {path}", AREAS.index(_area(room))
                        scene = Scene(where, block[:, :3], labels, area, colors=block[:, 3:6])
                        yield Sample(
                            where,
                            upright(block[:, :3], self.up),
                            area,
                            labels,
                            numbers[room],
                            self.channels_of(scene),
                        )

    def _rooms(self, files: list[Path]) -> Iterator[Scene]:
        rooms: dict[Path, list[Path]] = {}
        for path in files:
            room = path if path.suffix == ".npy" else path.parent.parent
            rooms.setdefault(room, []).append(path)
        for room, parts in rooms.items():
            read = _read_npy if room.suffix == ".npy" else _read_annotations
            table, labels = read(parts)
            name = room.name if room.suffix == ".npy" else room.parent.name
            area = AREAS.index(_area(name))
            yield Scene(str(room), table[:, :3], labels, area, colors=table[:, 3:])


def _area(room: str) -> str:
    """Area_1_office_1 -> Area_1"""
    return "_".join(room.split("_")[:2])


def _read_npy(parts: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Read x y z r g b [N, 6], and labels."""
    [path] = parts
    with reading(path):
        table = load_npy(path)
    if table.ndim != 2 or table.shape[1] != 7:
        raise DataError(f"{path} must hold x y z r g b label, [N, 7], got {list(table.shape)}")
    return table[:, :6], table[:, 6].astype(np.int64)


def _read_annotations(parts: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Read a file like `chair_1.txt` for each object; unknown classes are clutter."""
    tables, labels = [], []
    for path in parts:
        with reading(path):
            tables.append(read_table(path, columns=6))
        name = path.stem.partition("_")[0]
        label = CLASS_NAMES.index(name if name in CLASS_NAMES else "clutter")
        labels.append(np.full(len(tables[-1]), label))
    return np.concatenate(tables), np.concatenate(labels)
