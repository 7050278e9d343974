"""What a point has besides its coordinates, for networks that read it: color and normal, the
intensity of a laser return, or the height above the ground.

Vocabulary: N points; D columns per point, the first 3 for its coordinates.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from dapt.data.attributes import read_attributes
from dapt.data.clouds import surface_beside, upright
from dapt.errors import DataError, UsageError

Channels = Literal["xyz", "color", "normal", "intensity", "height"]
COLUMNS: dict[str, int] = {"xyz": 3, "color": 6, "normal": 9, "intensity": 4, "height": 4}  # D
PARTS: dict[str, tuple[str, ...]] = {  # attributes in the order of the columns
    "xyz": (),
    "color": ("colors",),
    "normal": ("colors", "normals"),
    "intensity": ("intensity",),
    "height": ("heights",),
}
Known = Mapping[str, np.ndarray | None]  # colors, normals [N, 3], intensity, heights [N]


def check_channels(channels: str) -> None:
    """Refuse unknown channels.

    Args:
        channels: A name in `COLUMNS`.
    """
    if channels not in COLUMNS:
        *names, last = COLUMNS
        raise UsageError(f"channels must be {', '.join(names)} or {last}, got {channels!r}")


def beside(where: str, channels: str, count: int, known: Known) -> np.ndarray:  # [N, D - 3]
    """The channels of each point besides its coordinates; unknown ones are zero.

    Args:
        where: The name of the points in errors.
        channels: A name in `COLUMNS`.
        count: N, the number of points.
        known: Colors [N, 3] from 0 to 1 or from 0 to 255, normals [N, 3], intensity [N] from 0 to
            1, in 8 or in 16 bits, and heights [N] in the unit of the coordinates.
    """
    columns = [np.zeros((count, 0))]
    for name in PARTS[channels]:
        values = known.get(name)
        columns.append(_AS[name](where, values, _numbers(where, name, values, count)))
    return np.concatenate(columns, 1)


def _colors(where: str, given: np.ndarray | None, rgb: np.ndarray) -> np.ndarray:  # [N, 3]
    is_whole = given is not None and np.asarray(given).dtype.kind in "iu"
    if is_whole or rgb.max(initial=0) > 1:
        rgb = rgb / 255
    if not 0 <= rgb.min(initial=0) <= rgb.max(initial=0) <= 1:
        raise DataError(
            f"{where} must have colors in 0 to 1 or in 0 to 255, "
            f"got {np.min(given):g} to {np.max(given):g}"
        )
    return rgb


def _intensity(where: str, given: np.ndarray | None, values: np.ndarray) -> np.ndarray:  # [N, 1]
    low, high = values.min(initial=0), values.max(initial=0)
    is_wide = given is not None and np.asarray(given).dtype == np.uint16  # as in las files
    if low < 0 or high > 65535:
        raise DataError(
            f"{where} must have an intensity in 0 to 1, 0 to 255 or 0 to 65535, "
            f"got {low:g} to {high:g}"
        )
    return values / (65535 if is_wide or high > 255 else 255 if high > 1 else 1)


def _as_it_is(where: str, given: np.ndarray | None, values: np.ndarray) -> np.ndarray:
    return values


_AS = {
    "colors": _colors,
    "normals": _as_it_is,
    "intensity": _intensity,
    "heights": _as_it_is,
}


def _numbers(where: str, name: str, values: np.ndarray | None, count: int) -> np.ndarray:
    """Check an attribute and return it as [N, 3] or [N, 1]; zeros if there is none."""
    width = 3 if name in ("colors", "normals") else 1
    if values is None:
        return np.zeros((count, width))
    values = np.asarray(values)
    shape = (count, 3) if width == 3 else (count,)
    if values.shape != shape or values.dtype.kind not in "fiu":
        raise DataError(
            f"{where} must have {name} {list(shape)}, numbers, got {values.dtype} "
            f"{list(values.shape)}"
        )
    values = values.reshape(count, width).astype(np.float64)
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values).all(1))[0])
        raise DataError(f"{where} has {name} that are not finite: point {row}")
    return values


def taken_apart(channels: str, columns: np.ndarray) -> dict[str, np.ndarray]:  # [..., D - 3]
    """Split the columns after the coordinates into attributes.

    Args:
        channels: A name in `COLUMNS`.
        columns: [..., D - 3].
    """
    known, start = {}, 0
    for name in PARTS[channels]:
        if name in ("colors", "normals"):
            known[name], start = columns[..., start : start + 3], start + 3
        else:
            known[name], start = columns[..., start], start + 1
    return known


def read_beside(
    path: Path, channels: str, count: int, seed: int = 0
) -> tuple[np.ndarray, list[str]]:
    """Read the channels of a file's points besides coordinates.

    Args:
        path: The cloud, or the mesh on which the points were sampled.
        channels: A name in `COLUMNS`.
        count: N, the number of points.
        seed: The seed with which a mesh was sampled.

    Returns:
        The channels [N, D - 3], and the names of those that the file lacks.
    """
    known = surface_beside(path, count, seed)
    if known is None:
        known = vars(read_attributes(path, count, heights=channels == "height"))
    return beside(str(path), channels, count, known), lacks(channels, known)


def lacks(channels: str, known: Known) -> list[str]:
    """The names of the attributes that a network reads and a file lacks.

    Args:
        channels: A name in `COLUMNS`.
        known: The attributes of the file.
    """
    return [name for name in PARTS[channels] if known.get(name) is None]


def all_upright(points: np.ndarray, up: str) -> np.ndarray:  # [..., D]
    """Turn coordinates and normals so that the axis `up` becomes y; other channels stay.

    Args:
        points: [..., D].
        up: "x", "y" or "z".
    """
    parts = [upright(points[..., :3], up)]
    if points.shape[-1] > 3:
        parts.append(points[..., 3:6])  # a color, or a single number
    if points.shape[-1] > 6:
        parts.append(upright(points[..., 6:9], up))
    return np.concatenate(parts, -1)
