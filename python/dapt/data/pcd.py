"""Read .pcd files (PCL's format, version 0.7): ascii, binary and binary_compressed."""

import struct
from pathlib import Path

import numpy as np

from dapt.data.arrays import check_expansion

MOST_EXPANSION = 20  # for compressed points


def read_pcd(path: Path) -> np.ndarray:
    """Read the points [N, 3]; NaN points of an organized cloud, which mean "no return", are left
    out.

    Args:
        path: The file.
    """
    columns = read_columns(path)
    return np.stack([columns[axis].astype(np.float64) for axis in "xyz"], axis=1)


def read_columns(path: Path) -> dict[str, np.ndarray]:
    """Read every field of one number per point [N], by name, for the same points as `read_pcd`.

    Args:
        path: The file.
    """
    with open(path, "rb") as file:
        header = _header(file)
        body = file.read()
    kind = header["DATA"][0]
    record = _record(header)
    count = int(header["POINTS"][0])
    if count < 0 or not {"x", "y", "z"} <= set(record.names):
        raise ValueError("its POINTS is below 0, or the COUNT of x, y or z is not 1")
    if kind == "ascii":
        columns = _ascii(body, record)
    elif kind == "binary":
        if not 0 <= len(body) - count * record.itemsize < record.itemsize:
            raise ValueError(
                f"its header promises {count} points, but it has {len(body) // record.itemsize}"
            )
        columns = np.frombuffer(body, record, count)
    elif kind == "binary_compressed":
        columns = _compressed(body, record, count)
    else:
        raise ValueError(f"its DATA is {kind!r}, not ascii, binary or binary_compressed")
    found = len(columns["x"])
    if found != count:
        raise ValueError(f"its header promises {count} points, but it has {found}")
    kept = slice(None)
    if int(header.get("HEIGHT", ["1"])[0]) > 1:
        kept = ~np.isnan([columns[axis] for axis in "xyz"]).all(0)
    return {
        name.partition(":")[2] or name: columns[name].reshape(found)[kept]
        for name in record.names
        if record[name].shape in ((), (1,))
    }


def _header(file) -> dict[str, list[str]]:
    header = {}
    while "DATA" not in header and (line := file.readline(4096)):
        key, *values = line.decode("ascii").split() or ["#"]
        header[key] = values
    missing = [key for key in ("FIELDS", "SIZE", "TYPE", "POINTS", "DATA") if not header.get(key)]
    if missing or not {"x", "y", "z"} <= set(header["FIELDS"]):
        raise ValueError("its header lacks FIELDS x y z, SIZE, TYPE, POINTS or DATA")
    return header


def _record(header: dict[str, list[str]]) -> np.dtype:
    """One point as a structured dtype; padding fields, all called _, get distinct names."""
    fields = []
    counts = header.get("COUNT", ["1"] * len(header["FIELDS"]))
    for place, (name, kind, size, count) in enumerate(
        zip(header["FIELDS"], header["TYPE"], header["SIZE"], counts, strict=True)
    ):
        number = f"<{kind.lower()}{size}"
        if name in ("x", "y", "z") and int(count) == 1:
            fields.append((name, number))
        else:
            fields.append((f"{place}:{name}", number, (int(count),)))
    return np.dtype(fields)


def _ascii(body: bytes, record: np.dtype) -> dict[str, np.ndarray]:
    table = np.loadtxt(body.decode("ascii").splitlines(), dtype=np.float64, ndmin=2)
    start, columns = 0, {}
    width = sum(int(np.prod(record[name].shape)) for name in record.names)
    if table.shape[1] != width:
        raise ValueError(f"its header promises {width} numbers per line, got {table.shape[1]}")
    for name in record.names:
        columns[name] = table[:, start]
        start += int(np.prod(record[name].shape))
    return columns


def _compressed(body: bytes, record: np.dtype, count: int) -> dict[str, np.ndarray]:
    """Read compressed points, which are stored field by field: all x, then all y, and so on."""
    compressed, size = struct.unpack_from("<II", body)
    if size != count * record.itemsize or compressed > len(body) - 8:
        raise ValueError("its compressed data does not fit its header")
    check_expansion("it", compressed, size, MOST_EXPANSION)
    data = _lzf_decompress(body[8 : 8 + compressed], size)
    start, columns = 0, {}
    for name in record.names:
        columns[name] = np.frombuffer(data, record[name].base, count, start)
        start += record[name].itemsize * count
    return columns


def _lzf_decompress(data: bytes, size: int) -> bytes:
    """Decompress LZF: runs of literals, and copies of earlier bytes."""
    out = bytearray()
    place = 0
    while place < len(data):
        control = data[place]
        place += 1
        if control < 32:
            out += data[place : place + control + 1]
            place += control + 1
            continue
        length = control >> 5
        if length == 7:
            length += data[place]
            place += 1
        start = len(out) - ((control & 31) << 8 | data[place]) - 1
        place += 1
        length += 2
        if start < 0 or len(out) + length > size:
            raise ValueError("its compressed data is damaged")
        piece = out[start : start + length]  # shorter than length if it overlaps its own copy
        out += (piece * -(-length // len(piece)))[:length]
    if len(out) != size:
        raise ValueError("its compressed data is damaged")
    return bytes(out)
