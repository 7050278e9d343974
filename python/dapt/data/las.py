"""Points of .las and .laz files: the header is checked against the file, then laspy reads it."""

import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from dapt.data.arrays import check_expansion

COMPRESSED = 0x80  # bit of the point format
LABELS = ("dapt", 1)  # identifies the table of label names
MOST_EXPANSION = 10_000  # repetitive points compress well


def read_las(path: Path) -> np.ndarray:
    """Read the points [N, 3] of a .las or .laz file.

    Args:
        path: The file.
    """
    return np.asarray(open_las(path).xyz)


def open_las(path: Path):
    """Read a laspy.LasData whose records are all present.

    Args:
        path: The file.
    """
    import laspy

    check_header(path)
    with decoding():
        return laspy.read(path)


@contextmanager
def decoding() -> Iterator[None]:
    """A context that turns a panic of the decoder into an error; a panic is not an Exception."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError("its compressed points are damaged") from None


def label_names(header) -> dict[int, str]:
    """The names of labels, by number, that `dapt predict` stored in a file.

    Args:
        header: The laspy header.
    """
    for table in header.vlrs:
        if (table.user_id, table.record_id) == LABELS:
            try:
                names = json.loads(table.record_data_bytes())
                return {number: str(name) for number, name in enumerate(names)}
            except (ValueError, TypeError):
                break
    return {}


def check_header(path: Path) -> None:
    """Refuse a file that is too small for what its header declares.

    Args:
        path: The file.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(375)
    if head[:4] != b"LASF" or len(head) < 227:
        raise ValueError("it has no las header")
    header, offset, tables = struct.unpack_from("<HII", head, 94)
    kind, record, count = struct.unpack_from("<BHI", head, 104)
    if head[25] >= 4:
        if len(head) < 375:
            raise ValueError("its header is cut off")
        begin, extended = struct.unpack_from("<QI", head, 235)
        (count,) = struct.unpack_from("<Q", head, 247)
        _check_tables(path, begin, extended, size)
    if not header <= offset <= size or 54 * tables > offset - header:
        raise ValueError(f"its header promises {tables} tables, which do not fit")
    if kind & COMPRESSED:
        import lazrs  # noqa: F401  raises a clear error if it is missing

        check_expansion(path, size - offset, count * record, MOST_EXPANSION)
        return
    if count * record > size - offset:
        found = (size - offset) // record
        raise ValueError(f"its header promises {count} points, but it has {found}")


def _check_tables(path: Path, begin: int, count: int, size: int) -> None:
    """Check that the tables after the points, each with its own length, fit into the file."""
    with open(path, "rb") as file:
        for _ in range(count):
            if begin + 60 > size:
                raise ValueError(f"its header promises {count} further tables, which do not fit")
            file.seek(begin + 20)
            begin += 60 + int.from_bytes(file.read(8), "little")
    if count and begin > size:
        raise ValueError(f"its header promises {count} further tables, which do not fit")
