"""Classify files of points: a label and the probabilities of all classes for each cloud."""

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
Cloud = tuple[str, np.ndarray]  # name, points [N, D]
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
    """Predict one entry per cloud: file, label, probability, and all probabilities by class.

    Clouds go through the network in batches, yet each gets the same numbers as it would alone, bit
    for bit on a CPU: the backbone's matrix products have one row per token; the head, which would
    have one row per cloud, runs cloud by cloud; and methods that mix the clouds of a batch get one
    cloud at a time. On a GPU, the last bits may depend on the batch size.

    Args:
        model: A classification model.
        clouds: Names and points [N, D].
        trained: How the training clouds were prepared.
        votes: The number of views of each cloud to average over.
        seed: The seed of the views.
        batch_size: The number of clouds per batch.
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
    """Yield the entries of each file as from `predict`, or the error of the file.

    A thread reads files while the network computes. At most two batches of clouds are read ahead,
    each cloud already reduced to the points that the network reads.

    Args:
        model: A classification model.
        paths: The files.
        trained: How the training clouds were prepared.
        votes: The number of views of each cloud to average over.
        seed: The seed of the views.
        batch_size: The number of clouds per batch; a batch may span several files.
        shown: Whether this process shows the progress bar.
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
    """A cloud, ready for the network.

    Args:
        where: The name of the cloud.
        views: Its views [votes, num_points, D].
    """

    where: str
    views: Tensor


def _numbered(clouds: Iterable[Cloud], number: int = 0) -> Iterator[tuple[int, Cloud | DataError]]:
    """Pair each cloud with a number; an error ends them and is yielded as the last item."""
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
        bar.total += len(clouds) - 1
        yield from clouds


def _counted(items: Iterable[T], bar: Bar) -> Iterator[T]:
    for item in items:
        yield item
        bar.advance()


def _all_ready(
    clouds: Iterable[tuple[int, Cloud | DataError]], trained: Preprocessing, votes: int, seed: int
) -> Iterator[tuple[int, Ready | DataError]]:
    """Make numbered clouds ready for the network, or yield their errors."""
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
    """Predict each cloud, in order; errors are passed through."""
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
    """Logits that equal those of each cloud alone: a matrix product of several rows may round
    differently from one of a single row, so the head runs cloud by cloud."""
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
    """Read the clouds of all files, with a progress bar.

    Args:
        paths: The files.
        channels: The channels that the network reads; "xyz" for coordinates only.
    """
    with Bar("clouds", len(paths)) as bar:
        for path in paths:
            clouds = list(clouds_of(path, channels))
            bar.update(total=bar.total + len(clouds) - 1)
            for cloud in clouds:
                yield cloud
                bar.advance()


def clouds_of(path: str | Path, channels: str = "xyz") -> Iterator[Cloud]:
    """Read the (name, points [N, D]) of a file's cloud, or of all clouds in an .npz file.

    Channels that a file lacks are zero, as in the training, and a warning says so.

    Args:
        path: The file.
        channels: The channels that the network reads; "xyz" for coordinates only.
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
        predictions: The predictions, in order.
        path: The file, which ends in .json or .csv.
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
