"""Files of points in, a label and the probabilities of all classes out."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from dapt.adapters import AdaptedModel
from dapt.data.clouds import check_cloud, read_cloud, unit_ball, upright
from dapt.errors import DataError, UsageError, reading
from dapt.files import write_atomically
from dapt.inference.score import log_probabilities
from dapt.progress import Bar

Prediction = dict[str, object]


@torch.no_grad()
def predict(
    model: AdaptedModel,
    paths: Sequence[str | Path],
    num_points: int,
    normalize: bool = True,
    votes: int = 1,
    seed: int = 0,
    up: str = "y",
) -> list[Prediction]:
    """One entry for each cloud: file, label, probability, and all probabilities by class.

    `up`: the axis of the files that points up, as the model's training data had it.
    """
    task = model.adapter.task
    names = task.label_names
    model.eval()
    predictions = []
    for where, points in clouds_of_all(paths):
        check_cloud(where, points, num_points)
        cloud = np.asarray(upright(points, up), np.float64)
        cloud = unit_ball(cloud) if normalize else cloud
        cloud = torch.from_numpy(cloud.astype(np.float32)).to(model.device)[None]  # [1, N, 3]
        generator = torch.Generator().manual_seed(seed)
        logs = log_probabilities(model, {"points": cloud}, num_points, votes, generator)
        predictions.append(_prediction(where, logs[0].exp().tolist(), names))
    return predictions


def clouds_of_all(paths: Sequence[str | Path]) -> Iterator[tuple[str, np.ndarray]]:
    """The clouds of all files, under a bar."""
    with Bar("clouds", len(paths)) as bar:
        for path in paths:
            clouds = list(clouds_of(path))
            bar.update(total=bar.total + len(clouds) - 1)
            for cloud in clouds:
                yield cloud
                bar.advance()


def clouds_of(path: str | Path) -> Iterator[tuple[str, np.ndarray]]:
    """(name, points [N, 3]): one cloud of a file, or all of an .npz file's `points` [S, N, 3]."""
    if Path(path).suffix.lower() != ".npz":
        yield str(path), read_cloud(path)
        return
    with reading(path), np.load(path, allow_pickle=False) as file:
        if "points" not in file:
            raise DataError(f"{path} must hold 'points', it holds {', '.join(file) or 'nothing'}")
        points = file["points"]
    if points.ndim not in (2, 3) or points.shape[-1] != 3 or points.dtype.kind not in "fiu":
        raise DataError(
            f"points of {path} must be numbers [S, N, 3] or [N, 3], "
            f"got {points.dtype} {list(points.shape)}"
        )
    if points.ndim == 2:
        yield str(path), points
    else:
        yield from ((f"{path}[{row}]", cloud) for row, cloud in enumerate(points))


def _prediction(where: str, probabilities: list[float], names: Sequence[str]) -> Prediction:
    best = max(range(len(names)), key=probabilities.__getitem__)
    return {
        "file": where,
        "label": names[best],
        "probability": probabilities[best],
        "probabilities": dict(zip(names, probabilities, strict=True)),
    }


def write(predictions: Sequence[Prediction], path: str | Path) -> None:
    """As JSON, or as CSV with a column for each class."""
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
