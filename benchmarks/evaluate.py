"""From a file to labels, and an epoch of training, against the published code's way.

    python benchmarks/evaluate.py

The published way is the same model with the same weights, every layer computed one eager call after
another in float32 (`train_step.py`), over a torch DataLoader that reads and normalizes cloud by
cloud in numpy; clouds are thinned by farthest point sampling in eager torch, as there is no CPU
path of pointnet2_ops. Ours is what `dapt evaluate`, `dapt predict` and `dapt train` do. Both read
the clouds and restore the model from the run's folder. Labels are compared first; all ways then
take turns. Prints a table, what the matrix products of both take at the rate that the machine has
for them, which bounds the ratio in float32, and where our time goes. Writes all of it as JSON
(--out, without an ending). About seven minutes on two quiet cores.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from measure import strict_products, write_json
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from train_step import naive_group, published_arithmetic

import dapt
from dapt.cli import main as command_line
from dapt.inference.prediction import predict_files
from dapt.inference.score import log_probabilities, reduction, score, test_batches
from dapt.runs.assembly import load_splits, restore_model
from dapt.runs.folder import RunFolder
from dapt.runs.options import TrainOptions
from dapt.runs.processes import autocast, choose_precision, launch
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


def published_evaluation(run: Path, path: Path, batch_size: int) -> Tensor:
    """The predicted labels; accuracy as a matter of course."""
    model = restore_model(RunFolder(run, [])).eval()
    found, right = [], 0
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


def options_of(run: Path, batch_size: int, precision: str = "fp32") -> TrainOptions:
    return TrainOptions(out=run, batch_size=batch_size, accelerator="cpu", precision=precision)


def our_evaluation(
    run: Path, batch_size: int, merged: bool = False, precision: str = "fp32"
) -> dict[str, float]:
    """What `dapt evaluate` does, with the adapter merged or not: the scores."""
    folder = RunFolder(run, [])
    fabric = launch(options_of(run, batch_size, precision))
    settings = folder.settings()
    model = restore_model(folder)
    if merged:
        dapt.merge(model)
    _, _, test = load_splits(settings)
    return score(model, test, fabric, settings.training.num_points, batch_size).summary()


def our_labels(run: Path, path: Path, merged: bool = False, precision: str = "fp32") -> Tensor:
    """What `dapt predict` does: the labels of all clouds of a file."""
    model = restore_model(RunFolder(run, []))
    if merged:
        dapt.merge(model)
    names = list(model.adapter.task.label_names)
    with autocast(options_of(run, 1, precision)):
        [found] = predict_files(model, [path], model.preprocessing)
    return torch.tensor([names.index(each["label"]) for each in found])


def train(run: Path, data: Path, test: Path, backbone: list[str], *more: str) -> None:
    words = (
        ["train", "--config", str(ROOT / "configs" / "npz.yaml"), "--method", "dapt"]
        + [*backbone, "--data.train", str(data), "--data.test", str(test), "--out", str(run)]
        + ["--epochs", "1", "--warmup_epochs", "0", "--num_points", str(KEPT)]
        + ["--accelerator", "cpu", "--precision", "fp32", *more]
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
    fabric = launch(options_of(run, batch_size))
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


# --- what the products take -----------------------------------------------------------------------


def products_of_encoder(patches, conv1, _1, conv2, overall, local, _3, conv4, *_, out_shape) -> int:
    B, G, K, _ = patches
    of_point = sum(rows * cols for rows, cols in (conv1, conv2, local, conv4))
    return 2 * B * G * (K * of_point + overall[0] * overall[1])


def products_of_attention(qkv, *_, out_shape) -> int:
    B, T, width = qkv
    return 4 * B * T * T * (width // 3)


def products_of_adapter(x, *shapes, out_shape) -> int:
    B, T, C = x
    rank = next(shape[0] for shape in shapes if shape and len(shape) == 2 and shape[1] == C)
    return 4 * B * T * C * rank


OURS = {
    torch.ops.dapt.patch_encoder: products_of_encoder,
    torch.ops.dapt.attention: products_of_attention,
    torch.ops.dapt.dynamic_adapter: products_of_adapter,
}


def operations(model: torch.nn.Module, points: Tensor) -> float:
    """Of the matrix products for a cloud, a multiplication and an addition each."""
    with FlopCounterMode(display=False, custom_mapping=OURS) as counter, torch.no_grad():
        model(points)
    return counter.get_total_flops() / len(points)


def dense_rate(rows: int, dim: int, dtype: torch.dtype) -> float:
    """Operations a second of a block's first and second layer of the MLP, the largest products."""
    x, narrow = torch.randn(rows, dim, dtype=dtype), torch.randn(4 * dim, dim, dtype=dtype)
    wide = torch.randn(dim, 4 * dim, dtype=dtype)
    readings = []
    for _ in range(20):
        start = time.perf_counter()
        F.linear(F.linear(x, narrow), wide)
        readings.append(time.perf_counter() - start)
    return 16 * rows * dim**2 / min(readings)


