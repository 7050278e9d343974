"""Files of points in, a label and the probabilities of all classes out."""

import csv
import io
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from dapt.adapters import AdaptedModel
from dapt.adapters.attachment import Attachment
from dapt.data.arrays import Npz
from dapt.data.channels import COLUMNS, PARTS, beside, lacks, read_beside, taken_apart
from dapt.data.clouds import check_cloud, read_cloud
from dapt.data.npz import bounds_of
from dapt.data.preprocessing import Preprocessing
from dapt.errors import DataError, UsageError, listed, reading
from dapt.files import write_atomically
from dapt.inference.ahead import read_ahead
from dapt.inference.score import check_probabilities, log_mean, reduction, views
from dapt.methods.method import is_packed
from dapt.progress import Bar

Prediction = dict[str, object]
Cloud = tuple[str, np.ndarray]  # its name and its points [N, D]
BATCH_SIZE = 32

T = TypeVar("T")

log = logging.getLogger("dapt")


def predict(
    model: AdaptedModel,
    clouds: Iterable[Cloud],
    trained: Preprocessing,
    votes: int = 1,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
) -> Iterator[Prediction]:
    """One entry for each cloud: file, label, probability, and all probabilities by class.

    The network sees several clouds at once, and still a cloud gets the same numbers as alone, on a
    CPU bit for bit: products have a row a token, the head, which has a row a cloud, reads these
    one by one, and methods that mix the clouds of a batch get one at a time. On a GPU the last bits
    can depend on how many there are.

    Args:
        model: Of clouds that have a label each.
        clouds: Their names and points [N, D].
        trained: What was done to the clouds that the model was trained on.
        votes: Views of a cloud to average over.
        seed: Of the views.
        batch_size: Clouds that the network sees at once.
    """
    ready = _all_ready(_numbered(clouds), trained, votes, seed)
    for _, found in _answers(model, ready, trained, batch_size):
        if isinstance(found, DataError):
            raise found
        yield found


def predict_files(
    model: AdaptedModel,
    paths: Sequence[str | Path],
    trained: Preprocessing,
    votes: int = 1,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    shown: bool = True,
) -> Iterator[list[Prediction] | DataError]:
    """The entries of each file as `predict` gives them, or what is wrong with the file.

    A thread reads files while the network is at work: at most two batches of clouds wait, as many
    points of each as the network sees.

    Args:
        model: Of clouds that have a label each.
        paths: Of the files.
        trained: What was done to the clouds that the model was trained on.
        votes: Views of a cloud to average over.
        seed: Of the views.
        batch_size: Clouds that the network sees at once, of several files where these are small.
        shown: Whether this process is the one to show a bar.
    """
    with Bar("clouds", len(paths), shown=shown) as bar:
        ready = _all_ready(_of_files(paths, trained.channels, bar), trained, votes, seed)
        ready = read_ahead(ready, 2 * batch_size)
        answers = _counted(_answers(model, ready, trained, batch_size), bar)
        done = 0
        for number, group in groupby(answers, itemgetter(0)):
            yield from ([] for _ in range(done, number))  # files without a cloud
            entries = [each for _, each in group]
            bad = [each for each in entries if isinstance(each, DataError)]
            yield bad[0] if bad else entries
            done = number + 1
        yield from ([] for _ in range(done, len(paths)))


class Ready(NamedTuple):
    """A cloud as the network sees it.

    Args:
        where: Its name.
        views: [votes, num_points, D].
    """

    where: str
    views: Tensor


def _numbered(clouds: Iterable[Cloud], number: int = 0) -> Iterator[tuple[int, Cloud | DataError]]:
    """The clouds, each with a number; an error is the last of them."""
    try:
        for cloud in clouds:
            yield number, cloud
    except DataError as error:
        yield number, error


def _of_files(
    paths: Sequence[str | Path], channels: str, bar: Bar
) -> Iterator[tuple[int, Cloud | DataError]]:
    for number, path in enumerate(paths):
        clouds = list(_numbered(clouds_of(path, channels), number))
        bar.total += len(clouds) - 1  # drawn with the next step
        yield from clouds


def _counted(items: Iterable[T], bar: Bar) -> Iterator[T]:
    for item in items:
        yield item
        bar.advance()


def _all_ready(
    clouds: Iterable[tuple[int, Cloud | DataError]], trained: Preprocessing, votes: int, seed: int
) -> Iterator[tuple[int, Ready | DataError]]:
    """Numbered clouds as the network sees them, or what is wrong with them."""
    for number, cloud in clouds:
        try:
            yield (
                number,
                cloud if isinstance(cloud, DataError) else _ready(cloud, trained, votes, seed),
            )
        except DataError as error:
            yield number, error


def _ready(cloud: Cloud, trained: Preprocessing, votes: int, seed: int) -> Ready:
    where, points = cloud
    check_cloud(where, points[:, :3], trained.num_points)
    whole = trained.ready(points)  # [1, N, D]
    generator = torch.Generator().manual_seed(seed)
    several = views(whole, trained.num_points, votes, generator)
    return Ready(where, torch.cat([reduction(trained.num_points)(v, None) for v in several]))


@torch.no_grad()
def _answers(
    model: AdaptedModel,
    clouds: Iterator[tuple[int, Ready | DataError]],
    trained: Preprocessing,
    batch_size: int,
) -> Iterator[tuple[int, Prediction | DataError]]:
    """What the model says of each cloud, in their order; errors are handed through."""
    adapter = model.adapter
    names = adapter.task.label_names
    model.eval()
    alone = adapter.method.mixes or is_packed(adapter.network)
    at_once = 1 if alone else batch_size
    clouds = iter(clouds)
    while batch := list(islice(clouds, at_once)):
        good = [cloud for _, cloud in batch if isinstance(cloud, Ready)]
        for where, several in good:
            trained.compare(where, several[:1])
        chances = iter(_probabilities(adapter, good, model.device) if good else ())
        for number, cloud in batch:
            answer = isinstance(cloud, Ready) and _told(cloud, next(chances), names)
            yield number, answer or cloud


