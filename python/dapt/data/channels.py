"""What a point has beside its place, for networks that read it: a color, and a normal.

Vocabulary: N points; D columns of a point, 3 for its place, 6 with its color, 9 with its normal.
"""

from pathlib import Path
from typing import Literal

import numpy as np

from dapt.data.attributes import read_attributes
from dapt.data.clouds import upright
from dapt.errors import DataError, UsageError

Channels = Literal["xyz", "color", "normal"]
COLUMNS: dict[str, int] = {"xyz": 3, "color": 6, "normal": 9}  # D


def check_channels(channels: str) -> None:
    """Refuse unknown channels.

    Args:
        channels: "xyz", "color" or "normal".
    """
    if channels not in COLUMNS:
        raise UsageError(f"channels must be xyz, color or normal, got {channels!r}")


def beside(
    where: str,
    channels: str,
    count: int,
    colors: np.ndarray | None,
    normals: np.ndarray | None,
) -> np.ndarray:  # [N, D - 3]
    """What a network is told of each point beside its place; what is not known is zero.

    Args:
        where: What an error calls the points.
        channels: What the network is told.
        count: N.
        colors: [N, 3], in 0 to 1 or 0 to 255.
        normals: [N, 3].
    """
    if channels == "xyz":
        return np.zeros((count, 0))
    rgb = _vectors(where, "colors", colors, count)
    is_whole = colors is not None and np.asarray(colors).dtype.kind in "iu"
    if is_whole or rgb.max(initial=0) > 1:
        rgb = rgb / 255
    if not 0 <= rgb.min(initial=0) <= rgb.max(initial=0) <= 1:
        raise DataError(
            f"{where} must have colors in 0 to 1 or in 0 to 255, "
            f"got {np.min(colors):g} to {np.max(colors):g}"
        )
    if channels == "color":
        return rgb
    return np.concatenate([rgb, _vectors(where, "normals", normals, count)], 1)


def _vectors(where: str, name: str, values: np.ndarray | None, count: int) -> np.ndarray:
    if values is None:
        return np.zeros((count, 3))
    values = np.asarray(values)
    if values.shape != (count, 3) or values.dtype.kind not in "fiu":
        raise DataError(
            f"{where} must have {name} [{count}, 3], numbers, got {values.dtype} "
            f"{list(values.shape)}"
        )
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values).all(1))[0])
        raise DataError(f"{where} has {name} that are not finite: point {row}")
    return values


def read_beside(path: Path, channels: str, count: int) -> tuple[np.ndarray, list[str]]:
    """What a file tells of its points beside their places [N, D - 3], and the names of what it
    lacks.

    Args:
        path: of the file.
        channels: "xyz", "color" or "normal".
        count: points of the file.
    """
    known = read_attributes(path, count)
    lacking = lacks(channels, known.colors, known.normals)
    return beside(str(path), channels, count, known.colors, known.normals), lacking


def lacks(channels: str, colors: np.ndarray | None, normals: np.ndarray | None) -> list[str]:
    """The names of what a network wants to be told and a file does not have.

    Args:
        channels: "xyz", "color" or "normal".
        colors: None where there are none.
        normals: None where there are none.
    """
    wanted = {"colors": colors, "normals": normals}
    names = {"xyz": (), "color": ("colors",), "normal": ("colors", "normals")}[channels]
    return [name for name in names if wanted[name] is None]


def all_upright(points: np.ndarray, up: str) -> np.ndarray:  # [..., D]
    """Places and normals turned so that the axis `up` becomes y; colors stay.

    Args:
        points: [..., D].
        up: "x", "y" or "z".
    """
    parts = [upright(points[..., :3], up)]
    if points.shape[-1] > 3:
        parts.append(points[..., 3:6])
    if points.shape[-1] > 6:
        parts.append(upright(points[..., 6:9], up))
    return np.concatenate(parts, -1)