def floor(run: Path, batch_size: int) -> dict[str, float]:
    """What the products of both ways come to."""
    model = restore_model(RunFolder(run, [])).eval()
    points = clouds(batch_size, KEPT, "cpu")
    ours = operations(model, points)
    with published_arithmetic():
        theirs = operations(model, points)
    rows, dim = batch_size * model.backbone.tokenizer.num_groups, model.backbone.dim
    return {
        "ours_gflop_a_cloud": ours / 1e9,
        "published_gflop_a_cloud": theirs / 1e9,
        "float32_gflops": dense_rate(rows, dim, torch.float32) / 1e9,
        "bfloat16_gflops": dense_rate(rows, dim, torch.bfloat16) / 1e9,
    }


# --- report ---------------------------------------------------------------------------------------


def in_turns(ways: dict[str, Callable], seconds: float) -> dict[str, float]:
    """The median of each way's seconds; they take turns, two at least, after one that is not
    counted."""
    readings = {name: [] for name in ways}
    begun, turns = time.perf_counter(), 0
    while turns < 3 or (time.perf_counter() - begun) * (1 + 1 / turns) < seconds:
        for name, call in ways.items():
            start = time.perf_counter()
            call()
            readings[name].append(time.perf_counter() - start)
        turns += 1
    return {name: statistics.median(times[1:]) for name, times in readings.items()}


def check_labels(name: str, labels: dict[str, Tensor]) -> None:
    wanted = labels.pop("published way")
    for way, found in labels.items():
        share = (found == wanted).float().mean()
        assert share >= 0.9, f"{name}, {way}: {share:.1%} of the labels agree"


def rows_of(work: Path, name: str, flags: list[str], options: argparse.Namespace) -> Iterator[dict]:
    data, test, run = work / "train.npz", work / "test.npz", work / name
    size = ["--batch_size", str(options.batch_size)]
    train(run, data, test, flags, *size)
    quantized = work / f"{name}-int8"  # an adapter belongs to the weights it was trained with
    train(quantized, data, test, [*flags, "--backbone.weights", "int8"], *size)
    published = partial(published_evaluation, run, test, options.batch_size)
    evaluation = partial(our_evaluation, batch_size=options.batch_size)
    labeling = partial(our_labels, path=test)
    auto = choose_precision("cpu")
    ways = {
        "published way": published,
        "evaluate": partial(evaluation, run),
        "evaluate, merged": partial(evaluation, run, merged=True),
        "evaluate, int8": partial(evaluation, quantized),
        "predict": partial(labeling, run),
        "predict, merged": partial(labeling, run, merged=True),
        "predict, int8": partial(labeling, quantized),
    }
    if auto != "fp32":
        ways[f"evaluate, {auto}"] = partial(evaluation, run, precision=auto)
        ways[f"predict, {auto}"] = partial(labeling, run, precision=auto)
    labels = {way: call() for way, call in ways.items() if "int8" not in way}
    check_labels(name, {way: found for way, found in labels.items() if isinstance(found, Tensor)})
    yield from compared(name, in_turns(ways, options.seconds), options.clouds)

    def epoch() -> None:
        new = Path(tempfile.mkdtemp(dir=work)) / "run"
        train(new, data, test, flags, *size)

    def published_training() -> None:
        published_epoch(restore_model(RunFolder(run, [])), data, options.batch_size)
        published()

    ways = {"published way": published_training, "train an epoch": epoch}
    yield from compared(name, in_turns(ways, options.seconds), options.clouds)


def compared(name: str, seconds: dict[str, float], count: int) -> Iterator[dict]:
    theirs = seconds.pop("published way")
    for way, ours in seconds.items():
        row = {"op": name, "case": f"{way} {count} clouds", "threads": torch.get_num_threads()}
        row |= {"clouds_per_second": count / ours, "published": count / theirs}
        row |= {"speedup": theirs / ours, "goal": None if way.startswith("train") else 3}
        print(
            f"{name:15} {row['case']:32} {row['clouds_per_second']:8.1f} clouds/s, published way "
            f"{row['published']:8.1f}, {row['speedup']:.2f}x",
            flush=True,
        )
        yield row


BACKBONES = {
    "point_mae_tiny": [],
    "point_mae": ["--backbone", "point_mae", "--backbone.checkpoint", "none"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clouds", type=int, default=96, help="in the file")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60, help="for each table of a backbone")
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
            rows += rows_of(work, name, BACKBONES[name], options)
            bound = floor(work / name, options.batch_size)
            print(", ".join(f"{what} {value:.1f}" for what, value in bound.items()))
            rows.append({"op": name, "case": "matrix products", **bound})
            parts = dict(stages(work / name, options.batch_size))
            total = sum(parts.values())
            print(", ".join(f"{part} {100 * t / total:.0f} %" for part, t in parts.items()))
            rows.append({"op": name, "case": "seconds of each part of an evaluation", **parts})
    command = "python " + shlex.join([str(Path(sys.argv[0])), *sys.argv[1:]])
    write_json(options.out.with_suffix(".json"), command, "cpu", rows)


if __name__ == "__main__":
    main()
