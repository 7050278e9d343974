"""Labels for scenes of any size, tile by tile: read from disk, labeled in memory, written to disk.

What is complete lies in `<name>_labels.parts` beside the output until all of it is: a labeling that
was killed goes on from there, and processes of a team hand each other their tiles through it.
"""

import hashlib
import io
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from dapt.adapters import AdaptedModel
from dapt.data.arrays import Npz, load_npy
from dapt.data.blocks import Grid
from dapt.data.copc import CopcRegions
from dapt.data.las_stream import LasStream
from dapt.data.ply_stream import PlyStream
from dapt.data.preprocessing import Preprocessing
from dapt.data.streams import PIECE, Labels, Stream, Survey, Told, survey
from dapt.data.tiles import Cells, InMemory, Plan, Spill
from dapt.errors import DataError, check_at_least, reading
from dapt.files import remove, write_atomically, writing, written_atomically
from dapt.inference.labeling import palette, ply_head, ply_rows
from dapt.inference.rooms import check_ground, label_region
from dapt.inference.team import Team
from dapt.progress import Bar

COLORED = 5_000_000  # points up to which a colored cloud is written beside las and laz
SAID_EVERY = 60.0  # seconds between two lines on how far it is
TILE = [("index", "<i8"), ("label", "<i4"), ("confidence", "<f4")]
ANSWER = np.dtype(TILE[1:])

log = logging.getLogger("dapt")


@dataclass(frozen=True, kw_only=True)
class SceneOptions:
    """How scenes are labeled.

    Args:
        out: Folder of the labels.
        block: Side of the squares that a network sees.
        stride: From one to the next.
        tile: Points of a tile, about: memory grows with it.
        codes: [labels], what stands for each in the classification of las files; None to leave
            that as it is.
    """

    out: Path
    block: float
    stride: float
    tile: int = 2_000_000
    codes: np.ndarray | None = None

    def __post_init__(self):
        check_at_least(self, tile=1)


@dataclass(frozen=True)
class Labeled:
    """A scene whose labels are written.

    Args:
        name: Of the scene.
        counts: [labels], points of each.
        written: The files.
    """

    name: str
    counts: np.ndarray
    written: tuple[Path, ...]


def is_streamed(path: Path, channels: str = "xyz") -> bool:
    """Whether a file is read in pieces; all others are read whole.

    Args:
        path: Of points.
        channels: What a network reads beside places; what takes more than a look is told of whole
            scenes alone.
    """
    kind = path.suffix.lower()
    if channels not in ("xyz", "color", "normal"):
        return False
    return kind in (".las", ".laz") or kind == ".ply" and path.is_file() and PlyStream.reads(path)


def label_scenes(
    model: AdaptedModel,
    paths: Sequence[Path],
    trained: Preprocessing,
    options: SceneOptions,
    team: Team,
) -> Iterator[Labeled | DataError]:
    """What came of each file, in their order.

    As many files as there are processes are under way: each process reads one and writes one, and
    the tiles of all of them are shared.

    Args:
        model: What labels points.
        paths: Files that `is_streamed`.
        trained: What was done to the scenes that the model was trained on.
        options: How they are labeled.
        team: Those that label them.
    """
    labeler = _Labeler(model, trained, options)
    for begin in range(0, len(paths), team.size):
        group = paths[begin : begin + team.size]
        scenes = team.each(group, labeler.prepare)
        errors = _label(labeler, scenes, team)
        scenes = [errors.get(number, scene) for number, scene in enumerate(scenes)]
        yield from team.each(scenes, labeler.finish)


def _label(labeler: "_Labeler", scenes: Sequence, team: Team) -> dict[int, DataError]:
    """Label the tiles that are not yet; gives the error of each scene that has one."""
    tiles = [
        (number, tile)
        for number, scene in enumerate(scenes)
        if isinstance(scene, Scene)
        for tile in scene.left
    ]
    count = {each: scenes[each[0]].plan.count(each[1]) for each in tiles}
    mine = team.my_share(tiles, count.__getitem__)
    errors: dict[int, DataError] = {}
    names = {scene.path.name for scene in scenes if isinstance(scene, Scene)}
    what = f"points of {names.pop()}" if len(names) == 1 else "points"
    progress = _Progress(what, sum(map(count.__getitem__, mine)), team)
    stores = {}
    with progress.bar:
        for number, tile in mine:
            if number not in errors:
                try:
                    if number not in stores:
                        stores = {number: scenes[number].store()}  # of one scene at a time
                    labeler.label(scenes[number], tile, stores[number])
                except DataError as error:
                    errors[number] = error
            progress.advance(count[number, tile])
    found: dict[int, DataError] = {}
    for each in team.gather(errors):
        found |= each
    return found


