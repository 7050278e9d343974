"""A scene that is being labeled: its file, its tiles, and which of them are complete."""

import io
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dapt.data.arrays import Npz
from dapt.data.copc import CopcRegions
from dapt.data.las_stream import LasStream
from dapt.data.ply_stream import PlyStream
from dapt.data.streams import Stream, Survey, Told
from dapt.data.tiles import Cells, InMemory, Plan, Spill
from dapt.errors import reading
from dapt.files import write_atomically

Store = InMemory | CopcRegions | Spill

log = logging.getLogger("dapt")


def is_streamed(path: Path, channels: str = "xyz") -> bool:
    """Whether a file is read in pieces; all others are read whole.

    Args:
        path: A file of points.
        channels: The channels that the network reads; intensity and height require the whole scene.
    """
    kind = path.suffix.lower()
    if channels not in ("xyz", "color", "normal"):
        return False
    return kind in (".las", ".laz") or kind == ".ply" and path.is_file() and PlyStream.reads(path)


def open_stream(path: Path) -> Stream:
    """Open a file that is read in pieces.

    Args:
        path: A file for which `is_streamed` holds.
    """
    return PlyStream(path) if path.suffix.lower() == ".ply" else LasStream(path)


@dataclass
class Scene:
    """A file whose points have been surveyed and divided into tiles.

    Args:
        path: The file.
        parts: The folder of complete parts.
        survey: Its bounds and its color ranges.
        plan: Its tiles.
        left: The numbers of the tiles that are not labeled yet.
    """

    path: Path
    parts: Path
    survey: Survey
    plan: Plan
    left: list[int] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The name of the files that its labels are written to, without their suffixes."""
        return f"{self.path.stem}_labels"

    @property
    def spill(self) -> Path:
        """The file of the points, sorted by tile."""
        return self.parts / "points.bin"

    def tile(self, number: int) -> Path:
        """The file of a tile's labels.

        Args:
            number: The number of the tile.
        """
        return self.parts / f"tile_{number:06d}.npy"

    @property
    def is_small(self) -> bool:
        """Whether the scene fits into a single tile."""
        return len(self.plan.tiles) == 1

    def store(self) -> Store:
        """Where its regions are read from: through the file's own index if it has one."""
        stream, told = open_stream(self.path), self.survey.told
        if self.is_small:
            return InMemory(stream, told)
        indexed = None
        if isinstance(stream, LasStream):
            indexed = CopcRegions.of(self.path, self.plan, told, stream.count)
        return indexed or Spill(self.spill, self.plan, told)

    def keep(self, identity: str) -> None:
        """Write what another process needs to continue; this file marks the points as sorted.

        Args:
            identity: Everything that the labels depend on.
        """
        cells, known = self.plan.cells, self.survey
        content = io.BytesIO()
        np.savez(
            content,
            identity=np.array(identity),
            told=np.array(json.dumps(vars(known.told))),
            low=known.low,
            high=known.high,
            ground=np.array(cells.ground),
            side=np.array(cells.side),
            keys=cells.keys.view(np.float64),
            counts=cells.counts,
        )
        write_atomically(self.parts / "plan.npz", content.getvalue())

    @classmethod
    def kept(
        cls, path: Path, parts: Path, identity: str, block: float, tile: int
    ) -> "Scene | None":
        """Recover a scene that an interrupted labeling with the same settings left, if any.

        Args:
            path: The file.
            parts: The folder of complete parts.
            identity: Everything that the labels depend on.
            block: The side of the square blocks that the network reads.
            tile: The approximate number of points per tile.
        """
        if not (parts / "plan.npz").is_file():
            return None
        with reading(parts / "plan.npz"), Npz(parts / "plan.npz") as kept:
            if str(kept["identity"]) != identity:
                log.info("%s is from another file, model or setting: starting over", parts)
                return None
            told = json.loads(str(kept["told"]))
            cells = Cells(block, kept["ground"].tolist())
            cells.side = float(kept["side"])
            cells.keys, cells.counts = kept["keys"].view(np.complex128), kept["counts"]
            colors, normals = tuple(told.pop("colors")), tuple(told.pop("normals"))
            known = Survey(kept["low"], kept["high"], Told(colors, normals, **told))
        scene = cls(path, parts, known, Plan.of(cells, tile))
        tiles = range(len(scene.plan.tiles))
        scene.left = [number for number in tiles if not scene.tile(number).is_file()]
        done = len(tiles) - len(scene.left)
        log.info("%s: resuming, %d of %d tiles are labeled", path, done, len(tiles))
        return scene
