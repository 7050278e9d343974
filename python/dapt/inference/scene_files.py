"""Write the labels of a scene to files, assembled from the labels of its tiles."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from dapt.data.streams import PIECE, Labels, Stream
from dapt.errors import reading
from dapt.files import remove, writing, written_atomically
from dapt.inference.labeling import palette, ply_head, ply_rows
from dapt.inference.scene_parts import Scene, open_stream

COLORED = 5_000_000  # las and laz files up to this many points also get a colored cloud
TILE = [("index", "<i8"), ("label", "<i4"), ("confidence", "<f4")]
ANSWER = np.dtype(TILE[1:])
TOGETHER = 4 * PIECE  # points whose labels are gathered from the tiles at a time
Answer = Callable[[int, int], tuple[np.ndarray, np.ndarray]]  # labels and confidences of a range


def write_labels(
    scene: Scene, out: Path, names: Sequence[str], codes: np.ndarray | None
) -> tuple[np.ndarray, tuple[Path, ...]]:
    """Write the files of a scene whose tiles are all labeled, and remove the tiles.

    Args:
        scene: The scene.
        out: The folder of the labels.
        names: The names of the labels.
        codes: The classification code of each label in las files [labels]; None to keep the
            classification that a file has.

    Returns:
        The number of points of each label, and the files.
    """
    stream, counts = open_stream(scene.path), np.zeros(len(names), np.int64)
    answers = scene.parts / "answers.bin"
    with writing(answers), open(answers, "wb") as file:
        for start in range(0, stream.count, TOGETHER):
            found = _gathered(scene, start, min(start + TOGETHER, stream.count))
            counts += np.bincount(found["label"], minlength=len(counts))
            file.write(found.tobytes())
    labels = Labels(names, codes, palette(len(names)))

    def answer(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        offset = start * ANSWER.itemsize
        piece = np.fromfile(answers, ANSWER, stop - start, offset=offset)
        return piece["label"], piece["confidence"]

    own = out / f"{scene.name}{scene.path.suffix.lower()}"
    written = [out / f"{scene.name}.npy", own]
    with written_atomically(written[0]) as path:
        _write_npy(path, stream.count, answer)
    with written_atomically(own) as path, reading(scene.path):
        stream.write(path, answer, labels)
    if own.suffix != ".ply" and stream.count <= COLORED:
        written.append(out / f"{scene.name}.ply")
        with written_atomically(written[-1]) as path:
            _write_colored(path, stream, answer, names)
    remove(scene.parts)
    return counts, tuple(written)


def _gathered(scene: Scene, start: int, stop: int) -> np.ndarray:
    """Gather the labels of a range of points; only that range is read from each tile."""
    answers = np.zeros(stop - start, ANSWER)
    for number in range(len(scene.plan.tiles)):
        with reading(scene.tile(number)):
            rows = np.load(scene.tile(number), mmap_mode="r")  # sorted by index
            first, last = np.searchsorted(rows["index"], [start, stop])
            part = np.array(rows[first:last])
        for name in ANSWER.names:
            answers[name][part["index"] - start] = part[name]
    return answers


def _write_npy(path: Path, count: int, answer: Answer) -> None:
    """labels [N] int64"""
    with open(path, "wb") as file:
        header = {"descr": "<i8", "fortran_order": False, "shape": (count,)}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, count, PIECE):
            file.write(answer(start, min(start + PIECE, count))[0].astype("<i8").tobytes())


def _write_colored(path: Path, stream: Stream, answer: Answer, names: Sequence[str]) -> None:
    """Write the points, colored by label."""
    with open(path, "wb") as file:
        file.write(ply_head(stream.count, names))
        for piece in stream.pieces():
            found = answer(piece.start, piece.start + len(piece.places))
            file.write(ply_rows(piece.places, *found, len(names)).tobytes())
