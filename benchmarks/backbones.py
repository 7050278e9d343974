"""What a training step costs on each backbone at its published size: memory and seconds.

    python benchmarks/backbones.py                  # all of them, each in its own process
    python benchmarks/backbones.py point_gpt_l ...  # some

Clouds are random points in a ball, scenes the floor and walls of a room; the weights are random,
and the method is DAPT. Rows are merged into the existing JSON, so that a long table can be made in
parts.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from measure import write_json
from torch import Tensor

import dapt
from dapt.models import count_parameters, weight_bytes
from dapt.models.create import BACKBONES
from dapt.runs.memory import CountSaved

OUT = Path(__file__).parent / "results" / "backbones-cpu.json"
COMMAND = "python benchmarks/backbones.py"
CLASSES, MiB = 15, 2**20
# Clouds, points per cloud, and groups as published; few clouds, because the machine is small.
INPUTS = {
    "uni3d": (1, 10_000, {}),
    "recon_pp": (4, 1024, {}),
    "ptv3": (1, 40_000, {}),
    "point_m2ae": (4, 2048, {}),
}
USUAL = (4, 2048, {"num_groups": 128})
# Names of releases whose network is the same as another one's.
SAME = ("act", "recon", *(name for name in BACKBONES if "sonata" in name or "concerto" in name))
INT8 = "int8 "


def names() -> list[str]:
    """The names of all rows: every backbone, and the largest also with quantized weights."""
    plain = [name for name in BACKBONES if name not in SAME]
    return [*plain, f"{INT8}uni3d_giant", f"{INT8}point_gpt_l"]


def room(count: int) -> Tensor:  # [1, N, 9]
    """The floor, walls and ceiling of a 5 x 4 x 3 m room, with colors and normals."""
    draw = torch.Generator().manual_seed(0)
    sides = torch.tensor([5.0, 4.0, 3.0])
    place = torch.rand(count, 3, generator=draw) * sides
    axis = torch.randint(3, (count,), generator=draw)
    normal = torch.eye(3)[axis]
    far = torch.randint(2, (count, 1), generator=draw)
    place = torch.where(normal > 0, far * sides, place)
    return torch.cat([place, torch.rand(count, 3, generator=draw), normal], 1)[None]


def input_of(name: str) -> tuple[Tensor, dict]:
    """(a batch of the backbone's input, the fields that give the backbone its published size)."""
    family = next((family for family in INPUTS if name.startswith(family)), None)
    clouds, count, fields = INPUTS.get(family, USUAL)
    if name == "point_mae_tiny":
        fields = {}
    if family == "ptv3":
        return room(count), fields
    points = torch.randn(clouds, count, 3, generator=torch.Generator().manual_seed(0))
    return points / points.norm(dim=2).amax(1)[:, None, None], fields


def measure(name: str, steps: int) -> dict[str, object]:
    """Measures one row. It needs a process of its own, whose peak memory is then the backbone's."""
    torch.manual_seed(0)
    plain = name.removeprefix(INT8)
    points, fields = input_of(plain)
    if name != plain:
        fields = {**fields, "weights": "int8"}
    backbone = dapt.create_backbone(plain, "none", **fields)
    model = dapt.attach(
        backbone, dapt.Dapt(rank=64), dapt.Classification(CLASSES, head="linear")
    ).train()
    loaded = _peak()
    trained, _ = model.count_parameters()
    optimizer = torch.optim.AdamW([weight for _, weight in model.own_parameters()], 5e-4)
    labels = torch.arange(len(points)) % CLASSES
    saved, seconds = CountSaved(model), []
    for step in range(steps + 1):
        begin = time.perf_counter()
        if step == 0:
            with saved:
                loss = model.adapter.task.loss(model(points), {"labels": labels})
        else:
            loss = model.adapter.task.loss(model(points), {"labels": labels})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - begin)
    return {
        "backbone": name,
        "parameters": count_parameters(backbone),
        "trained": trained,
        "clouds": len(points),
        "points": points.shape[1],
        "seconds_per_step": statistics.median(seconds[1:]),
        "weights_mib": weight_bytes(backbone) / MiB,
        "kept_mib": saved.bytes / MiB,
        "peak_after_creation_mib": loaded / MiB,
        "peak_mib": _peak() / MiB,
    }


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def table(rows: list[dict]) -> str:
    """The table of the documentation."""
    lines = [
        "| backbone | parameters, M | trained, M | clouds x points | a step, s "
        "| weights, MiB | kept for the backward, MiB | peak of the process, MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['backbone']} | {row['parameters'] / 1e6:.1f} | {row['trained'] / 1e6:.2f} "
        f"| {row['clouds']} x {row['points']:,} | {row['seconds_per_step']:.2f} "
        f"| {row['weights_mib']:,.0f} | {row['kept_mib']:,.0f} | {row['peak_mib']:,.0f} |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("backbones", nargs="*", help="all by default")
    parser.add_argument("--steps", type=int, default=3, help="timed steps, after one warm-up step")
    parser.add_argument("--alone", action="store_true", help="measure in this process; print a row")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    if args.alone:
        print(json.dumps(measure(args.backbones[0], args.steps)))
        return
    rows = {}
    if OUT.exists():
        rows = {row["backbone"]: row for row in json.loads(OUT.read_text())["rows"]}
    for name in args.backbones or names():
        command = [sys.executable, __file__, name, "--alone", "--steps", str(args.steps)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(f"{name}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
            continue
        rows[name] = json.loads(done.stdout)
        ordered = [rows[each] for each in names() if each in rows]
        write_json(OUT, COMMAND, "cpu", ordered)
        print(table([rows[name]]).splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
