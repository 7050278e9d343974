"""From a file to labels, and an epoch of training, against the published code's way.

    python benchmarks/evaluate.py

The published way is the same model with the same weights, every layer computed one eager call after
another (`train_step.py`), over a torch DataLoader that reads and normalizes cloud by cloud in
numpy; clouds are thinned by farthest point sampling in eager torch, as there is no CPU path of
pointnet2_ops. Ours is what `dapt evaluate`, `dapt predict` and `dapt train` do, reading, restoring
the model and scoring included. Labels are compared first; the ways then take turns. Prints a table
and where our time goes, and writes both as JSON (--out, without an ending).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from measure import Case, measure, strict_products, write_json
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from train_step import naive_group, published_arithmetic

import dapt
from dapt.cli import main as command_line
from dapt.inference.prediction import clouds_of_all, predict
from dapt.inference.score import log_probabilities, reduction, score, test_batches
from dapt.runs.assembly import load_splits, restore_model
from dapt.runs.folder import RunFolder
from dapt.runs.options import TrainOptions
from dapt.runs.processes import launch
from ops import clouds

ROOT = Path(__file__).parents[1]
CLASSES, POINTS, KEPT = 15, 2048, 1024


def write_clouds(path: Path, count: int, seed: int) -> None:
    points = clouds(count, POINTS, "cpu").numpy() * np.linspace(0.5, 1, count)[:, None, None]
    labels = np.random.default_rng(seed).permutation(np.arange(count) % CLASSES)
    names = np.array([f"kind {i}" for i in range(CLASSES)])
    np.savez(path, points=points.astype(np.float32), labels=labels, class_names=names)


# --- the published way ----------------------------------------------------------------------------


class PublishedClouds(Dataset):
    """A cloud at a time, normalized in numpy."""

    def __init__(self, path: Path):
        with np.load(path) as file:
            self.points, self.labels = file["points"], file["labels"]

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        points = self.points[i] - self.points[i].mean(0)
        points = points / np.sqrt((points**2).sum(1)).max()
        return torch.from_numpy(points).float(), int(self.labels[i])


def thinned(points: Tensor) -> Tensor:  # [B, N, 3] -> [B, KEPT, 3]
    return naive_group(points, KEPT, 1).centers


def published_evaluation(model: torch.nn.Module, path: Path, batch_size: int) -> Tensor:
    """The predicted labels; accuracy as a matter of course."""
    found, right = [], 0
    model.eval()
    with torch.no_grad(), published_arithmetic():
        for points, labels in DataLoader(PublishedClouds(path), batch_size):
            found.append(model(thinned(points)).argmax(1))
            right += int((found[-1] == labels).sum())
    return torch.cat(found)


def published_epoch(model: torch.nn.Module, path: Path, batch_size: int) -> None:
    model.train()
    weights = [weight for _, weight in model.own_parameters()]
    optimizer = torch.optim.AdamW(weights, lr=1e-5, weight_decay=0.05)
    with published_arithmetic():
        for points, labels in DataLoader(PublishedClouds(path), batch_size, shuffle=True):
            views = thinned(points)
            for i in range(len(views)):  # PointcloudScaleAndTranslate goes cloud by cloud
                scale, shift = np.random.uniform(2 / 3, 3 / 2, 3), np.random.uniform(-0.2, 0.2, 3)
                views[i] = views[i] * torch.from_numpy(scale) + torch.from_numpy(shift)
            loss = F.cross_entropy(model(views), labels)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 10)
            optimizer.step()
            optimizer.zero_grad()


# --- ours -----------------------------------------------------------------------------------------


def our_evaluation(run: Path, batch_size: int, merged: bool = False) -> dict[str, float]:
    """What `dapt evaluate` does, with the adapter merged or not: the scores."""
    folder = RunFolder(run, [])
    fabric = launch(TrainOptions(out=run, batch_size=batch_size, accelerator="cpu"))
    settings = folder.settings()
    model = restore_model(folder)
    if merged:
        dapt.merge(model)
    _, _, test = load_splits(settings)
    return score(model, test, fabric, settings.training.num_points, batch_size).summary()


def our_labels(run: Path, path: Path, merged: bool = False) -> Tensor:
    """What `dapt predict` does: the labels of all clouds of a file."""
    model = restore_model(RunFolder(run, []))
    if merged:
        dapt.merge(model)
    names = list(model.adapter.task.label_names)
    found = predict(model, clouds_of_all([path]), model.preprocessing)
    return torch.tensor([names.index(each["label"]) for each in found])


def train(run: Path, data: Path, test: Path, backbone: list[str], *more: str) -> None:
    words = (
        ["train", "--config", str(ROOT / "configs" / "npz.yaml"), "--method", "dapt"]
        + [*backbone, "--data.train", str(data), "--data.test", str(test), "--out", str(run)]
        + ["--epochs", "1", "--warmup_epochs", "0", "--num_points", str(KEPT)]
        + ["--accelerator", "cpu", *more]
    )
    with contextlib.redirect_stdout(io.StringIO()):
        status = command_line(words)
    if status:
        sys.exit(status)


def stages(run: Path, batch_size: int) -> Iterator[tuple[str, float]]:
    """Seconds of each part of an evaluation by itself."""

    def timed(name: str, call: Callable) -> tuple[str, float]:
        start = time.perf_counter()
        call()
        return name, time.perf_counter() - start

    folder = RunFolder(run, [])
    fabric = launch(TrainOptions(out=run, batch_size=batch_size, accelerator="cpu"))
    yield timed("restoring the model", lambda: restore_model(folder))
    model = restore_model(folder).eval()
    _, _, test = load_splits(folder.settings())
    read = list(test_batches(test, batch_size, fabric))
    yield timed("reading", lambda: list(test_batches(test, batch_size, fabric)))
    few = [reduction(KEPT)(batch["points"], None) for batch in read]
    yield timed("sampling", lambda: [reduction(KEPT)(batch["points"], None) for batch in read])
    with torch.no_grad():
        yield timed("network", lambda: [model(points) for points in few])
        logs = [log_probabilities(model, batch, KEPT, 1, torch.Generator()) for batch in read]
    scores = model.adapter.task.scores(fabric.device)
    pairs = list(zip(logs, read, strict=True))
    yield timed("scores", lambda: [scores.update(*pair) for pair in pairs])


def cases(work: Path, name: str, flags: list[str], count: int, batch_size: int) -> Iterator[Case]:
    data, test, run = work / "train.npz", work / "test.npz", work / name
    train(run, data, test, flags, "--batch_size", str(batch_size))
    model = restore_model(RunFolder(run, []))

    def agree(_: str, ours: object, theirs: object) -> None:
        if isinstance(ours, Tensor) and isinstance(theirs, Tensor):
            share = (ours == theirs).float().mean()
            assert share >= 0.9, f"{name}: {share:.1%} of the labels agree"

    published = {"published way": partial(published_evaluation, model, test, batch_size)}
    case = partial(Case, op=name, peers=published, check=agree, threads=2, goal=3)
    evaluation = partial(our_evaluation, run, batch_size)
    yield case(name=f"evaluate {count} clouds", ours=evaluation)
    yield case(name=f"evaluate {count} clouds, merged", ours=partial(evaluation, merged=True))
    quantized = work / f"{name}-int8"  # an adapter belongs to the weights it was trained with
    train(quantized, data, test, [*flags, "--backbone.weights", "int8"])
    quantized = partial(our_evaluation, quantized, batch_size)
    yield case(name=f"evaluate {count} clouds, int8", ours=quantized, goal=None)
    yield case(name=f"predict {count} clouds", ours=partial(our_labels, run, test))
    yield case(name=f"predict {count} clouds, merged", ours=partial(our_labels, run, test, True))
    learner = restore_model(RunFolder(run, []))

    def epoch() -> None:
        new = Path(tempfile.mkdtemp(dir=work)) / "run"
        train(new, data, test, flags, "--batch_size", str(batch_size))

    yield Case(
        op=name,
        name=f"train an epoch of {count} clouds",
        ours=epoch,
        peers={
            "published way": lambda: (
                published_epoch(learner, data, batch_size),
                published_evaluation(learner, test, batch_size),
            )
        },
        check=lambda *_: None,
        threads=2,
    )


BACKBONES = {
    "point_mae_tiny": [],
    "point_mae": ["--backbone", "point_mae", "--backbone.checkpoint", "none"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clouds", type=int, default=96, help="in the file")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=20, help="time spent on each row")
    parser.add_argument("--only", choices=BACKBONES, nargs="+", default=list(BACKBONES))
    default = ROOT / "benchmarks" / "results" / "evaluate-cpu"
    parser.add_argument("--out", type=Path, default=default)
    options = parser.parse_args()
    strict_products()
    logging.disable(logging.WARNING)
    torch.set_num_threads(2)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_clouds(work / "train.npz", options.clouds, 0)
        write_clouds(work / "test.npz", options.clouds, 1)
        for name in options.only:
            for case in cases(work, name, BACKBONES[name], options.clouds, options.batch_size):
                measure(case, "cpu", options.seconds, least=3)
                ours = options.clouds / case.seconds["dapt_ext"]
                theirs = options.clouds / case.seconds["published way"]
                print(
                    f"{name:15} {case.name:32} {ours:8.1f} clouds/s, published way {theirs:8.1f}, "
                    f"{case.speedup:.2f}x",
                    flush=True,
                )
                rows.append(case.row() | {"clouds_per_second": ours, "published": theirs})
            parts = dict(stages(work / name, options.batch_size))
            total = sum(parts.values())
            print(", ".join(f"{part} {100 * t / total:.0f} %" for part, t in parts.items()))
            rows.append({"op": name, "case": "seconds of each part of an evaluation", **parts})
    command = "python " + shlex.join([str(Path(sys.argv[0])), *sys.argv[1:]])
    write_json(options.out.with_suffix(".json"), command, "cpu", rows)


if __name__ == "__main__":
    main()
