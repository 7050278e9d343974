"""A scene that is being labeled: the file, its tiles, and what of it is complete."""

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
        channels: What a network reads beside places; intensity and height take more than one look
            at the file, and are known for whole scenes alone.
    """
    kind = path.suffix.lower()
    if channels not in ("xyz", "color", "normal"):
        return False
    return kind in (".las", ".laz") or kind == ".ply" and path.is_file() and PlyStream.reads(path)


def open_stream(path: Path) -> Stream:
    """A file that is read in pieces.

    Args:
        path: A file of points.
    """
    return PlyStream(path) if path.suffix.lower() == ".ply" else LasStream(path)


@dataclass
class Scene:
    """A file whose points are known and cut into tiles.

    Args:
        path: The file.
        parts: Folder of what is complete.
        survey: Its ends and colors.
        plan: Its tiles.
        left: Numbers of the tiles that are not labeled yet.
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
        """The points sorted by tile."""
        return self.parts / "points.bin"

    def tile(self, number: int) -> Path:
        """The labels of a tile.

        Args:
            number: The tile's.
        """
        return self.parts / f"tile_{number:06d}.npy"

    @property
    def is_small(self) -> bool:
        """Whether all of it fits into a tile."""
        return len(self.plan.tiles) == 1

    def store(self) -> Store:
        """Where its regions are read: through the file's own index if it has one."""
        stream, told = open_stream(self.path), self.survey.told
        if self.is_small:
            return InMemory(stream, told)
        indexed = None
        if isinstance(stream, LasStream):
            indexed = CopcRegions.of(self.path, self.plan, told, stream.count)
        return indexed or Spill(self.spill, self.plan, told)

    def keep(self, identity: str) -> None:
        """Write what another process needs to go on; this file means that the points are sorted.

        Args:
            identity: All that a label depends on.
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
        """What a labeling with the same settings left when it was killed; None if there is none.

        Args:
            path: The file.
            parts: Folder of what is complete.
            identity: All that a label depends on.
            block: Side of the squares that a network sees.
            tile: Points of a tile, about.
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
