"""Label scenes of any size tile by tile: each is read from disk, labeled, and written to disk.

Complete tiles are kept in `<name>_labels.parts` beside the output until the scene is complete. A
labeling that was killed resumes from there, and processes exchange their tiles through it.
"""

import hashlib
import io
import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dapt.adapters import AdaptedModel
from dapt.data.blocks import Grid
from dapt.data.las_stream import LasStream
from dapt.data.preprocessing import Preprocessing
from dapt.data.streams import survey
from dapt.data.tiles import Cells, Plan, Spill
from dapt.errors import DataError, check_at_least
from dapt.files import remove, write_atomically, writing
from dapt.inference.rooms import check_ground, label_region
from dapt.inference.scene_files import TILE, write_labels
from dapt.inference.scene_parts import Scene, Store, open_stream
from dapt.inference.team import Team
from dapt.progress import Bar

SAID_EVERY = 60.0  # seconds between two lines of progress

log = logging.getLogger("dapt")


@dataclass(frozen=True, kw_only=True)
class SceneOptions:
    """How scenes are labeled.

    Args:
        out: The folder of the labels.
        block: The side of the square blocks that the network reads.
        stride: The distance from one block to the next.
        tile: The approximate number of points per tile; memory grows with it.
        codes: The classification code of each label in las files [labels]; None to keep the
            classification that a file has.
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
        name: The name of the scene.
        counts: The number of points of each label [labels].
        written: The files.
    """

    name: str
    counts: np.ndarray
    written: tuple[Path, ...]


def label_scenes(
    model: AdaptedModel,
    paths: Sequence[Path],
    trained: Preprocessing,
    options: SceneOptions,
    team: Team,
) -> Iterator[Labeled | DataError]:
    """Label files and yield the result or the error of each, in order.

    As many files are processed at a time as there are processes: each process reads one file and
    writes one, and all of them share the tiles.

    Args:
        model: A model that labels points.
        paths: Files for which `is_streamed` holds.
        trained: How the training scenes were prepared.
        options: How the scenes are labeled.
        team: The processes that label them.
    """
    labeler = _Labeler(model, trained, options)
    for begin in range(0, len(paths), team.size):
        group = paths[begin : begin + team.size]
        scenes = team.each(group, labeler.prepare)
        errors = _label(labeler, scenes, team)
        scenes = [errors.get(number, scene) for number, scene in enumerate(scenes)]
        yield from team.each(scenes, labeler.finish)


def _label(labeler: "_Labeler", scenes: Sequence, team: Team) -> dict[int, DataError]:
    """Label the remaining tiles, and return the errors by the number of the scene."""
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
                        stores = {number: scenes[number].store()}  # keeps only one scene's
                    labeler.label(scenes[number], tile, stores[number])
                except DataError as error:
                    errors[number] = error
            progress.advance(count[number, tile])
    found: dict[int, DataError] = {}
    for each in team.gather(errors):
        found |= each
    return found


class _Progress:
    """A progress bar on a terminal, otherwise a line per minute with the time left."""

    def __init__(self, what: str, total: int, team: Team):
        self.bar = Bar(what, total, shown=team.speaks)
        self._begun = self._said = time.monotonic()

    def advance(self, points: int) -> None:
        """Count this many more points as labeled."""
        self.bar.advance(points)
        now, done, total = time.monotonic(), self.bar.done, self.bar.total
        if not self.bar.shown and now - self._said >= SAID_EVERY and done < total:
            self._said = now
            minutes = (now - self._begun) / done * (total - done) / 60
            left = f"about {minutes:.0f} min" if minutes >= 1 else "less than a minute"
            log.info("%s: %.0f %%, %s left", self.bar.what, 100 * done / total, left)


class _Labeler:
    """A model and how it labels scenes."""

    def __init__(self, model: AdaptedModel, trained: Preprocessing, options: SceneOptions):
        self.model, self.trained, self.options = model, trained, options
        self.names = model.adapter.task.label_names
        self._digest = ""

    def prepare(self, path: Path) -> Scene:
        """Survey a file, and sort its points by tile in a second pass if necessary."""
        stream, options = open_stream(path), self.options
        if stream.count < self.trained.num_points:
            raise DataError(
                f"{path} has {stream.count} points, and the network was trained on "
                f"{self.trained.num_points}: give a denser cloud"
            )
        if isinstance(stream, LasStream):
            stream.check_codes(options.codes)
        parts = options.out / f"{path.stem}_labels.parts"
        begun = Scene.kept(path, parts, self._identity(path), options.block, options.tile)
        if begun is not None:
            return begun
        axes = [axis for axis in range(3) if axis != "xyz".index(self.trained.up)]
        cells = Cells(options.block, axes)
        known = survey(stream, self.trained.channels, cells.look)
        for what in known.told.lacking:
            log.warning(
                "%s has no %s, which the model was trained with: using zeros",
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
            scene.keep(self._identity(path))
        return scene

    def _identity(self, path: Path) -> str:
        """Everything that the labels depend on."""
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

    def label(self, scene: Scene, tile: int, store: Store) -> None:
        """Label the points of a tile and write the result."""
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
        """Assemble the tiles, write the files, and remove the complete parts."""
        options = self.options
        counts, written = write_labels(scene, options.out, self.names, options.codes)
        return Labeled(scene.path.stem, counts, written)
