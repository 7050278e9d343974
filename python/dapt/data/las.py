"""Points of .las files, read by laspy once what the header promises was held against the file."""

import struct
from pathlib import Path

import numpy as np

COMPRESSED = 0x80  # bit of the point format


def read_las(path: Path) -> np.ndarray:
    """The points of a .las or .laz file, [N, 3].

    Args:
        path: of the file.
    """
    return np.asarray(open_las(path).xyz)


def open_las(path: Path):
    """A laspy.LasData whose records are all there.

    Args:
        path: of the file.
    """
    import laspy

    _check_header(path)
    return laspy.read(path)


def _check_header(path: Path) -> None:
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(375)
    if head[:4] != b"LASF" or len(head) < 227:
        raise ValueError("it has no header of a las file")
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
        raise ValueError("its points are compressed (laz): decompress it first")
    if count * record > size - offset:
        found = (size - offset) // record
        raise ValueError(f"its header promises {count} points and {found} are there")


def _check_tables(path: Path, begin: int, count: int, size: int) -> None:
    """That the tables after the points, each of a length of its own, end with the file."""
    with open(path, "rb") as file:
        for _ in range(count):
            if begin + 60 > size:
                raise ValueError(f"its header promises {count} further tables, which do not fit")
            file.seek(begin + 20)
            begin += 60 + int.from_bytes(file.read(8), "little")
    if count and begin > size:
        raise ValueError(f"its header promises {count} further tables, which do not fit")
