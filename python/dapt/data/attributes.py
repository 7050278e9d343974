"""What a file says about its points besides coordinates: colors, normals, labels, other numbers.

Files name their columns in many ways. A column is left out if its meaning is unclear, or if its
values contradict its name.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from dapt.data.arrays import load_npy
from dapt.data.clouds import read_columns_of_text
from dapt.data.ground import above_ground
from dapt.data.las import label_names, open_las
from dapt.data.pcd import read_columns

COLORS = (
    ("red", "green", "blue"),
    ("r", "g", "b"),
    ("diffuse_red", "diffuse_green", "diffuse_blue"),
)
NORMALS = (("nx", "ny", "nz"), ("normal_x", "normal_y", "normal_z"))
LABELS = ("label", "labels", "class", "classification", "semantic", "segment", "scalar_label")
INTENSITY = ("intensity", "scalar_intensity", "reflectance")
HEIGHTS = ("height_above_ground", "heightaboveground", "hag")
POSITIONS = ("x", "y", "z")
MOST_VALUES = 6  # other columns to keep
MOST_LABELS = 4096

# LAS specification 1.4
ASPRS = {
    0: "never classified", 1: "unclassified", 2: "ground", 3: "low vegetation",
    4: "medium vegetation", 5: "high vegetation", 6: "building", 7: "low noise", 8: "key point",
    9: "water", 10: "rail", 11: "road surface", 12: "overlap", 13: "wire guard",
    14: "wire conductor", 15: "transmission tower", 16: "wire connector", 17: "bridge deck",
    18: "high noise",
}  # fmt: skip


@dataclass(frozen=True)
class Attributes:
    """The attributes of N points; None for those that the file does not have.

    Args:
        colors: uint8 [N, 3].
        normals: Normals of any length, float64 [N, 3].
        labels: int64 [N].
        intensity: The intensity of laser returns [N].
        heights: Heights above the ground, float64 [N].
        label_names: The names of the labels, if the file has them.
        values: Other numeric columns [N], by name.
    """

    colors: np.ndarray | None = None
    normals: np.ndarray | None = None
    labels: np.ndarray | None = None
    label_names: Mapping[int, str] = field(default_factory=dict)
    values: Mapping[str, np.ndarray] = field(default_factory=dict)
    intensity: np.ndarray | None = None
    heights: np.ndarray | None = None


def read_attributes(path: str | Path, count: int, heights: bool = False) -> Attributes:
    """Read the attributes of a file's points; a mesh or an unreadable file has none.

    Args:
        path: The file, whose points could be read.
        count: The number of its points.
        heights: Whether to compute heights above the ground for a las file, in which z is up.
    """
    path = Path(path)
    read = _COLUMNS.get(path.suffix.lower())
    if read is None:
        return Attributes()
    try:
        columns, names = read(path)
    except Exception:  # the points were read; attributes are optional
        return Attributes()
    whole = {name: column for name, column in columns.items() if column.shape == (count,)}
    known = of_columns(whole, names)
    if heights and known.heights is None and path.suffix.lower() == ".las":
        points = np.asarray(open_las(path).xyz)
        known = replace(known, heights=above_ground(points, whole.get("classification")))
    return known


def of_columns(columns: Mapping[str, np.ndarray], label_names: Mapping[int, str]) -> Attributes:
    """Find the attributes among the columns of a file.

    Args:
        columns: Columns [N] by their names in the file.
        label_names: The names of the labels, if the file has them.
    """
    left = {name.lower(): column for name, column in columns.items() if column.dtype.kind in "fiub"}
    for axis in POSITIONS:
        left.pop(axis, None)
    colors = as_colors(_taken(left, COLORS))
    normals = _taken(left, NORMALS)
    labels = next((as_labels(left.pop(name)) for name in LABELS if name in left), None)
    intensity = next((left[name] for name in INTENSITY if name in left), None)
    heights = next((left[name] for name in HEIGHTS if name in left), None)
    values = {name: column for name, column in left.items() if np.ptp(column) > 0}
    values = dict(list(values.items())[:MOST_VALUES])
    return Attributes(colors, normals, labels, label_names, values, intensity, heights)


def as_colors(rgb: np.ndarray | None) -> np.ndarray | None:  # [N, 3]
    """Convert colors to uint8; None if the values are not colors.

    Args:
        rgb: [N, 3 or more], from 0 to 1, in 8 or in 16 bits.
    """
    if rgb is None or rgb.ndim != 2 or rgb.shape[1] < 3 or not np.isfinite(rgb).all():
        return None
    rgb = rgb[:, :3].astype(np.float64)
    scale = color_scale(rgb.min(initial=0), rgb.max(initial=0))
    return (rgb * scale).round().astype(np.uint8) if scale else None


def color_scale(least: float, most: float) -> float | None:
    """The factor that turns colors into bytes; None if the values are not colors.

    Args:
        least: The smallest value of all channels and points.
        most: The largest value of all channels and points.
    """
    if not 0 <= least <= most <= 65535:
        return None
    return 255 if most <= 1 else 1 if most <= 255 else 1 / 257


def as_labels(labels: np.ndarray) -> np.ndarray | None:  # [N]
    """Convert labels to int64 if they are integers of moderate size; otherwise None.

    Args:
        labels: Labels [N] of any dtype.
    """
    labels = labels.astype(np.float64)
    if not np.isfinite(labels).all() or (labels != np.rint(labels)).any():
        return None
    return labels.astype(np.int64) if np.abs(labels).max(initial=0) <= MOST_LABELS else None


def _taken(columns: dict, triples) -> np.ndarray | None:
    for triple in triples:
        if all(name in columns for name in triple):
            return np.stack([columns.pop(name) for name in triple], 1).astype(np.float64)
    return None


Columns = tuple[dict[str, np.ndarray], Mapping[int, str]]


def _read_ply(path: Path) -> Columns:
    import trimesh

    with open(path, "rb") as file:
        head = file.read(65536).partition(b"end_header")[0].decode("ascii", "replace")
        file.seek(0)
        cloud = trimesh.load(file, file_type="ply", process=False, skip_materials=True)
    rows = cloud.metadata["_ply_raw"]["vertex"]["data"]
    names = {int(number): name for number, name in re.findall(r"comment label (\d+): (.*)", head)}
    columns = rows.dtype.names if isinstance(rows, np.ndarray) else rows
    found = {name: np.asarray(rows[name]) for name in columns}
    is_column = {name: each.shape[1:] == (1,) for name, each in found.items()}  # for text files
    return {name: each[:, 0] if is_column[name] else each for name, each in found.items()}, names


def _read_pcd(path: Path) -> Columns:
    columns = read_columns(path)
    for name in ("rgb", "rgba"):
        if name in columns and columns[name].dtype.itemsize == 4:
            packed = columns.pop(name).view(np.uint32)
            columns |= {"red": packed >> 16 & 255, "green": packed >> 8 & 255, "blue": packed & 255}
    return columns, {}


def _read_las(path: Path) -> Columns:
    file = open_las(path)
    names = label_names(file.header) or ASPRS
    present = set(file.point_format.dimension_names)
    wanted = present & {"red", "green", "blue", "classification", "intensity"}
    wanted |= set(file.point_format.extra_dimension_names)
    return {name: np.asarray(file[name]) for name in sorted(wanted)}, names


def _read_table(path: Path) -> Columns:
    if path.suffix.lower() == ".npy":
        return named_columns(load_npy(path)), {}
    table, names = read_columns_of_text(path)
    named = dict(zip(names, table.T, strict=True)) if names else named_columns(table)
    return named, {}


def named_columns(table: np.ndarray) -> dict[str, np.ndarray]:  # [N, 3 or more]
    """Name the columns of a table by the usual order: xyz, then colors, normals or both, then a
    label.

    Args:
        table: [N, 3 or more].
    """
    more = table[:, 3:].astype(np.float64)
    columns = {}
    if more.shape[1] >= 3:
        names = NORMALS[0] if _are_normals(more[:, :3]) else COLORS[0]
        columns |= {name: more[:, i] for i, name in enumerate(names)}
        more = more[:, 3:]
        if names is COLORS[0] and more.shape[1] >= 3 and _are_unit(more[:, :3]):
            columns |= {name: more[:, i] for i, name in enumerate(NORMALS[0])}
            more = more[:, 3:]
    if more.shape[1] and as_labels(more[:, -1]) is not None:
        columns["label"], more = more[:, -1], more[:, :-1]
    return columns | {f"column {i + 1}": more[:, i] for i in range(more.shape[1])}


def _are_normals(three: np.ndarray) -> bool:  # [N, 3]
    """Whether three columns are normals rather than colors, which are not negative."""
    return _are_unit(three) and bool(three.min(initial=0) < 0)


def _are_unit(three: np.ndarray) -> bool:  # [N, 3]
    return bool(np.isfinite(three).all() and np.median(np.linalg.norm(three, axis=1)) < 1.5)


_COLUMNS = {
    ".csv": _read_table,
    ".las": _read_las,
    ".laz": _read_las,
    ".npy": _read_table,
    ".pcd": _read_pcd,
    ".ply": _read_ply,
    ".txt": _read_table,
    ".xyz": _read_table,
}
