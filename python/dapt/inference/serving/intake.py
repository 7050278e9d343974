"""From the bytes of a request to clouds. Sizes are checked before anything is unpacked."""

import io
import json
import struct
import tempfile
import zipfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from dapt.data.arrays import load_npy
from dapt.data.channels import COLUMNS
from dapt.data.clouds import READERS
from dapt.data.preprocessing import Preprocessing
from dapt.errors import DataError, listed, shown
from dapt.inference.prediction import Cloud, clouds_of
from dapt.inference.serving.limits import MOST_CLOUDS, Limits, Refused
from dapt.inference.trained import named_clouds

KINDS = ("json", "npz", *sorted(ending[1:] for ending in READERS))
LONGEST = 600  # characters of an error message
WIDEST = 8 * max(COLUMNS.values())  # bytes per point
HEADERS = 4096  # bytes of an array's header in an npz file


def kind_of(format: str, filename: str = "", content_type: str = "") -> str:
    """Find the format of a body: the requested one, or else by file name or content type.

    Args:
        format: The format that the request names, such as "ply"; may be empty.
        filename: The name of the file, of which only the suffix matters.
        content_type: The content type of the request.
    """
    by_type = {"application/json": "json", "application/x-npy": "npy"}
    named = by_type.get(content_type.partition(";")[0].strip().lower())
    kind = format or Path(filename).suffix[1:] or named
    if not kind:
        raise Refused(422, f"name the format of the body with format=: {listed(KINDS)}")
    if kind.lower() not in KINDS:
        raise Refused(422, f"{shown(kind)[:20]!r} is not a format of points: {listed(KINDS)}")
    return kind.lower()


def clouds_in(content: bytes, kind: str, trained: Preprocessing, limits: Limits) -> list[Cloud]:
    """Read (name, points [N, D]) of the clouds in a request's body.

    Args:
        content: The body.
        kind: One of `KINDS`.
        trained: The preprocessing of the training, whose channels are read.
        limits: The limits of clouds and points.
    """
    if kind in ("json", "npy"):
        table = _of_json(content, limits) if kind == "json" else _of_npy(content)
        if table.ndim == 3:
            limits.check_clouds(len(table))
        if trained.channels == "xyz" and table.ndim > 1:
            table = table[..., :3]
        found = named_clouds(table, trained)
    else:
        found = _of_file(content, kind, trained, limits)
    clouds, count = [], 0
    for where, points in islice(found, MOST_CLOUDS + 1):
        count += len(points)
        limits.check_points(count)
        clouds.append((where, points))
    limits.check_clouds(len(clouds))
    if not clouds:
        raise DataError("the request holds no clouds")
    return clouds


def _of_json(content: bytes, limits: Limits) -> np.ndarray:
    """The points of {"points": [[x, y, z], ...]}, [N, D] or [S, N, D]."""
    most = limits.points * max(COLUMNS.values())
    numbers = content.count(b",")
    lists = content.count(b"[") + content.count(b"{")
    if numbers > most or lists > 2 * limits.points + MOST_CLOUDS:
        raise Refused(413, f"the JSON is too long for the {limits.points:,} points of a request")
    try:
        told = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"the request is not JSON: {error}") from None
    if not isinstance(told, dict) or told.keys() != {"points"}:
        raise DataError('the JSON must be {"points": [[x, y, z], ...]} and nothing else')
    try:
        return np.array(told["points"], np.float64)
    except (ValueError, TypeError, OverflowError):
        raise DataError("the points must be rows of equal length") from None


def _of_npy(content: bytes) -> np.ndarray:
    try:
        table = load_npy(io.BytesIO(content))
    except Exception as error:  # a hostile header may raise anything
        raise DataError(f"the request is not a complete .npy file: {error}") from None
    if table.dtype.kind not in "fiu":
        raise DataError(f"the points must be numbers, got {table.dtype}")
    return table


def _of_file(content: bytes, kind: str, trained: Preprocessing, limits: Limits) -> Iterator[Cloud]:
    """Read a body with the readers of files, through a temporary file."""
    if kind == "npz":
        _check_zip(content, limits)
    if kind in ("las", "laz"):
        limits.check_points(_promised_by_las(content))
    with tempfile.TemporaryDirectory(prefix="dapt-") as folder:
        path = Path(folder) / f"cloud.{kind}"
        path.write_bytes(content)
        try:
            for where, points in clouds_of(path, trained.channels):
                yield where.replace(str(path), "the cloud"), points
        except DataError as error:
            raise DataError(str(error).replace(str(path), "the cloud")[:LONGEST]) from None


def _promised_by_las(content: bytes) -> int:
    """The number of points that the header declares, to which compressed data may expand."""
    if len(content) < 255:
        return 0
    (count,) = struct.unpack_from("<I", content, 107)
    (extended,) = struct.unpack_from("<Q", content, 247)
    return max(count, extended if content[25] >= 4 else 0)


def _check_zip(content: bytes, limits: Limits) -> None:
    """Check that no array expands to more points than a request may have."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            sizes = [info.file_size for info in archive.infolist()]
    except Exception as error:
        raise DataError(f"the request is not a complete .npz file: {error}") from None
    most = limits.points * WIDEST + HEADERS
    if max(sizes, default=0) > most:
        raise Refused(
            413, f"the .npz expands to more than the {limits.points:,} points of a request"
        )
