"""Read a cloud or a mesh from a file: ply, pcd, off, obj, xyz, txt, csv, npy, las, laz."""

from pathlib import Path

import numpy as np

from dapt.data.arrays import load_npy
from dapt.data.geometry import read_geometry
from dapt.data.las import read_las
from dapt.data.pcd import read_pcd
from dapt.errors import DataError, UsageError, reading


def read_cloud(path: str | Path, surface_points: int = 8192, seed: int = 0) -> np.ndarray:
    """Read points [N, 3] in float64: a whole cloud, or `surface_points` samples of a mesh by area.

    Args:
        path: The file, whose suffix decides how it is read.
        surface_points: The number of points to sample on a mesh.
        seed: The seed of these samples.
    """
    path = Path(path)
    read = READERS.get(path.suffix.lower())
    if read is None:
        raise DataError(
            f"cannot read {path}: clouds and meshes end in {', '.join(sorted(READERS))}"
        )
    with reading(path):
        points = read(path)
        if not isinstance(points, np.ndarray):
            points = _sample_surface(points, surface_points, seed)
    if points.ndim != 2 or points.shape[1] < 3 or points.dtype.kind not in "fiu":
        raise DataError(
            f"{path} must hold numbers [N, 3 or more], got {points.dtype} {list(points.shape)}"
        )
    if len(points) == 0:
        raise DataError(f"{path} holds no points")
    return points[:, :3].astype(np.float64)


def read_table(path: Path, columns: int = 3) -> np.ndarray:
    """Read columns of a text file, separated by commas, semicolons or white space.

    Args:
        path: The file. If its first line names columns, those named x, y and z are read, otherwise
            the first ones.
        columns: The number of columns.
    """
    table, names = read_columns_of_text(path, columns)
    if columns == 3 and {"x", "y", "z"} <= set(names):
        return table[:, [names.index(axis) for axis in "xyz"]]
    return table[:, :columns]


def read_columns_of_text(path: Path, few: int | None = None) -> tuple[np.ndarray, list[str]]:
    """Read (numbers [N, columns], column names if there are any) from a text file.

    Args:
        path: The file.
        few: The number of columns to read if they have no names; all by default.
    """
    with open(path) as file:
        first = next((line for line in file if line.strip() and line[0] != "#"), "")
        delimiter = next((mark for mark in ",;" if mark in first), None)
        names = [word.strip(" \"'\n").lower() for word in first.split(delimiter)]
        named = _has_words(names)
        file.seek(0)
        lines = (line for line in file if line != first) if named else file
        taken = None if named or few is None else range(few)
        table = np.loadtxt(lines, delimiter=delimiter, usecols=taken, ndmin=2)
    return table, names if named else []


def _has_words(fields: list[str]) -> bool:
    """Whether a line names columns: none of its fields is a number."""

    def is_number(field: str) -> bool:
        try:
            float(field)
        except ValueError:
            return False
        return True

    return not any(map(is_number, fields))


def _sample_surface(mesh, count: int, seed: int) -> np.ndarray:
    import trimesh

    if not mesh.area > 0:
        raise ValueError("its surface has no area")
    return np.asarray(trimesh.sample.sample_surface(mesh, count, seed=seed)[0])


def surface_beside(
    path: Path, surface_points: int = 8192, seed: int = 0
) -> dict[str, np.ndarray] | None:
    """Normals, and colors if any, of the points that `read_cloud` samples on a mesh.

    Returns None if the file is not a mesh.

    Args:
        path: The file.
        surface_points: The number of points sampled on the mesh.
        seed: The seed of these samples.
    """
    if READERS[path.suffix.lower()] is not read_geometry:
        return None
    import trimesh

    with reading(path):
        mesh = read_geometry(path)
    if isinstance(mesh, np.ndarray):
        return None
    faces = trimesh.sample.sample_surface(mesh, surface_points, seed=seed)[1]
    known = {"normals": np.asarray(mesh.face_normals[faces], np.float64)}
    if mesh.visual.kind in ("vertex", "face"):
        known["colors"] = np.asarray(mesh.visual.face_colors[faces, :3])
    return known


READERS = {
    ".csv": read_table,
    ".las": read_las,
    ".laz": read_las,
    ".npy": load_npy,
    ".obj": read_geometry,
    ".off": read_geometry,
    ".pcd": read_pcd,
    ".ply": read_geometry,
    ".txt": read_table,
    ".xyz": read_table,
}


def upright(points: np.ndarray, up: str) -> np.ndarray:  # [..., 3]
    """Rotate points so that the axis `up` becomes y, which points up in most datasets.

    Args:
        points: [..., 3].
        up: "x", "y" or "z".
    """
    if up == "y":
        return points
    x, y, z = np.moveaxis(points.astype(np.float64), -1, 0)
    return np.stack((-y, x, z) if up == "x" else (x, z, -y), -1)


def unit_ball(points: np.ndarray) -> np.ndarray:  # [N, 3]
    """Move points so that their mean is the origin, and scale them so that the farthest is at 1.

    Args:
        points: [N, 3].
    """
    points = points - points.mean(0)
    return points / (np.linalg.norm(points, axis=1).max() or 1)


def check_finite(where: str, points: np.ndarray, start: int = 0) -> None:  # [N, 3]
    """Refuse a coordinate that is not finite in float32.

    Args:
        where: The name to use in errors.
        points: [N, 3].
        start: The number of the first of these points in the cloud.
    """
    with np.errstate(over="ignore"):
        bad = np.flatnonzero(~np.isfinite(points.astype(np.float32)).all(1))
    if len(bad):
        raise DataError(
            f"{where} has a point that is not finite: point {start + bad[0]} is "
            f"{points[bad[0]].tolist()}"
        )


def check_cloud(where: str, points: np.ndarray, num_points: int) -> None:
    """Refuse a cloud that does not fit a network.

    Args:
        where: The name to use in errors.
        points: [N, 3].
        num_points: The number of points that the network sees.
    """
    if points.ndim != 2 or points.shape[1] != 3:
        raise DataError(f"{where} must have points [N, 3], got {list(points.shape)}")
    if len(points) < num_points:
        raise DataError(
            f"{where} has {len(points)} points, and the network was trained on {num_points}: "
            "give a denser cloud"
        )
    check_finite(where, points)


def check_up(up: str) -> None:
    """Refuse a value that is not an axis.

    Args:
        up: "x", "y" or "z".
    """
    if up not in ("x", "y", "z"):
        raise UsageError(f"up must be x, y or z, got {up!r}")
