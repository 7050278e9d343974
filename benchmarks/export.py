"""Exported models against the original: plain torch, torch with the adapter merged, the package of
torch's compiler, and ONNX in onnxruntime.

All must predict the same labels. They take turns, with a pause before each, so that no threads of
the previous one are still spinning. Both wall-clock and CPU time are reported, as medians; on a
shared machine, CPU time says more.
"""

from __future__ import annotations

import argparse
import copy
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from measure import write_json

import dapt
import dapt_ext  # noqa: F401 - registers the ops that the compiled package calls

CLASSES = 15
PAUSE = 0.02  # seconds
Call = Callable[[torch.Tensor], np.ndarray]


def adapted(backbone: str) -> dapt.AdaptedModel:
    """A DAPT model with noise in all of its own weights, so that each one affects the output."""
    torch.manual_seed(0)
    checkpoint = "shipped" if backbone == "point_mae_tiny" else "none"
    network = dapt.create_backbone(backbone, checkpoint=checkpoint)
    model = dapt.attach(network, dapt.Dapt(), dapt.Classification(CLASSES)).eval()
    with torch.no_grad():
        for _, weight in model.own_parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    return model


def in_torch(model: torch.nn.Module) -> Call:
    def call(points: torch.Tensor) -> np.ndarray:
        with torch.inference_mode():
            return model(points).numpy()

    return call


def in_onnxruntime(path: Path, threads: int) -> Call:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda points: session.run(["logits"], {"points": points.numpy()})[0]


def contenders(model: dapt.AdaptedModel, folder: Path) -> dict[str, Callable[[int], Call]]:
    """Contenders by name; each is a function that takes a number of threads and returns a call."""
    onnx, package = folder / "model.onnx", folder / "model.pt2"
    for path in (onnx, package):
        begin = time.perf_counter()
        dapt.export(model, path)
        seconds, size = time.perf_counter() - begin, path.stat().st_size / 1e6
        print(f"{path.name}: {seconds:.0f} s, {size:.1f} MB", file=sys.stderr)
    merged = copy.deepcopy(model)
    merged.merge()
    compiled = torch._inductor.aoti_load_package(str(package))
    return {
        "torch": lambda threads: in_torch(model),
        "torch, merged": lambda threads: in_torch(merged),
        "pt2": lambda threads: in_torch(compiled),
        "onnx": lambda threads: in_onnxruntime(onnx, threads),
    }


def row(
    made: dict[str, Callable[[int], Call]],
    clouds: int,
    points: int,
    threads: int,
    turns: int,
) -> dict[str, object]:
    """Milliseconds per call of each contender."""
    torch.set_num_threads(threads)
    calls = {name: make(threads) for name, make in made.items()}
    inputs = torch.rand(clouds, points, 3, generator=torch.Generator().manual_seed(1)) * 2 - 1
    expected = calls["torch"](inputs)
    for name, call in calls.items():
        got = call(inputs)
        assert np.array_equal(got.argmax(1), expected.argmax(1)), name
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3, err_msg=name)
    clock: dict[str, list[float]] = {name: [] for name in calls}
    cpu: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(turns):
        for name, call in calls.items():
            time.sleep(PAUSE)
            begin, begin_cpu = time.perf_counter(), time.process_time()
            call(inputs)
            cpu[name].append(1e3 * (time.process_time() - begin_cpu))
            clock[name].append(1e3 * (time.perf_counter() - begin))
    return {
        "clouds": clouds, "points": points, "threads": threads,
        "milliseconds": {name: statistics.median(times) for name, times in clock.items()},
        "cpu_milliseconds": {name: statistics.median(times) for name, times in cpu.items()},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbones", nargs="+", default=["point_mae_tiny", "point_mae"])
    parser.add_argument("--clouds", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--points", type=int, default=1024)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = []
    for backbone in args.backbones:
        with tempfile.TemporaryDirectory() as folder:
            made = contenders(adapted(backbone), Path(folder))
            if not rows:
                print("milliseconds (of the processor)")
                print(f"| backbone | threads | clouds | {' | '.join(made)} |")
                print("|---" * (3 + len(made)) + "|")
            for threads in args.threads:
                for clouds in args.clouds:
                    found = row(made, clouds, args.points, threads, args.turns)
                    rows.append({"backbone": backbone, **found})
                    cpu = found["cpu_milliseconds"]
                    times = " | ".join(
                        f"{t:.1f} ({cpu[name]:.1f})" for name, t in found["milliseconds"].items()
                    )
                    print(f"| `{backbone}` | {threads} | {clouds} | {times} |", flush=True)
    if args.json:
        write_json(args.json, shlex.join(["python", *sys.argv]), "cpu", rows)


if __name__ == "__main__":
    main()
