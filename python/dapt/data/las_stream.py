"""Read and write LAS and LAZ in pieces. A labeled copy keeps all content and adds dimensions.

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

COPC = ("CopcInfoVlr", "CopcHierarchyVlr")  # an index, which is not valid for the new file


class LasStream:
    """A las or laz file of any size.

    Args:
        path: The .las or .laz file.
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
        """The laspy records of each piece."""
        with decoding():
            yield from file.chunk_iterator(PIECE)

    def pieces(self, names: Iterable[str] = ()) -> Iterator[Piece]:
        """Yield all points in the order of the file, with some of the other columns.

        Args:
            names: The names of these columns.
        """
        start = 0
        with reading(self.path), self._open() as file:
            for record in self._records(file):
                yield piece_of(start, record, names)
                start += len(record)

    def write(self, path: Path, answers: Answers, labels: Labels) -> None:
        """Write a copy with a label and a confidence for each point.

        Args:
            path: The new file, which is compressed if this one is.
            answers: Returns the labels and confidences of a range of points.
            labels: How labels are written.
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
        """The header of the new file, with extra dimensions and the names of the labels."""
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
        if len(text) < 2**16:  # the limit of a table
            kept.append(laspy.VLR(*LABELS, "names of the labels", text))
        header.vlrs.clear()
        header.vlrs.extend(kept)
        for each in header.vlrs.get("ExtraBytesVlr")[0].extra_bytes_structs:
            # laspy would write the range of the first points only: better none
            each.options &= ~(each.MIN_BIT_MASK | each.MAX_BIT_MASK)
        return header

    def check_codes(self, codes: np.ndarray | None) -> None:
        """Refuse codes that do not fit into the point format.

        Args:
            codes: The code of each label [labels], or None.
        """
        most = 31 if self.point_format.id < 6 else 255
        if codes is not None and codes.max() > most:
            raise DataError(
                f"{self.path} has point format {self.point_format.id}, whose classes end with "
                f"{most}: code {codes.max()} does not fit"
            )


def piece_of(start: int, record, names: Iterable[str]) -> Piece:
    """Convert a laspy record to a piece.

    Args:
        start: The number of its first point in the file.
        record: A ScaleAwarePointRecord.
        names: The names of the columns to keep besides the coordinates.
    """
    places = np.stack([np.asarray(record[axis]) for axis in "xyz"], 1).astype(np.float64)
    return Piece(start, places, {name: np.asarray(record[name]) for name in names})


def _is_index(table) -> bool:
    return type(table).__name__ in COPC or table.user_id == "copc"
