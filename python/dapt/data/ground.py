"""Heights above the ground in scans from the air or the street."""

from itertools import product

import numpy as np

GROUND = 2  # a class of the las specification
CELL = 2.0  # side of a cell, in meters: wider than most objects that hide the ground
MOST_CELLS = 2**21
REACH = 6  # cells in each direction to compare with, so that a roof has lower ones among them
SLOPE, STEP = 0.3, 0.3  # of the ground: rise per distance, and allowance in meters


def above_ground(
    points: np.ndarray, classes: np.ndarray | None = None, cell: float = CELL
) -> np.ndarray:
    """Compute heights [N] above the ground.

    Points of class 2 are the ground. Without any, it is the lowest point of each cell, except where
    that is far above another cell's (Vosselman, 2000). Heights are interpolated between cells.

    Args:
        points: [N, 3], with z up.
        classes: The las classification of each point [N], or None.
        cell: The side of a cell.
    """
    points = np.asarray(points, np.float64)
    place = points[:, :2] - points[:, :2].min(0)
    cell = max(cell, float(np.sqrt(np.prod(place.max(0) + cell) / MOST_CELLS)))
    shape = tuple((place.max(0) // cell).astype(int) + 1)
    cells = np.ravel_multi_index((place // cell).astype(int).T, shape)  # [N]
    is_ground = np.zeros(len(points), bool) if classes is None else np.asarray(classes) == GROUND
    if is_ground.any():
        level = _means(cells[is_ground], points[is_ground, 2], shape)
    else:
        level = _without_roofs(_lowest(cells, points[:, 2], shape), cell)
    return points[:, 2] - _between(_filled(level), place / cell - 0.5)


def _means(cells: np.ndarray, heights: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    size = int(np.prod(shape))
    count = np.bincount(cells, minlength=size)
    total = np.bincount(cells, heights, minlength=size)
    return np.where(count, total / np.maximum(count, 1), np.nan).reshape(shape)


def _lowest(cells: np.ndarray, heights: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    lowest = np.full(int(np.prod(shape)), np.inf)
    np.minimum.at(lowest, cells, heights)
    return np.where(np.isfinite(lowest), lowest, np.nan).reshape(shape)


def _without_roofs(level: np.ndarray, cell: float) -> np.ndarray:
    """Drop cells that are further above a cell around them than the slope of ground allows."""
    far = np.pad(level, REACH, constant_values=np.nan)
    highest = np.full(level.shape, np.inf)
    for i, j in product(range(-REACH, REACH + 1), repeat=2):
        near = ((i, level.shape[0]), (j, level.shape[1]))
        rows, columns = (slice(REACH + move, REACH + move + n) for move, n in near)
        rise = SLOPE * cell * np.hypot(i, j) + STEP
        highest = np.fmin(highest, far[rows, columns] + rise)
    return np.where(level <= highest, level, np.nan)


def _filled(level: np.ndarray) -> np.ndarray:
    """Fill cells without ground with the mean of the smallest square around them that has some."""
    if not np.isnan(level).any():
        return level
    even = np.pad(level, [(0, n % 2) for n in level.shape], constant_values=np.nan)
    fours = np.stack([even[i::2, j::2] for i, j in product((0, 1), repeat=2)])
    known = (~np.isnan(fours)).sum(0)
    coarse = _filled(np.where(known, np.nansum(fours, 0) / np.maximum(known, 1), np.nan))
    rows, columns = level.shape
    finer = coarse.repeat(2, 0).repeat(2, 1)[:rows, :columns]
    return np.where(np.isnan(level), finer, level)


def _between(level: np.ndarray, place: np.ndarray) -> np.ndarray:  # [N, 2] in cells -> [N]
    """Interpolate bilinearly between the centers of cells."""
    most = np.array(level.shape) - 1
    place = np.clip(place, 0, most)
    low = np.minimum(place.astype(int), np.maximum(most - 1, 0))
    high = np.minimum(low + 1, most)
    (u, v), (i, j), (k, m) = (place - low).T, low.T, high.T
    first = (1 - v) * level[i, j] + v * level[i, m]
    return (1 - u) * first + u * ((1 - v) * level[k, j] + v * level[k, m])
