"""Memory traffic of every kernel, counted on the host (traffic.h): wavefronts of shared memory and
those due to bank conflicts, sectors of global memory and those that were needed.

    python tests/cuda_on_host/traffic.py          a table
    python tests/cuda_on_host/traffic.py --json   the same for programs, as `make cuda` prints it

Each kernel runs at the sizes that users have, but with few clouds, because what a warp requests at
once does not depend on their number. Requests are those of the host's compiler, which reads a
structure of four floats at once where nvcc does, but may keep in a register what nvcc loads twice.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import points_on_host
import test_tokens_on_host as tokens
import torch
from host_module import LIBRARY, on_host, plans

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "csrc" / "cuda"))
from resources import short_name, traffic_columns  # noqa: E402

COUNTS = (
    "shared_requests", "wavefronts", "least_wavefronts", "global_requests", "sectors",
    "least_sectors",
)  # fmt: skip


def points() -> None:
    cloud = torch.randn(1, 2048, 3)
    for plan in plans.every_fps(1, 2048):
        points_on_host.fps(cloud, 6, plan=plan)
    for N in (256, 512, 1024):
        points_on_host.fps(cloud[:, :N].contiguous(), 6)
    for k in (1, 3, 8, 32, 64, 128, 256, 512):
        points_on_host.knn(cloud[:, :64].contiguous(), cloud, k)
    for keys in (1, 2, 4):
        plan = plans.knn_of(False, keys=keys, warps=4, tile=1024, splits=1)
        points_on_host.knn(cloud[:, :128].contiguous(), cloud, keys, plan=plan)
    split = plans.knn_of(True, keys=1, warps=4, tile=1024, splits=2)
    points_on_host.knn(cloud[:, :8].contiguous(), cloud, 32, plan=split)
    for k in (5, 40, 200):
        points_on_host.knn(cloud[:, :8, :2], cloud[:, :512, :2], k)
    points_on_host.ball_query(cloud[:, :64].contiguous(), cloud, 0.04, 32)
    halves, lengths = cloud[:, :1024].view(2, 1, 512, 3), torch.tensor([500])
    points_on_host.chamfer(*halves, lengths, lengths)


def rows() -> None:
    idx, weights = torch.randint(128, (1, 512, 3)), torch.rand(1, 512, 3)
    for columns in (3, 384):
        values = torch.randn(1, 128, columns)
        points_on_host.gather(values, idx[..., 0].contiguous())
        points_on_host.interpolate(values, idx, weights)
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        grad = torch.randn(1, 512, 384).to(dtype)
        points_on_host.gather_backward(grad, idx, 128, weights)


def cells() -> None:
    cloud = torch.rand(1, 4096, 3)
    points_on_host.grid_cells(cloud, 0.05)
    found = (cloud[0] * 20).long()
    points_on_host.unique_cells(found)
    points_on_host.neighbor_map(found[:1024])
    points_on_host.curve_codes(found, torch.tensor([5]), None, [0, 1, 2, 3])


def of_tokens() -> None:
    tokens.SEEDS = (0,)
    for kind in tokens.DTYPES:
        if kind != "tf32":
            tokens.test_scale_shift_fold(kind, 384, 384, True)
            tokens.test_scale_shift_grad(kind, 256, 384)
        tokens.test_submanifold_conv(kind, 160, 64, 64)
        tokens.test_submanifold_conv_weight_grad(kind, 160, 64, 64)
        tokens.test_patch_encoder_as_published(kind)
        tokens.run_adapter(kind, 1, 32, 384, 64)
        tokens.test_an_adapter_for_each_cloud(kind, True, True, True)


def names() -> dict[int, str]:
    """The names of the library's functions, by their start address."""
    listed = subprocess.run(["nm", LIBRARY], capture_output=True, text=True, check=True).stdout
    parts = (line.split() for line in listed.splitlines() if "kernel" in line)
    return {int(at, 16): name for at, kind, name in parts if kind in "tT"}


def measure() -> Iterator[tuple[str, dict[str, int]]]:
    on_host.count_traffic(True)
    torch.manual_seed(0)
    for work in (points, rows, cells, of_tokens):
        work()
    by_name: dict[str, Counter[str]] = {}
    own = names()
    for one in on_host.traffic():
        sums = by_name.setdefault(short_name(own[one["code"]]), Counter())
        sums.update({name: one[name] for name in COUNTS})
    yield from sorted((name, dict(sums)) for name, sums in by_name.items())


def main() -> None:
    if sys.argv[1:] == ["--json"]:
        print(json.dumps(dict(measure())))
        return
    measured = list(measure())
    width = max(len(name) for name, _ in measured)
    print(f"{'kernel':{width}}  conflicts  sectors (least)")
    for name, counts in measured:
        conflicts, sectors = traffic_columns(counts)
        print(f"{name:{width}}  {conflicts:>9}  {sectors:>15}")


if __name__ == "__main__":
    main()