class _Progress:
    """A bar with the time left where somebody watches, and a line a minute elsewhere."""

    def __init__(self, what: str, total: int, team: Team):
        self.bar = Bar(what, total, shown=team.speaks)
        self._begun = self._said = time.monotonic()

    def advance(self, points: int) -> None:
        """So many more are labeled."""
        self.bar.advance(points)
        now, done, total = time.monotonic(), self.bar.done, self.bar.total
        if not self.bar.shown and now - self._said >= SAID_EVERY and done < total:
            self._said = now
            minutes = (now - self._begun) / done * (total - done) / 60
            left = f"about {minutes:.0f} min" if minutes >= 1 else "less than a minute"
            log.info("%s: %.0f %%, %s left", self.bar.what, 100 * done / total, left)


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
        """Of the files that its labels are written to, without what they end with."""
        return f"{self.path.stem}_labels"

    @property
    def spill(self) -> Path:
        """The points sorted by tile."""
        return self.parts / "points.bin"

    def tile(self, number: int) -> Path:
        """The labels of a tile.

        Args:
            number: Of the tile.
        """
        return self.parts / f"tile_{number:06d}.npy"

    @property
    def is_small(self) -> bool:
        """Whether all of it fits into a tile."""
        return len(self.plan.tiles) == 1

    def store(self) -> "InMemory | CopcRegions | Spill":
        """Where regions are read: by the file's own index where it has one."""
        stream, told = open_stream(self.path), self.survey.told
        if self.is_small:
            return InMemory(stream, told)
        indexed = None
        if isinstance(stream, LasStream):
            indexed = CopcRegions.of(self.path, self.plan, told, stream.count)
        return indexed or Spill(self.spill, self.plan, told)


def open_stream(path: Path) -> Stream:
    """A file that is read in pieces.

    Args:
        path: Of points.
    """
    return PlyStream(path) if path.suffix.lower() == ".ply" else LasStream(path)


