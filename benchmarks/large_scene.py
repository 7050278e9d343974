"""Labels a large scene in tiles and reports the time and the peak memory.

`--model none` labels points by their height, so that only the handling of points is measured:
reading, sorting by tile, cutting into blocks, voting and writing. Any other name is that of a
backbone. The labeling runs in a process of its own, whose peak memory, torch included, is reported.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import laspy
import numpy as np
import torch
from measure import write_json
from torch import Tensor, nn

import dapt
from dapt.data.preprocessing import Preprocessing
from dapt.errors import DataError
from dapt.inference.scenes import SceneOptions, label_scenes
from dapt.inference.team import Team

PER_SQUARE_METER = 250  # points, as in a dense airborne survey
AT_ONCE = 2_000_000  # points made and written at a time
LABELS = ("low", "middle", "high")


def make_scene(path: Path, count: int) -> None:
    """Writes random points over a square of hills."""
    header = laspy.LasHeader(version="1.4", point_format=6)
    header.scales = (0.001,) * 3
    side = (count / PER_SQUARE_METER) ** 0.5
    with laspy.open(path, "w", header=header) as file:
        for begin in range(0, count, AT_ONCE):
            n = min(AT_ONCE, count - begin)
            rng = np.random.default_rng(begin)
            ground = rng.uniform(0, side, (n, 2))
            height = 3 * np.sin(ground / 20).sum(1) + rng.exponential(2, n)
            piece = laspy.ScaleAwarePointRecord.zeros(n, header=header)
            piece.x, piece.y, piece.z = ground[:, 0], ground[:, 1], height
            piece.intensity = rng.integers(0, 2**16, n)
            file.write_points(piece)


class ByHeight(nn.Module):
    """A stand-in for a model, which labels points by their height."""

    def __init__(self):
        super().__init__()
        task = dapt.SemanticSegmentation(len(LABELS), class_names=LABELS)
        self.adapter = SimpleNamespace(task=task, head=self.head)
        self.device = torch.device("cpu")
        self.register_buffer("slopes", torch.tensor([-5.0, 0.0, 5.0]))

    def features(self, seen: Tensor) -> None:
        return None

    def head(self, features: None, points: Tensor) -> Tensor:  # [1, n, 3] -> [1, n, labels]
        return points[..., 1:2] * self.slopes


def model_named(name: str) -> nn.Module:
    if name == "none":
        return ByHeight()
    torch.manual_seed(0)
    checkpoint = "shipped" if name == "point_mae_tiny" else "none"
    network = dapt.create_backbone(name, checkpoint=checkpoint)
    task = dapt.SemanticSegmentation(len(LABELS), class_names=LABELS)
    return dapt.attach(network, dapt.Dapt(), task)


def label(args: argparse.Namespace, path: Path) -> None:
    """Labels the scene in the child process and prints the measurements."""
    torch.set_num_threads(args.threads)
    trained = Preprocessing(args.num_points, up="z", block=args.block)
    options = SceneOptions(
        out=path.parent / "out", block=args.block, stride=args.block, tile=args.tile
    )
    begin, begin_cpu = time.perf_counter(), time.process_time()
    [found] = label_scenes(model_named(args.model), [path], trained, options, Team())
    if isinstance(found, DataError):
        raise found
    assert found.counts.sum() == args.points
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
    seconds, cpu = time.perf_counter() - begin, time.process_time() - begin_cpu
    told = {"seconds": seconds, "cpu_seconds": cpu, "peak_mib": peak}
    print(json.dumps(told), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=10_000_000)
    parser.add_argument("--model", default="none", help="none, or the name of a backbone")
    parser.add_argument("--tile", type=int, default=SceneOptions.tile)
    parser.add_argument("--block", type=float, default=4.0, help="side and stride, in meters")
    parser.add_argument("--num_points", type=int, default=1024, help="per block, for the network")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--suffix", choices=(".las", ".laz"), default=".las")
    parser.add_argument("--folder", type=Path, help="scratch folder, for about 130 bytes a point")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--as_child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.as_child:
        return label(args, args.as_child)
    if args.folder:
        args.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder) / f"scene{args.suffix}"
        make_scene(path, args.points)
        size = path.stat().st_size
        child = [sys.executable, __file__, *sys.argv[1:], "--as_child", str(path)]
        told = json.loads(subprocess.run(child, check=True, stdout=subprocess.PIPE).stdout)
    print(
        f"{args.points:,} points ({size / 1e9:.2f} GB), model {args.model}: {told['seconds']:.0f} s"
        f" ({told['cpu_seconds']:.0f} s of the processor, "
        f"{1e6 * told['cpu_seconds'] / args.points:.2f} µs a point), "
        f"{told['peak_mib']:.0f} MiB at the peak"
    )
    if args.json:
        row = {"points": args.points, "model": args.model, "tile": args.tile, **told}
        write_json(args.json, shlex.join(["python", *sys.argv]), "cpu", [row])


if __name__ == "__main__":
    main()
