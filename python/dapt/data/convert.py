"""Convert the samples of a source to the .npy files of a cache, and check each sample."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import dapt_ext
from dapt.data.clouds import check_finite, unit_ball
from dapt.data.labels import IGNORED, check_distinct
from dapt.errors import DataError
from dapt.progress import watched


class Sample(NamedTuple):
    """One cloud of the source, unchanged.

    Args:
        where: The name to use in errors: "cloud 3 of train.npz", "chair/chair_0001.off".
        points: [N, 3].
        label: Its class.
        part_labels: The label of each point [N].
        scene: The number of the scene or group that it belongs to.
        channels: What points have besides coordinates [N, D - 3], such as colors and normals.
    """

    where: str
    points: np.ndarray  # [N, 3]
    label: int
    part_labels: np.ndarray | None = None  # [N]
    scene: int | None = None
    channels: np.ndarray | None = None  # [N, D - 3]


@dataclass
class Source:
    """A source of data: what is known in advance, and its samples one by one.

    Args:
        where: The file or folder to name in errors about the whole source.
        class_names: The names, in the order of the labels.
        length: The number of samples; None if it is known only at the end.
        samples: The samples, read on demand.
        part_names: The names, in the order of the part labels.
        class_parts: The parts of each class; None if every class may have all.
    """

    where: Path
    class_names: list[str]
    length: int | None
    samples: Iterator[Sample]
    part_names: Sequence[str] = ()
    class_parts: list[list[int]] | None = None


def write_arrays(source: Source, num_points: int | None, normalize: bool, folder: Path) -> None:
    """Check the samples and stream them to a folder: memory holds one cloud at a time.

    Args:
        source: The data to read.
        num_points: The number of points to keep per cloud; None for all.
        normalize: Whether each cloud is moved and scaled to the unit ball.
        folder: The folder for the arrays.
    """
    check_distinct(f"the class names of {source.where}", source.class_names)
    check_distinct(f"the part names of {source.where}", source.part_names)
    arrays: dict[str, _ArrayWriter] = {}
    with ExitStack() as files:
        for sample in watched(source.samples, "converting, once", source.length):
            row = _row(sample, source, num_points, normalize)
            for name in row.keys() - arrays.keys():
                array = _ArrayWriter(folder / f"{name}.npy", row[name])
                arrays[name] = files.enter_context(array)
            expected = arrays["points"].shape[0]
            if len(row["points"]) != expected:
                raise DataError(
                    f"{sample.where} has {len(row['points'])} points and the clouds before it "
                    f"have {expected}: set num_points, to at most the smaller number"
                )
            for name, values in row.items():
                arrays[name].append(values)
    if not arrays:
        raise DataError(f"{source.where} holds no clouds")
    meta = {
        "class_names": source.class_names,
        "part_names": list(source.part_names),
        "class_parts": source.class_parts,
        "arrays": list(arrays),
    }
    with open(folder / "meta.json", "w") as file:
        json.dump(meta, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def _row(sample: Sample, source: Source, num_points, normalize) -> dict[str, np.ndarray]:
    """The sample as stored: checked, scaled to the unit ball, reduced to `num_points`."""
    where = sample.where
    points = np.asarray(sample.points, dtype=np.float64)  # [N, 3]
    if points.ndim != 2 or points.shape[1] != 3 or len(points) == 0:
        raise DataError(f"{where} must have points [N, 3], got {list(points.shape)}")
    check_finite(where, points)
    classes = len(source.class_names)
    if not 0 <= sample.label < classes:
        raise DataError(
            f"{where} has label {sample.label}, and labels go from 0 to {classes - 1} "
            f"({classes} classes)"
        )
    if normalize:
        points = unit_ball(points)
    if sample.channels is not None:
        points = np.concatenate([points, sample.channels], 1)
    row = {"points": points.astype(np.float32), "labels": np.int64(sample.label)}
    if sample.part_labels is not None:
        row["part_labels"] = _checked_parts(sample, len(points), len(source.part_names))
    if sample.scene is not None:
        row["scenes"] = np.int64(sample.scene)
    if num_points is not None and num_points != len(points):
        if num_points > len(points):
            raise DataError(
                f"{where} has {len(points)} points, fewer than the num_points of {num_points}"
            )
        cloud = torch.from_numpy(row["points"][:, :3])[None]
        kept = dapt_ext.farthest_point_sample(cloud, num_points)[0].numpy()  # [num_points]
        row |= {name: row[name][kept] for name in ("points", "part_labels") if name in row}
    return row


def _checked_parts(sample: Sample, count: int, num_parts: int) -> np.ndarray:
    parts = np.asarray(sample.part_labels)
    if parts.shape != (count,):
        raise DataError(
            f"{sample.where} must have one part label for each of its {count} points, "
            f"got {list(parts.shape)}"
        )
    bad = np.flatnonzero((parts != IGNORED) & ((parts < 0) | (parts >= num_parts)))
    if len(bad):
        raise DataError(
            f"{sample.where} has part label {parts[bad[0]]} at point {bad[0]}, and part labels "
            f"go from 0 to {num_parts - 1}; set ignore_label for a label that means none"
        )
    return parts.astype(np.int64)


class _ArrayWriter:
    """A .npy file written row by row with plain writes, so a full disk is an error, not a crash."""

    def __init__(self, path: Path, row: np.ndarray):
        self.shape, self.dtype, self.length = np.shape(row), np.asarray(row).dtype, 0
        self.file = open(path, "wb")
        self._write_header()

    def _write_header(self) -> None:
        """Write a header whose size does not depend on the number of rows: numpy pads it."""
        shape = (self.length, *self.shape)
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self.file, header)

    def append(self, row: np.ndarray) -> None:
        self.file.write(np.asarray(row, self.dtype).tobytes())
        self.length += 1

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with self.file:
            self.file.seek(0)
            self._write_header()
            self.file.flush()
            os.fsync(self.file.fileno())
