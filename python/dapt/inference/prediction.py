"""Files of points in, a label and the probabilities of all classes out."""

import csv
import io
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from dapt.adapters import AdaptedModel
from dapt.data.arrays import Npz
from dapt.data.channels import COLUMNS, PARTS, beside, lacks, read_beside, taken_apart
from dapt.data.clouds import check_cloud, read_cloud
from dapt.data.npz import bounds_of
from dapt.data.preprocessing import Preprocessing
from dapt.errors import DataError, UsageError, listed, reading
from dapt.files import write_atomically
from dapt.inference.score import check_probabilities, log_probabilities, reduction
from dapt.progress import Bar

Prediction = dict[str, object]
Cloud = tuple[str, np.ndarray]  # its name and its points [N, D]

log = logging.getLogger("dapt")


@torch.no_grad()
def predict(
    model: AdaptedModel,
    clouds: Iterable[Cloud],
    trained: Preprocessing,
    votes: int = 1,
    seed: int = 0,
) -> Iterator[Prediction]:
    """One entry for each cloud: file, label, probability, and all probabilities by class.

    Args:
        model: Of clouds that have a label each.
        clouds: Their names and points [N, D].
        trained: What was done to the clouds that the model was trained on.
        votes: Views of a cloud to average over.
        seed: Of the views.
    """
    names = model.adapter.task.label_names
    num_points = trained.num_points
    model.eval()
    for where, points in clouds:
        check_cloud(where, points[:, :3], num_points)
        cloud = trained.ready(points).to(model.device)  # [1, N, D]
        trained.compare(where, reduction(num_points)(cloud, None))
        generator = torch.Generator().manual_seed(seed)
        logs = log_probabilities(model, {"points": cloud}, num_points, votes, generator)
        check_probabilities(where, logs.cpu().numpy())
        yield _prediction(where, logs[0].exp().tolist(), names)


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
            "%s has no %s, with which the model was trained: zeros stand in for them",
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
