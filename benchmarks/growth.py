"""How time and memory of every point op grow with the number of points and of clouds.

    python benchmarks/growth.py

Everything runs in one thread, whose CPU time is measured. A series ends before a call that is
expected to take longer than --most seconds or more memory than --gigabytes, after one that took
three times as long as --most, or when the op's share of --minutes is used up. `spread` clouds are
bumpy spheres; `crowded` ones have half of their points in one place, the hard case for trees and
grids. Memory is the peak during a call minus what the process held before. Writes JSON after each
op, and a chart at the end (--out, without a suffix).
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import shlex
import sys
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import torch
from measure import write_json
from torch import Tensor

import dapt_ext
from ops import clouds

ROOT = Path(__file__).parents[1]
SAMPLES, QUERIES, K = 512, 4096, 32
SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000, 50_000_000)
BATCHES = (1, 4, 16, 64, 256)
BATCH_POINTS = 2048
CELL = 0.02
KILLED_AFTER = 3  # times --most
STEEP = 1.3  # factor by which time may grow faster than the number of points
Call = Callable[[], object]


def _queries(points: Tensor) -> Tensor:
    count = min(QUERIES, points.shape[1])
    return points[:, :: points.shape[1] // count][:, :count].contiguous()


def _knn(points: Tensor) -> Call:
    return partial(dapt_ext.knn, _queries(points), points, K)


def _ball_query(points: Tensor) -> Call:
    return partial(dapt_ext.ball_query, _queries(points), points, 0.05, K)


def _interpolate(points: Tensor) -> Call:
    values = torch.randn(*points.shape[:2], 4)
    return partial(dapt_ext.interpolate, _queries(points), points, values)


def _gather(points: Tensor) -> Call:
    return partial(dapt_ext.gather, points, torch.randint(points.shape[1], points.shape[:2]))


# Each takes points [B, N, 3] and returns the call to time.
OPS: dict[str, Callable[[Tensor], Call]] = {
    f"farthest_point_sample, {SAMPLES}": lambda p: partial(
        dapt_ext.farthest_point_sample, p, min(SAMPLES, p.shape[1])
    ),
    f"knn, {QUERIES} queries, k={K}": _knn,
    "knn, all points, k=8": lambda p: partial(dapt_ext.knn, p, p, 8),
    f"group, {SAMPLES} x {K}": lambda p: partial(dapt_ext.group, p, SAMPLES, K),
    f"ball_query, {QUERIES} queries": _ball_query,
    "chamfer": lambda p: partial(dapt_ext.chamfer, p, p.flip(2)),
    f"interpolate, {QUERIES} queries": _interpolate,
    "gather": _gather,
    "grid_sample": lambda p: partial(dapt_ext.grid_sample, p, CELL),
    "neighbor_map": lambda p: partial(
        dapt_ext.neighbor_map, dapt_ext.grid_sample(p[:1], CELL).cells
    ),
}


@cache
def make(B: int, N: int, crowded: bool) -> Tensor:
    points = clouds(B, N, "cpu")
    if crowded:
        points[:, N // 2 :] = points[:, :1]
        order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
        points = points[:, order].contiguous()
    return points


def _memory(of: str) -> int:
    """Memory of this process in bytes: VmRSS is the current size, VmHWM the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    [line] = [line for line in lines if line.startswith(of + ":")]
    return 1024 * int(line.split()[1])


def _one(call: Callable[[], Call], end) -> None:
    """Times one call in a process of its own, whose memory is then that of the call."""
    torch.set_num_threads(1)
    call = call()
    end.send(None)  # the parent's time limit starts here
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the current size
    before = _memory("VmRSS")
    seconds = []
    while sum(seconds) < 0.05 and len(seconds) < 20:  # short calls are repeated
        start = time.process_time()
        call()
        seconds.append(time.process_time() - start)
    end.send((min(seconds), _memory("VmHWM") - before))


def run(op: str, points: Tensor, limit: float) -> tuple[float, int] | None:
    """(CPU seconds, bytes), or None if the process did not finish."""
    context = multiprocessing.get_context("fork")
    mine, other = context.Pipe(duplex=False)
    process = context.Process(target=_one, args=(lambda: OPS[op](points), other))
    process.start()
    other.close()
    try:
        mine.recv()
        result = mine.recv() if mine.poll(limit) else None
    except EOFError:
        result = None
    if result is None:
        process.kill()
    process.join()
    return result


