"""Read and write binary PLY in memory-mapped pieces: points with numeric properties."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from dapt.data.streams import PIECE, Answers, Labels, Piece
from dapt.errors import reading, shown

LONGEST_HEADER = 2**16
TYPES = {"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"}
TYPES |= {"float": "f4", "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2"}
TYPES |= {"uint16": "u2", "int32": "i4", "uint32": "u4", "float32": "f4", "float64": "f8"}
WORDS = {"u1": "uchar", "i4": "int", "f4": "float"}
OWN = {"label": "i4", "confidence": "f4"}
COLOR = ("red", "green", "blue")


class PlyStream:
    """A binary file of points with numeric properties, without lists and faces.

    Args:
        path: The .ply file.
    """

    def __init__(self, path: Path):
        self.path = path
        with reading(path):
            header = _header_of(path)
            if header is None:
                raise ValueError("it is not a binary ply file with only points")
            self._begin, self.count, self._order, self._types, self._comments = header
            size = path.stat().st_size - self._begin
            promised = self.count * self._dtype.itemsize
            if size != promised:
                raise ValueError(
                    f"its header promises {promised} bytes of points, but it has {size}"
                )
        self.names = [name for name in self._types if name not in ("x", "y", "z")]

    @staticmethod
    def reads(path: Path) -> bool:
        """Whether a file is of this kind; meshes and ascii files are not.

        Args:
            path: The .ply file.
        """
        with reading(path):
            return _header_of(path) is not None

    @property
    def _dtype(self) -> np.dtype:
        return np.dtype([(name, self._order + kind) for name, kind in self._types.items()])

    def _rows(self) -> Iterator[tuple[int, np.ndarray]]:
        """(number of the first point, rows) of each piece, mapped separately."""
        for start in range(0, self.count, PIECE):
            offset = self._begin + start * self._dtype.itemsize
            shape = (min(PIECE, self.count - start),)
            yield start, np.memmap(self.path, self._dtype, "r", offset, shape)

    def pieces(self, names: Iterable[str] = ()) -> Iterator[Piece]:
        """Yield all points in the order of the file, with some of the other columns.

        Args:
            names: The names of these columns.
        """
        names = tuple(names)
        for start, rows in self._rows():
            places = np.stack([rows[axis] for axis in "xyz"], 1).astype(np.float64)
            yield Piece(start, places, {name: np.array(rows[name]) for name in names})

    def write(self, path: Path, answers: Answers, labels: Labels) -> None:
        """Write a copy with a label and a confidence, and a color if the file has none.

        Args:
            path: The new file.
            answers: Returns the labels and confidences of a range of points.
            labels: How labels are written.
        """
        added = dict(OWN)
        if not set(COLOR) & self._types.keys():
            added = dict.fromkeys(COLOR, "u1") | added
        kept = {name: kind for name, kind in self._types.items() if name not in added}
        wanted = [(name, self._order + kind) for name, kind in (kept | added).items()]
        with open(path, "wb") as file:
            file.write(self._head(kept | added, labels))
            for start, rows in self._rows():
                found, confidence = answers(start, start + len(rows))
                out = np.empty(len(rows), wanted)
                for name in kept:
                    out[name] = rows[name]
                if COLOR[0] in added:
                    for channel, name in enumerate(COLOR):
                        out[name] = labels.colors[found, channel]
                out["label"], out["confidence"] = found, confidence
                file.write(out.tobytes())

    def _head(self, types: dict[str, str], labels: Labels) -> bytes:
        words = {kind: word for word, kind in TYPES.items() if not word[-1].isdigit()} | WORDS
        endian = "little" if self._order == "<" else "big"
        lines = ["ply", f"format binary_{endian}_endian 1.0"]
        lines += [line for line in self._comments if not re.match(r"comment label \d+:", line)]
        lines += [f"comment label {i}: {shown(name)}" for i, name in enumerate(labels.names)]
        lines += [f"element vertex {self.count}"]
        lines += [f"property {words[kind]} {name}" for name, kind in types.items()]
        return "\n".join([*lines, "end_header", ""]).encode("latin1", "replace")


def _header_of(path: Path):
    """(offset of the points, their number, byte order, types by name, comments); None if the file
    is of another kind."""
    with open(path, "rb") as file:
        head = file.read(LONGEST_HEADER)
    found = re.match(rb"ply\r?\n.*?\bend_header\r?\n", head, re.DOTALL)
    if not found:
        return None
    lines = found[0].decode("latin1").splitlines()
    order = {"binary_little_endian": "<", "binary_big_endian": ">"}
    words = [line.split() for line in lines]
    formats = [order.get(word[1]) for word in words if word[0:1] == ["format"] and len(word) > 1]
    elements = [word for word in words if word[:1] == ["element"]]
    properties = [word for word in words if word[:1] == ["property"]]
    is_plain = all(len(word) == 3 and word[1] in TYPES for word in properties)
    if len(formats) != 1 or formats[0] is None or not is_plain or len(elements) != 1:
        return None
    types = {word[2]: TYPES[word[1]] for word in properties}
    if elements[0][1:2] != ["vertex"] or len(elements[0]) != 3 or not elements[0][2].isdigit():
        return None
    if len(types) < len(properties) or not {"x", "y", "z"} <= types.keys():
        return None
    comments = [line for line in lines if line.startswith(("comment", "obj_info"))]
    return len(found[0]), int(elements[0][2]), formats[0], types, comments
