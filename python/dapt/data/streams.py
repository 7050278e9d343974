"""Files of any size that are read and written in pieces: las, laz, binary ply.

Vocabulary: n points in a piece; D columns per point that a network reads, 3 of them coordinates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from dapt.data.attributes import COLORS, NORMALS, color_scale
from dapt.data.channels import COLUMNS, lacks
from dapt.data.clouds import check_finite
from dapt.errors import DataError

PIECE = 2**20  # points read at a time

Answers = Callable[[int, int], tuple[np.ndarray, np.ndarray]]  # labels and confidences of a piece


class Piece(NamedTuple):
    """Consecutive points of a file.

    Args:
        start: The number of the first point.
        places: The coordinates, float64 [n, 3].
        columns: The requested other columns [n], by name.
    """

    start: int
    places: np.ndarray
    columns: Mapping[str, np.ndarray]


class Labels(NamedTuple):
    """How labels are written into a file.

    Args:
        names: The names of the labels.
        codes: The code of each label in the file's own classification [labels]; None to keep the
            classification that the file has.
        colors: The color of each label, uint8 [labels, 3], for a file without colors.
    """

    names: Sequence[str]
    codes: np.ndarray | None
    colors: np.ndarray


class Stream(Protocol):
    """An open file of points."""

    path: Path
    count: int
    names: Sequence[str]  # of the columns besides the coordinates

    def pieces(self, names: Iterable[str] = ()) -> Iterator[Piece]:
        """Yield all points in the order of the file, with some of the other columns.

        Args:
            names: The names of these columns.
        """

    def write(self, path: Path, answers: Answers, labels: Labels) -> None:
        """Write a copy with a label and a confidence for each point.

        Args:
            path: The new file.
            answers: Returns the labels and confidences of a range of points.
            labels: How labels are written.
        """


@dataclass(frozen=True)
class Told:
    """What a network reads of each point of a file besides its coordinates.

    Args:
        colors: The names of the color columns; empty if the file has none.
        normals: The names of the normal columns; empty if the file has none.
        scale: The factor that turns a color into a byte.
        channels: The channels that the network reads.
    """

    colors: tuple[str, ...] = ()
    normals: tuple[str, ...] = ()
    scale: float = 1.0
    channels: str = "xyz"

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns to read."""
        return self.colors + self.normals

    @property
    def width(self) -> int:
        """D - 3."""
        return COLUMNS[self.channels] - 3

    @property
    def lacking(self) -> list[str]:
        """The names of what the network reads and the file lacks."""
        known = {"colors": self.colors or None, "normals": self.normals or None}
        return lacks(self.channels, known)

    def of(self, piece: Piece) -> np.ndarray:  # float32 [n, D - 3]
        """The channels of a piece; zeros for those that the file lacks.

        Args:
            piece: A piece with the columns of `names`.
        """
        told = np.zeros((len(piece.places), self.width), np.float32)
        if self.colors:
            rgb = np.stack([piece.columns[name] for name in self.colors], 1).astype(np.float64)
            told[:, :3] = (rgb * self.scale).round().astype(np.uint8) / 255
        if self.normals:
            told[:, 3:] = np.stack([piece.columns[name] for name in self.normals], 1)
        return told


class Survey(NamedTuple):
    """What must be known about a whole file before its points are labeled.

    Args:
        low: The smallest coordinates [3].
        high: The largest coordinates [3].
        told: What the network reads besides coordinates.
    """

    low: np.ndarray
    high: np.ndarray
    told: Told


def survey(
    stream: Stream, channels: str, look: Callable[[np.ndarray], None] = lambda places: None
) -> Survey:
    """Read a file once to find its bounds and the range of its colors.

    Args:
        stream: The file.
        channels: The channels that the network reads.
        look: Called with the coordinates [n, 3] of each piece.
    """
    colors = _columns(stream.names, COLORS) if channels != "xyz" else ()
    normals = _columns(stream.names, NORMALS) if channels == "normal" else ()
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    least, most, found = 0.0, 0.0, 0
    for piece in stream.pieces(colors + normals):
        check_finite(str(stream.path), piece.places, piece.start)
        low, high = np.minimum(low, piece.places.min(0)), np.maximum(high, piece.places.max(0))
        for name in colors:  # a value that is not finite makes the bounds not finite
            least = np.minimum(least, piece.columns[name].min())
            most = np.maximum(most, piece.columns[name].max())
        for name in normals:
            bad = np.flatnonzero(~np.isfinite(piece.columns[name]))
            if len(bad):
                row = piece.start + bad[0]
                raise DataError(f"{stream.path} has normals that are not finite: point {row}")
        look(piece.places)
        found += len(piece.places)
    if found != stream.count:
        raise DataError(
            f"cannot read {stream.path}: its header promises {stream.count} points, but it has "
            f"{found}"
        )
    scale = color_scale(least, most)
    told = Told(colors if scale else (), normals, scale or 1.0, channels)
    return Survey(low, high, told)


def _columns(names: Sequence[str], triples: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The file's names for the first triple that is complete."""
    known = {name.lower(): name for name in names}
    return next(
        (tuple(known[name] for name in triple) for triple in triples if set(triple) <= set(known)),
        (),
    )
