"""LAS and LAZ in pieces, in and out: all that was in a file stays, with labels as extra dimensions.

https://www.asprs.org/wp-content/uploads/2019/07/LAS_1_4_r15.pdf
"""

import copy
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from dapt.data.las import LABELS, check_header, decoding
from dapt.data.streams import PIECE, Answers, Labels, Piece
from dapt.errors import DataError, reading

COPC = ("CopcInfoVlr", "CopcHierarchyVlr")  # an index of what the new file is not


class LasStream:
    """A file of points of any size.

    Args:
        path: .las or .laz.
    """

    def __init__(self, path: Path):
        self.path = path
        with reading(path):
            check_header(path)
            with self._open() as file:
                self.count = file.header.point_count
                self.point_format = file.header.point_format
        self.names = list(self.point_format.dimension_names)

    def _open(self):
        import laspy

        with decoding():
            return laspy.open(self.path)

    def _records(self, file) -> Iterator:
        """laspy's, piece by piece."""
        with decoding():
            yield from file.chunk_iterator(PIECE)

    def pieces(self, names: Iterable[str] = ()) -> Iterator[Piece]:
        """All points in the order of the file, with some of the other columns.

        Args:
            names: Of these columns.
        """
        start = 0
        with reading(self.path), self._open() as file:
            for record in self._records(file):
                yield piece_of(start, record, names)
                start += len(record)

    def write(self, path: Path, answers: Answers, labels: Labels) -> None:
        """The same file with a label and a confidence for each point.

        Args:
            path: The new file, compressed where this one is.
            answers: What to write.
            labels: How.
        """
        import laspy

        start = 0
        with self._open() as file, open(path, "wb") as target:
            header = self._header(file.header, labels)
            compressed = file.header.are_points_compressed
            with laspy.open(
                target, mode="w", header=header, do_compress=compressed, closefd=False
            ) as out:
                for record in self._records(file):
                    found, confidence = answers(start, start + len(record))
                    labeled = laspy.ScaleAwarePointRecord.zeros(len(record), header=header)
                    for name in set(record.array.dtype.names) & set(labeled.array.dtype.names):
                        labeled.array[name] = record.array[name]
                    labeled["label"], labeled["confidence"] = found, confidence
                    if labels.codes is not None:
                        labeled.classification = labels.codes[found]
                    out.write_points(labeled)
                    start += len(record)
                if file.header.evlrs:
                    kept = [each for each in file.header.evlrs if not _is_index(each)]
                    out.write_evlrs(laspy.vlrs.vlrlist.VLRList(kept))

    def _header(self, header, labels: Labels):
        """That of the new file: extra dimensions, and what the labels are called."""
        import laspy

        self.check_codes(labels.codes)
        header = copy.deepcopy(header)
        own = ("label", "confidence")
        again = [name for name in header.point_format.extra_dimension_names if name in own]
        if again:
            header.remove_extra_dims(again)
        kind = "uint8" if len(labels.names) <= 256 else "uint16"
        header.add_extra_dims(
            [
                laspy.ExtraBytesParams("label", kind, "class, see the table dapt 1"),
                laspy.ExtraBytesParams("confidence", "float32", "probability of the label"),
            ]
        )
        kept = [each for each in header.vlrs if not _is_index(each)]
        kept = [each for each in kept if (each.user_id, each.record_id) != LABELS]
        text = json.dumps(list(labels.names)).encode()
        if len(text) < 2**16:  # as long as a table may be
            kept.append(laspy.VLR(*LABELS, "names of the labels", text))
        header.vlrs.clear()
        header.vlrs.extend(kept)
        for each in header.vlrs.get("ExtraBytesVlr")[0].extra_bytes_structs:
            # laspy takes the ends of a piece's first point for those of all: better none
            each.options &= ~(each.MIN_BIT_MASK | each.MAX_BIT_MASK)
        return header

    def check_codes(self, codes: np.ndarray | None) -> None:
        """Refuse codes for which the point format has no room.

        Args:
            codes: [labels] or None.
        """
        most = 31 if self.point_format.id < 6 else 255
        if codes is not None and codes.max() > most:
            raise DataError(
                f"{self.path} has point format {self.point_format.id}, whose classes end with "
                f"{most}: code {codes.max()} does not fit"
            )


def piece_of(start: int, record, names: Iterable[str]) -> Piece:
    """What a network may read of laspy's record.

    Args:
        start: Number of its first point in the file.
        record: A ScaleAwarePointRecord.
        names: The names of the columns beside the places.
    """
    places = np.stack([np.asarray(record[axis]) for axis in "xyz"], 1).astype(np.float64)
    return Piece(start, places, {name: np.asarray(record[name]) for name in names})


def _is_index(table) -> bool:
    return type(table).__name__ in COPC or table.user_id == "copc"