def series(
    op: str, sizes: list[tuple[int, int]], crowded: bool, most: float, room: int, end: float
) -> list:
    rows, expected = [], 0.0
    kind = "crowded" if crowded else "spread"
    for i, (B, N) in enumerate(sizes):
        if expected > most or 100 * B * N > room or time.monotonic() + expected > end:
            break
        found = run(op, make(B, N, crowded), KILLED_AFTER * most)
        if found is None:
            print(f"{op:28} {kind:8} B={B:<4} N={N:<9} took too long, or too much memory")
            break
        spent, memory = found
        rows.append({"op": op, "B": B, "N": N, "cloud": kind, "seconds": spent, "bytes": memory})
        where = f"{op:28} {kind:8} B={B:<4} N={N:<9}"
        print(f"{where} {1e3 * spent:12.3f} ms {memory / 2**20:9.1f} MiB", flush=True)
        following = sizes[min(i + 1, len(sizes) - 1)]
        expected = STEEP * spent * (following[0] * following[1]) / (B * N)
    return rows


def chart(record: dict) -> bytes:
    """Draws time and memory against the number of points and clouds, one line per op, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7.5), dpi=110, layout="constrained")
    axes = figure.subplots(2, 2)
    rows = record["rows"]
    for op in dict.fromkeys(row["op"] for row in rows):
        of_op = sorted((r for r in rows if r["op"] == op), key=lambda r: (r["N"], r["B"]))
        panels = (
            (axes[0, 0], [r for r in of_op if r["B"] == 1 and r["cloud"] == "spread"], "N"),
            (axes[0, 1], [r for r in of_op if r["B"] == 1 and r["cloud"] == "crowded"], "N"),
            (axes[1, 0], [r for r in of_op if r["N"] == BATCH_POINTS], "B"),
        )
        for axis, those, by in panels:
            axis.plot([r[by] for r in those], [r["seconds"] for r in those], "o-", ms=3, label=op)
        spread = panels[0][1]
        axes[1, 1].plot(
            [r["N"] for r in spread], [max(r["bytes"], 1e5) for r in spread], "o-", ms=3
        )
    titles = (
        "seconds, spread points",
        "seconds, half of the points in one place",
        f"seconds, clouds of {BATCH_POINTS:,} points",
        "bytes, spread points",
    )
    labels = ("points", "points", "clouds", "points")
    for axis, title, label in zip(axes.flat, titles, labels, strict=True):
        axis.set(xscale="log", yscale="log", title=title, xlabel=label)
        axis.grid(alpha=0.3)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), fontsize=7, loc="outside right center")
    figure.suptitle(f"{record['machine']['cpu']}, one thread", fontsize=9)
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=OPS, default=list(OPS))
    parser.add_argument("--most", type=float, default=10, help="seconds that a call may take")
    parser.add_argument("--minutes", type=float, default=14, help="time for all ops together")
    parser.add_argument("--gigabytes", type=float, default=8, help="memory that a call may take")
    default = ROOT / "benchmarks" / "results" / "growth-cpu"
    parser.add_argument("--out", type=Path, default=default)
    options = parser.parse_args()
    room = int(options.gigabytes * 2**30)
    command = "python " + shlex.join([str(Path(sys.argv[0])), *sys.argv[1:]])
    path = options.out.with_suffix(".json")
    torch.set_num_threads(1)
    last = time.monotonic() + 60 * options.minutes
    rows = []
    for i, op in enumerate(options.only):
        now = time.monotonic()
        end = now + (last - now) / (len(options.only) - i)
        few = partial(series, op, most=options.most, room=room, end=end)
        for crowded in (False, True):
            rows += few([(1, N) for N in SIZES], crowded)
        rows += few([(B, BATCH_POINTS) for B in BATCHES], False)
        write_json(path, command, "cpu", rows)
    path.with_suffix(".png").write_bytes(chart(json.loads(path.read_text())))
    print(f"wrote {path} and its chart")


if __name__ == "__main__":
    main()
