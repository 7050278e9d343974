"""What a point has beside its place, for networks that read it: a color and a normal, the intensity
of an echo, or the height above the ground.

Vocabulary: N points; D columns of a point, the first 3 for its place.
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
PARTS: dict[str, tuple[str, ...]] = {  # what is known of a point, in the order of the columns
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
        channels: a name of `COLUMNS`.
    """
    if channels not in COLUMNS:
        *names, last = COLUMNS
        raise UsageError(f"channels must be {', '.join(names)} or {last}, got {channels!r}")


def beside(where: str, channels: str, count: int, known: Known) -> np.ndarray:  # [N, D - 3]
    """What a network is told of each point beside its place; what is not known is zero.

    Args:
        where: What an error calls the points.
        channels: What the network is told.
        count: N.
        known: Colors [N, 3], in 0 to 1 or 0 to 255, normals [N, 3], intensity [N], in 0 to 1, bytes
            or 16 bits, and heights [N], in the unit of the places.
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
    is_wide = given is not None and np.asarray(given).dtype == np.uint16  # as las has it
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
    """[N, 3] of vectors, [N, 1] of a number a point; zeros where there are none."""
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
    """The columns beside the places, by what they are.

    Args:
        channels: a name of `COLUMNS`.
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
    """([N, D - 3] of a file of `count` points, what the file does not tell).

    Args:
        path: The cloud, or the mesh on which the points were drawn.
        channels: What the network is told.
        count: N.
        seed: The seed of the draw on a mesh.
    """
    known = surface_beside(path, count, seed)
    if known is None:
        known = vars(read_attributes(path, count, heights=channels == "height"))
    return beside(str(path), channels, count, known), lacks(channels, known)


def lacks(channels: str, known: Known) -> list[str]:
    """The names of what a network wants to be told and a file does not have.

    Args:
        channels: a name of `COLUMNS`.
        known: What the file has.
    """
    return [name for name in PARTS[channels] if known.get(name) is None]


def all_upright(points: np.ndarray, up: str) -> np.ndarray:  # [..., D]
    """Places and normals turned so that the axis `up` becomes y; colors stay.

    Args:
        points: [..., D].
        up: "x", "y" or "z".
    """
    parts = [upright(points[..., :3], up)]
    if points.shape[-1] > 3:
        parts.append(points[..., 3:6])  # a color, or the one number of other channels
    if points.shape[-1] > 6:
        parts.append(upright(points[..., 6:9], up))
    return np.concatenate(parts, -1)
