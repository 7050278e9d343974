"""Clouds as embedded in a page: a JSON header, and bytes.

Coordinates are integers on a grid of 65,535 steps along the longest side; values have 16 bits from
their smallest to their largest. Points are in random order, so the first k of them represent the
whole cloud. Vocabulary: N points, T tokens, L blocks of the network.
"""

import base64
import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

import dapt_ext

STEPS = 65535


class Block:
    """Concatenated arrays, each aligned to four bytes."""

    def __init__(self):
        self.content = bytearray()
        self.entries: list[dict] = []

    def add(self, name: str, values: np.ndarray) -> str:
        """Append an array and return its name.

        Args:
            name: The name by which the page finds it.
            values: Numbers of any shape.
        """
        values = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"))
        self.content += bytes(-len(self.content) % 4)
        entry = {"name": name, "type": values.dtype.str[1:], "start": len(self.content)}
        self.entries.append(entry | {"length": values.size})
        self.content += values.tobytes()
        return name

    def text(self) -> str:
        """The bytes in base64."""
        return base64.b64encode(zlib.compress(self.content, 7)).decode()


@dataclass(frozen=True)
class Channel(ABC):
    """Values by which points can be colored.

    Args:
        key: Its name in the page, unique within a cloud.
        title: The title that the reader sees.
        note: A sentence under the legend.
    """

    key: str
    title: str
    note: str = field(default="", kw_only=True)

    @abstractmethod
    def pack(self, block: Block, order: np.ndarray) -> dict:
        """Add the values to the block and return their description.

        Args:
            block: The block of the cloud.
            order: The order of the points [N].
        """

    def header(self, block: Block, order: np.ndarray) -> dict:
        """Add the values to the block and return the channel's header for the page.

        Args:
            block: The block of the cloud.
            order: The order of the points [N].
        """
        head = {"key": self.key, "title": self.title, **self.pack(block, order)}
        return head | ({"note": self.note} if self.note else {})


@dataclass(frozen=True)
class Colors(Channel):
    """The file's own colors.

    Args:
        rgb: The colors, uint8 [N, 3].
    """

    rgb: np.ndarray

    def pack(self, block: Block, order: np.ndarray) -> dict:
        return {"kind": "color", "array": block.add(self.key, self.rgb[order].astype(np.uint8))}


@dataclass(frozen=True)
class Normals(Channel):
    """Normals of any length.

    Args:
        normals: The normals [N, 3].
    """

    normals: np.ndarray

    def pack(self, block: Block, order: np.ndarray) -> dict:
        length = np.linalg.norm(self.normals, axis=1, keepdims=True)
        unit = self.normals / np.maximum(length, 1e-12)
        return {"kind": "normal", "array": block.add(self.key, (unit[order] * 127).astype(np.int8))}


@dataclass(frozen=True)
class Classes(Channel):
    """A class for each point.

    Args:
        classes: The class of each point, a row of the table of names [N].
        names: The key of one of the page's tables of names.
    """

    classes: np.ndarray
    names: str

    def pack(self, block: Block, order: np.ndarray) -> dict:
        classes = self.classes[order]
        classes = classes.astype(np.uint8 if classes.max(initial=0) < 256 else np.uint16)
        return {"kind": "category", "array": block.add(self.key, classes), "names": self.names}


@dataclass(frozen=True)
class Values(Channel):
    """A number for each point.

    Args:
        values: The values [N].
        map: The name of a color map in `style`.
        range: The values at the ends of the map; by default the smallest and the largest value.
        percent: Whether the values are shares.
    """

    values: np.ndarray
    map: str = "plain"
    range: tuple[float, float] | None = None
    percent: bool = False

    def pack(self, block: Block, order: np.ndarray) -> dict:
        levels, low, high = _levels(self.values[order], self.range)
        head = {"kind": "scalar", "array": block.add(self.key, levels), "low": low, "high": high}
        return head | {"map": self.map, "percent": self.percent}


