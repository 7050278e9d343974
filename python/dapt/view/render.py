"""Render clouds in software: balls in perspective, shaded by depth as in the viewer, with alpha."""

from dataclasses import dataclass

import numpy as np

from dapt.view.clouds import spacing

FINER = 3  # supersampling factor in each direction
RINGS = ((1, 0.5), (2, 0.3), (4, 0.2))  # reach in pixels of the picture, and weight
DARKEST = 0.02  # largest depth step that counts, in powers of two of the distance


@dataclass(frozen=True)
class Camera:
    """The position from which a cloud is seen; y is up.

    Args:
        azimuth: The angle around the vertical axis in degrees; 0 shows the front.
        elevation: The angle above the horizon in degrees.
        distance: The distance in radii of the cloud.
        zoom: The zoom of the picture.
    """

    azimuth: float = 35.0
    elevation: float = 20.0
    distance: float = 4.0
    zoom: float = 1.0

    def axes(self) -> np.ndarray:  # [3, 3]: right, up, toward
        """The picture's axes in space."""
        a, e = np.radians(self.azimuth), np.radians(self.elevation)
        toward = np.array([np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)])
        right = np.array([np.cos(a), 0.0, -np.sin(a)])
        return np.stack([right, np.cross(toward, right), toward])


def render(
    points: np.ndarray,
    colors: np.ndarray,
    width: int,
    height: int,
    camera: Camera = Camera(),
    size: float = 1.25,
    shading: float = 1.0,
) -> np.ndarray:
    """Render a cloud as RGBA, uint8 [height, width, 4], transparent where there is no point.

    Args:
        points: The points [N, 3], with y up.
        colors: The colors, uint8 [N, 3].
        width: The width in pixels.
        height: The height in pixels.
        camera: The position from which the cloud is seen.
        size: The diameter of a point, relative to the distance between neighbors.
        shading: The strength of eye-dome lighting; 0 for none.
    """
    w, h = width * FINER, height * FINER
    color, distance = _splat(np.asarray(points, np.float64), colors, w, h, camera, size)
    shown = np.isfinite(distance)
    depth = np.log2(distance)
    shade = np.exp(-70.0 * shading * _depth_steps(depth, shown))
    lit = np.where(shown[..., None], color * shade[..., None], 0.0)
    blocks = lit.reshape(height, FINER, width, FINER, 3).sum((1, 3))
    share = shown.reshape(height, FINER, width, FINER).sum((1, 3))
    mixed = blocks / np.maximum(share, 1)[..., None]
    alpha = 255.0 * share / FINER**2
    return np.concatenate([mixed, alpha[..., None]], 2).round().clip(0, 255).astype(np.uint8)


def _splat(
    points: np.ndarray, colors: np.ndarray, w: int, h: int, camera: Camera, size: float
) -> tuple[np.ndarray, np.ndarray]:
    """(colors [h, w, 3], distances [h, w], infinite where there is no point)"""
    low, high = np.percentile(points, [0.5, 99.5], axis=0)
    centered = points - (low + high) / 2
    radius = max(np.percentile(np.linalg.norm(centered, axis=1), 99.5), 1e-12)
    right, up, toward = (centered / radius @ camera.axes().T).T
    away = camera.distance - toward
    # as large as possible, in the middle of the picture
    x, y = right / away, up / away
    bounds = [np.percentile(axis, [0.3, 99.7]) for axis in (x, y)]
    spans = [max(np.ptp(bound), 1e-9) for bound in bounds]
    scale = 0.9 * camera.zoom * min(w / spans[0], h / spans[1])
    x = (x - sum(bounds[0]) / 2) * scale + w / 2
    y = h / 2 - (y - sum(bounds[1]) / 2) * scale
    ball = min(size * spacing(points) / radius / 2, 0.5)
    reach = np.clip(ball / away * scale, 0.7 * FINER, 0.05 * min(w, h))  # pixels

    color = np.zeros((h * w, 3))
    distance = np.full(h * w, np.inf)
    most = int(np.ceil(reach.max()))
    for dy in range(-most, most + 1):
        for dx in range(-most, most + 1):
            column, row = np.round(x + dx).astype(int), np.round(y + dy).astype(int)
            off = ((column - x) ** 2 + (row - y) ** 2) / reach**2
            inside = (off <= 1) & (column >= 0) & (column < w) & (row >= 0) & (row < h)
            if not inside.any():
                continue
            place = row[inside] * w + column[inside]
            near = away[inside] - ball * (1 - off[inside])
            order = np.argsort(-near, kind="stable")  # the nearest point is written last
            place, near = place[order], near[order]
            closer = near < distance[place]
            distance[place[closer]] = near[closer]
            color[place[closer]] = colors[inside][order][closer]
    return color.reshape(h, w, 3), distance.reshape(h, w)


def _depth_steps(depth: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """How far each pixel is behind those around it [h, w]."""
    total = np.zeros(depth.shape)
    filled = np.where(shown, depth, np.inf)
    for reach, weight in RINGS:
        step = reach * FINER // 2 or 1
        for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)):
            other = _shifted(filled, dy * step, dx * step)
            with np.errstate(invalid="ignore"):
                behind = np.where(shown, filled - other, 0.0)
            total += weight / 8 * np.clip(np.nan_to_num(behind, neginf=0.0), 0, DARKEST)
    return total


def _shifted(values: np.ndarray, dy: int, dx: int) -> np.ndarray:
    """The neighbor of each pixel; infinite beyond the edge."""
    h, w = values.shape
    moved = np.full((h, w), np.inf)
    here = slice(max(0, -dy), h - max(0, dy)), slice(max(0, -dx), w - max(0, dx))
    there = slice(max(0, dy), h + min(0, dy)), slice(max(0, dx), w + min(0, dx))
    moved[here] = values[there]
    return moved