def _probabilities(adapter: Attachment, clouds: list[Ready], device: torch.device) -> Tensor:
    several = torch.stack([cloud.views for cloud in clouds], 1)  # [votes, B, N, D]
    logits = (_logits(adapter, view.to(device)) for view in several)
    return log_mean(each.float().softmax(-1) for each in logits).exp().cpu()  # [B, classes]


def _logits(adapter: Attachment, points: Tensor) -> Tensor:  # [B, N, D] -> [B, classes]
    """As of each cloud by itself: a product of few rows may be rounded otherwise than that of one,
    so the head, whose rows are clouds, reads them one by one."""
    if len(points) == 1:
        return adapter(points)
    features = adapter.features(points)
    clouds = enumerate(points[..., :3].split(1))
    return torch.cat([adapter.head(features.of_cloud(i), cloud) for i, cloud in clouds])


def _told(cloud: Ready, chances: Tensor, names: Sequence[str]) -> Prediction | DataError:
    try:
        check_probabilities(cloud.where, chances.numpy())
    except DataError as error:
        return error
    return _prediction(cloud.where, chances.tolist(), names)


def clouds_of_all(paths: Sequence[str | Path], channels: str = "xyz") -> Iterator[Cloud]:
    """The clouds of all files, under a bar.

    Args:
        paths: of files.
        channels: that the network reads; "xyz" for places alone.
    """
    with Bar("clouds", len(paths)) as bar:
        for path in paths:
            clouds = list(clouds_of(path, channels))
            bar.update(total=bar.total + len(clouds) - 1)
            for cloud in clouds:
                yield cloud
                bar.advance()


def clouds_of(path: str | Path, channels: str = "xyz") -> Iterator[Cloud]:
    """(name, points [N, D]): the one cloud of a file, or all of an .npz file's `points` [S, N, 3].

    Channels that a file does not have are zero, as in the training, and a sentence says so.

    Args:
        path: of the file.
        channels: that the network reads; "xyz" for places alone.
    """
    path = Path(path)
    if path.suffix.lower() == ".npz":
        yield from _clouds_of_npz(path, channels)
        return
    points = read_cloud(path)
    if channels == "xyz":
        yield str(path), points
        return
    beside_them, lacking = read_beside(path, channels, len(points))
    _say_lacking(str(path), lacking)
    yield str(path), np.concatenate([points, beside_them], 1)


def _clouds_of_npz(path: Path, channels: str) -> Iterator[Cloud]:
    with reading(path), Npz(path) as file:
        if "points" not in file:
            raise DataError(f"{path} must hold 'points', it holds {listed(file) or 'nothing'}")
        points = file["points"]
        known = {name: file[name] for name in PARTS[channels] if name in file}
        offsets = file["offsets"] if "offsets" in file else None
    if channels != "xyz" and points.ndim in (2, 3) and points.shape[-1] == COLUMNS[channels]:
        known = taken_apart(channels, points[..., 3:])
        points = points[..., :3]
    if points.ndim not in (2, 3) or points.shape[-1] != 3 or points.dtype.kind not in "fiu":
        raise DataError(
            f"points of {path} must be numbers [S, N, 3] or [N, 3], "
            f"got {points.dtype} {list(points.shape)}"
        )
    _say_lacking(str(path), lacks(channels, known))
    if offsets is not None and points.ndim == 2:
        rows = [slice(*ends) for ends in bounds_of(offsets, len(points), f"offsets of {path}")]
    else:
        rows = range(len(points)) if points.ndim == 3 else [slice(None)]
    for number, row in enumerate(rows):
        where, cloud = str(path) if row == slice(None) else f"{path}[{number}]", points[row]
        if channels != "xyz":
            own = {name: values[row] for name, values in known.items()}
            cloud = np.concatenate([cloud, beside(where, channels, len(cloud), own)], 1)
        yield where, cloud


def _say_lacking(where: str, names: Sequence[str]) -> None:
    if names:
        log.warning(
            "%s has no %s, which the model was trained with: using zeros",
            where,
            " and no ".join(names),
        )


def _prediction(where: str, probabilities: list[float], names: Sequence[str]) -> Prediction:
    best = max(range(len(names)), key=probabilities.__getitem__)
    return {
        "file": where,
        "label": names[best],
        "probability": probabilities[best],
        "probabilities": dict(zip(names, probabilities, strict=True)),
    }


def write(predictions: Sequence[Prediction], path: str | Path) -> None:
    """Write predictions as JSON, or as CSV with a column for each class.

    Args:
        predictions: in their order.
        path: ends in .json or .csv.
    """
    path = Path(path)
    if path.suffix == ".json":
        text = json.dumps(predictions, indent=2) + "\n"
    elif path.suffix == ".csv":
        text = _csv(predictions)
    else:
        raise UsageError(f"out must end in .json or .csv, got {path}")
    write_atomically(path, text.encode())


def _csv(predictions: Sequence[Prediction]) -> str:
    buffer = io.StringIO()
    table = csv.writer(buffer, lineterminator="\n")
    names = list(predictions[0]["probabilities"]) if predictions else []
    table.writerow(["file", "label", "probability", *names])
    for each in predictions:
        probabilities = each["probabilities"].values()
        table.writerow([each["file"], each["label"], each["probability"], *probabilities])
    return buffer.getvalue()