@dataclass(frozen=True)
class Tokens(Channel):
    """A number for each token and block.

    Args:
        values: The values [L, T].
        token: The token to which each point belongs [N].
        map: The name of a color map in `style`.
    """

    values: np.ndarray
    token: np.ndarray
    map: str = "scale"

    def pack(self, block: Block, order: np.ndarray) -> dict:
        # a single outlier would give all other tokens the same color
        high = float(np.quantile(self.values, 0.995)) if self.values.size else 1.0
        levels, low, high = _levels(self.values, (min(float(self.values.min(initial=0)), 0), high))
        if not any(entry["name"] == "token" for entry in block.entries):
            kind = np.uint16 if self.values.shape[1] <= STEPS else np.uint32
            block.add("token", self.token[order].astype(kind))
        head = {"kind": "token", "array": block.add(self.key, levels), "index": "token"}
        head |= {"low": low, "high": high, "map": self.map, "blocks": len(self.values)}
        return head | {"means": [round(float(mean), 5) for mean in self.values.mean(1)]}


def _levels(
    values: np.ndarray, ends: tuple[float, float] | None
) -> tuple[np.ndarray, float, float]:
    values = np.asarray(values, np.float64)
    known = values[np.isfinite(values)]
    low, high = ends or (float(known.min(initial=0)), float(known.max(initial=0)))
    if ends is None and len(known):
        low, high = float(known.min()), float(known.max())
    span = (high - low) or 1.0
    levels = (np.nan_to_num(values, nan=low) - low) / span
    return (levels.clip(0, 1) * STEPS).round().astype(np.uint16), low, low + span


@dataclass(frozen=True)
class Facts:
    """What is known about a cloud as a whole.

    Args:
        lines: Pairs of a name and a value.
        probabilities: Pairs of a class and its probability, most probable first.
        verdict: "right" or "wrong" if both the true class and the model's answer are known.
    """

    lines: Sequence[tuple[str, str]] = ()
    probabilities: Sequence[tuple[str, float]] = ()
    verdict: str | None = None


@dataclass(frozen=True)
class Cloud:
    """One cloud of a page.

    Args:
        name: Its title.
        points: The points in the file's coordinates [N, 3].
        channels: The channels by which it can be colored, in addition to its height.
        up: The vertical axis.
        facts: What is known about the cloud.
        first: The key of the channel that is shown first.
    """

    name: str
    points: np.ndarray
    channels: Sequence[Channel] = ()
    up: str = "y"
    facts: Facts = Facts()
    first: str | None = None

    def pack(self) -> tuple[dict, str]:
        """(header, block in base64)"""
        points = np.asarray(self.points, np.float64)
        order = np.random.default_rng(0).permutation(len(points))
        origin, extent = points.min(0), np.ptp(points, axis=0)
        step = float(extent.max()) / STEPS or 1.0
        grid = ((points[order] - origin) / step).round().astype(np.uint16)
        block = Block()
        block.add("positions", grid)
        height = {"key": "height", "title": "Height", "kind": "height", "map": "height"}
        axis = "xyz".index(self.up)
        height |= {"low": float(origin[axis]), "high": float(origin[axis] + extent[axis])}
        channels = [height, *(channel.header(block, order) for channel in self.channels)]
        header = {
            "name": self.name,
            "count": len(points),
            "up": self.up,
            "origin": origin.tolist(),
            "step": step,
            "extent": (extent / step).round().astype(int).tolist(),
            "spacing": spacing(points),
            "facts": vars(self.facts),
            "first": self.first or (channels[1]["key"] if self.channels else "height"),
            "channels": channels,
            "arrays": block.entries,
        }
        return header, block.text()


def spacing(points: np.ndarray, samples: int = 2000) -> float:
    """The typical distance of a point to its nearest neighbors.

    Args:
        points: [N, 3].
        samples: The approximate number of points to measure.
    """
    if len(points) < 2:
        return 1.0
    points = points - points.mean(0)
    cloud = torch.from_numpy(points.astype(np.float32))[None]
    some = cloud[:, :: max(1, len(points) // samples)]
    k = min(5, len(points))
    squared, _ = dapt_ext.knn(some, cloud, k)  # [1, samples, k], the first is the point itself
    usual = float(squared[0, :, 1:].sqrt().mean(1).median())
    return usual or float(np.ptp(points, axis=0).max()) / len(points) ** 0.5 or 1.0