class _Labeler:
    """A model and how it labels scenes."""

    def __init__(self, model: AdaptedModel, trained: Preprocessing, options: SceneOptions):
        self.model, self.trained, self.options = model, trained, options
        self.names = model.adapter.task.label_names
        self._digest = ""

    def prepare(self, path: Path) -> Scene:
        """Read a file once or twice: what it holds, and its points sorted by tile."""
        stream, options = open_stream(path), self.options
        if stream.count < self.trained.num_points:
            raise DataError(
                f"{path} has {stream.count} points, and the network was trained on "
                f"{self.trained.num_points}: give a denser cloud"
            )
        if isinstance(stream, LasStream):
            stream.check_codes(options.codes)
        parts = options.out / f"{path.stem}_labels.parts"
        begun = self._begun(path, parts)
        if begun is not None:
            return begun
        axes = [axis for axis in range(3) if axis != "xyz".index(self.trained.up)]
        cells = Cells(options.block, axes)
        known = survey(stream, self.trained.channels, cells.look)
        for what in known.told.lacking:
            log.warning(
                "%s has no %s, with which the model was trained: zeros stand in for them",
                path,
                what,
            )
        check_ground(known.low, known.high, options.block, self.trained.up, str(path))
        scene = Scene(path, parts, known, Plan.of(cells, options.tile))
        scene.left = list(range(len(scene.plan.tiles)))
        with writing(parts):
            remove(parts)
            parts.mkdir(parents=True)
        if not scene.is_small:
            store = scene.store()
            if isinstance(store, Spill):
                store.fill(stream)
            self._keep(scene)
        return scene

    def _begun(self, path: Path, parts: Path) -> Scene | None:
        """What a labeling with the same settings left when it was killed."""
        if not (parts / "plan.npz").is_file():
            return None
        with reading(parts / "plan.npz"), Npz(parts / "plan.npz") as kept:
            if str(kept["identity"]) != self._identity(path):
                log.info("%s is of another file, model or setting: it is made anew", parts)
                return None
            told = json.loads(str(kept["told"]))
            cells = Cells(self.options.block, kept["ground"].tolist())
            cells.side = float(kept["side"])
            cells.keys, cells.counts = kept["keys"].view(np.complex128), kept["counts"]
            colors, normals = tuple(told.pop("colors")), tuple(told.pop("normals"))
            known = Survey(kept["low"], kept["high"], Told(colors, normals, **told))
        scene = Scene(path, parts, known, Plan.of(cells, self.options.tile))
        tiles = range(len(scene.plan.tiles))
        scene.left = [number for number in tiles if not scene.tile(number).is_file()]
        done = len(tiles) - len(scene.left)
        log.info("%s: goes on, %d of %d tiles are labeled", path, done, len(tiles))
        return scene

    def _keep(self, scene: Scene) -> None:
        """What another process needs to go on; its being there says that the points are sorted."""
        cells, known = scene.plan.cells, scene.survey
        content = io.BytesIO()
        np.savez(
            content,
            identity=np.array(self._identity(scene.path)),
            told=np.array(json.dumps(vars(known.told))),
            low=known.low,
            high=known.high,
            ground=np.array(cells.ground),
            side=np.array(cells.side),
            keys=cells.keys.view(np.float64),
            counts=cells.counts,
        )
        write_atomically(scene.parts / "plan.npz", content.getvalue())

    def _identity(self, path: Path) -> str:
        """All that a label depends on."""
        stat, trained, options = path.stat(), self.trained, self.options
        if not self._digest:
            digest = hashlib.sha256()
            for name, value in sorted(self.model.state_dict().items()):
                digest.update(name.encode())
                if torch.is_tensor(value) and value.numel():
                    array = value.detach().cpu().contiguous()
                    digest.update(array.reshape(-1).view(torch.uint8).numpy())
            self._digest = digest.hexdigest()
        known = [str(path.resolve()), stat.st_size, stat.st_mtime_ns, self._digest]
        known += [trained.num_points, trained.normalize, trained.up, trained.channels]
        return json.dumps([*known, options.block, options.stride, options.tile])

    def label(self, scene: Scene, tile: int, store: "InMemory | CopcRegions | Spill") -> None:
        """Label the points of a tile and keep what came out."""
        region = store.read(tile)
        options, known = self.options, scene.survey
        grid = Grid.around(known.low, known.high, options.block, options.stride, self.trained.up)
        compared = self.trained if tile == 0 else None
        found = label_region(
            self.model, region, grid, self.trained, str(scene.path), trained=compared
        )
        rows = np.empty(len(found.labels), TILE)
        rows["index"] = region.index[region.own]
        rows["label"], rows["confidence"] = found.labels, found.confidence
        content = io.BytesIO()
        np.save(content, rows)
        write_atomically(scene.tile(tile), content.getvalue())

    def finish(self, scene: Scene) -> Labeled:
        """Put the tiles together, write the files, and remove what lay beside them."""
        stream, out = open_stream(scene.path), self.options.out
        counts = np.zeros(len(self.names), np.int64)
        answers = scene.parts / "answers.bin"
        with writing(answers), open(answers, "wb") as file:
            for number in range(len(scene.plan.tiles)):
                with reading(scene.tile(number)):
                    rows = load_npy(scene.tile(number))
                counts += np.bincount(rows["label"], minlength=len(counts))
                _scatter(file, rows)
        labels = Labels(self.names, self.options.codes, palette(len(self.names)))

        def answer(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
            offset = start * ANSWER.itemsize
            piece = np.fromfile(answers, ANSWER, stop - start, offset=offset)
            return piece["label"], piece["confidence"]

        own = out / f"{scene.name}{scene.path.suffix.lower()}"
        written = [out / f"{scene.name}.npy", own]
        with written_atomically(written[0]) as path:
            _write_npy(path, stream.count, answer)
        with written_atomically(own) as path, reading(scene.path):
            stream.write(path, answer, labels)
        if own.suffix != ".ply" and stream.count <= COLORED:
            written.append(out / f"{scene.name}.ply")
            with written_atomically(written[-1]) as path:
                _write_colored(path, stream, answer, self.names)
        remove(scene.parts)
        return Labeled(scene.path.stem, counts, tuple(written))


def _scatter(file, rows: np.ndarray) -> None:
    """Answers at their points' places; those that follow each other at once."""
    answers = np.empty(len(rows), ANSWER)
    for name in ANSWER.names:
        answers[name] = rows[name]
    breaks = np.flatnonzero(np.diff(rows["index"]) != 1) + 1
    for begin, end in zip([0, *breaks], [*breaks, len(rows)], strict=True):
        at = int(rows["index"][begin]) * ANSWER.itemsize
        os.pwrite(file.fileno(), answers[begin:end].tobytes(), at)


def _write_npy(path: Path, count: int, answer) -> None:
    """labels [N] int64"""
    with open(path, "wb") as file:
        header = {"descr": "<i8", "fortran_order": False, "shape": (count,)}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, count, PIECE):
            file.write(answer(start, min(start + PIECE, count))[0].astype("<i8").tobytes())


def _write_colored(path: Path, stream: Stream, answer, names: Sequence[str]) -> None:
    """The places, colored by label."""
    with open(path, "wb") as file:
        file.write(ply_head(stream.count, names))
        for piece in stream.pieces():
            found = answer(piece.start, piece.start + len(piece.places))
            file.write(ply_rows(piece.places, *found, len(names)).tobytes())
