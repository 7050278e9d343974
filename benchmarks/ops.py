"""Kernel microbenchmarks against every peer that can be imported.

    python benchmarks/ops.py                      # each instruction set that this CPU has
    python benchmarks/ops.py --isa avx2 --only fps,knn
    python benchmarks/ops.py --device cuda

Prints a table, and writes it as JSON after each case, and as a chart (--out, without an ending). A
case in which a peer gives something else is said, and the others go on. Products of float32 are
strict on both sides: no TF32.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from draw import draw_ops
from layers import adapter_cases, attention_cases, patch_encoder_cases, scale_shift_cases
from measure import Case, measure, strict_products, write_json
from peers import ball_query_peers, fps_peers, group_peers, knn_peers
from scenes import codes_cases, conv_cases, voxels_cases
from torch import Tensor

import dapt_ext

ROOT = Path(__file__).parents[1]
SCANS = ROOT.parent / "shared" / "data" / "scans.npz"


def clouds(B: int, N: int, device: str) -> Tensor:
    """Points on bumpy spheres, as scans of objects are surfaces: [B, N, 3]."""
    rng = torch.Generator().manual_seed(N)
    direction = torch.nn.functional.normalize(torch.randn(B, N, 3, generator=rng), dim=-1)
    radius = 0.8 + 0.2 * torch.sin(5 * direction[..., :1]) * torch.cos(4 * direction[..., 1:2])
    return (direction * radius).to(device)


# --- farthest point sampling ----------------------------------------------------------------------


def agreement(points: Tensor, idx: Tensor) -> float:
    """Share of the samples that ours also takes from the same first point."""
    idx = idx.long()
    ours = dapt_ext.farthest_point_sample(points, idx.shape[1], start=idx[:, 0].contiguous())
    both = [torch.isin(a, b).float().mean() for a, b in zip(ours, idx, strict=True)]
    return float(torch.stack(both).mean())


def fps_goal(B: int) -> int:
    eight_lanes = dapt_ext.build_info()["cpu_instruction_set_in_use"] != "avx512"
    return (5 if B > 1 else 3) if eight_lanes else (7 if B > 1 else 4)


def fps_cases(device: str) -> Iterator[Case]:
    if device == "cuda":
        sizes = [(32, 1024, 64), (32, 2048, 128), (32, 8192, 1200), (1, 1_000_000, 1024)]
        goals = {2048: 10, 8192: 10}
    else:
        sizes = [
            (1, 1024, 64),
            (1, 2048, 128),
            (1, 2048, 2048),
            (1, 8192, 1200),
            (1, 50_000, 4096),
            (1, 100_000, 1024),
            (1, 1_000_000, 1024),
            (32, 1024, 64),
            (32, 2048, 128),
            (32, 8192, 1200),
        ]
        goals = {}
    for B, N, M in sizes:
        points = clouds(B, N, device)

        def check(name: str, ours: Tensor, theirs, points=points, M=M) -> None:
            if isinstance(theirs, np.ndarray):
                theirs = torch.from_numpy(theirs.astype(np.int64))
            share = agreement(points, theirs)
            # Where two points are equally far but for rounding, exact samplers may part ways.
            assert share > 0.99, f"fps {name}: only {share:.1%} of the samples agree"

        yield Case(
            op="fps",
            name=f"B={B}, {N} -> {M}",
            ours=lambda points=points, M=M: dapt_ext.farthest_point_sample(points, M),
            peers=dict(fps_peers(points, M)),
            check=check,
            threads=2 if B > 1 and device == "cpu" else 1,
            goal=goals.get(N) if device == "cuda" else fps_goal(B),
        )


# --- nearest neighbors ---------------------------------------------------------------------------


def knn_cases(device: str) -> Iterator[Case]:
    sizes = [(32, 1024, 64), (32, 2048, 128), (8, 8192, 512), (1, 100_000, 4096)]
    problems = []
    for B, N, M in sizes:
        points = clouds(B, N, device)
        problems.append((f"B={B}, {M} of {N}", points[:, :: N // M][:, :M].contiguous(), points))
    if SCANS.exists():
        with np.load(SCANS) as file:
            room = torch.from_numpy(file["scannet_room"])[None].to(device)
        problems.append((f"ScanNet room, all {room.shape[1]}", room, room))
    many = clouds(1, 1_000_000, device)
    problems.append(("all of 1M", many, many))
    for name, queries, points in problems:

        def check(peer: str, ours, theirs, name=name) -> None:
            torch.testing.assert_close(
                ours[0].double(),
                theirs[0].double(),
                rtol=1e-3,
                atol=1e-5,  # cdist multiplies out: absolute error of a few 1e-6
                msg=lambda text: f"knn {name}, {peer}: {text}",
            )

        yield Case(
            op="knn",
            name=f"{name}, k=32",
            ours=lambda q=queries, p=points: dapt_ext.knn(q, p, 32),
            peers=dict(knn_peers(queries, points, 32)),
            check=check,
            threads=2 if device == "cpu" else 1,
            goal=3 if device == "cpu" else None,
        )


# --- grouping, ball query, chamfer ----------------------------------------------------------------


def group_cases(device: str) -> Iterator[Case]:
    for B, N, G, K in ((32, 1024, 64, 32), (32, 2048, 128, 32)):
        points = clouds(B, N, device)

        def eager(points=points, G=G, K=K):
            center_idx = dapt_ext.farthest_point_sample(points, G)
            centers = points.gather(1, center_idx[..., None].expand(-1, -1, 3))
            idx = torch.cdist(centers, points).topk(K, largest=False).indices
            rows = idx.flatten(1)[..., None].expand(-1, -1, 3)
            return points.gather(1, rows).view(*idx.shape, 3) - centers[:, :, None]

        def check(name: str, ours, theirs) -> None:
            patches = theirs if isinstance(theirs, Tensor) else theirs.patches
            torch.testing.assert_close(
                ours.patches.norm(dim=-1).sort().values, patches.norm(dim=-1).sort().values,
                rtol=1e-3, atol=1e-3, msg=lambda text: f"group {name}: {text}",
            )  # fmt: skip

        yield Case(
            op="group",
            name=f"B={B}, {N} -> {G} x {K}",
            ours=lambda points=points, G=G, K=K: dapt_ext.group(points, G, K),
            peers={"our fps + torch eager": eager, **dict(group_peers(points, G, K))},
            check=check,
            threads=2 if device == "cpu" else 1,
            goal=10 if device == "cuda" else None,
        )


def ball_query_cases(device: str) -> Iterator[Case]:
    for B, N, M, radius, K in ((32, 2048, 128, 0.2, 32), (8, 8192, 512, 0.1, 32)):
        points = clouds(B, N, device)
        queries = points[:, :M].contiguous()

        def eager(queries=queries, points=points, radius=radius, K=K):
            N = points.shape[1]
            inside = torch.cdist(queries, points) < radius
            order = torch.where(inside, torch.arange(N, device=points.device), N)
            idx = order.topk(K, largest=False).values.sort().values
            return torch.where(idx == N, idx[..., :1], idx)

        def check(name: str, ours: Tensor, theirs: Tensor) -> None:
            differing = (ours != theirs).any(-1).float().mean()
            # cdist multiplies out, so a point on the rim may fall on the other side of it.
            assert differing < 0.01, f"ball_query {name}: {differing:.1%} of the rows differ"

        yield Case(
            op="ball_query",
            name=f"B={B}, {M} of {N}, r={radius}, K={K}",
            ours=lambda q=queries, p=points, r=radius, K=K: dapt_ext.ball_query(q, p, r, K),
            peers={
                "torch eager": eager,
                **dict(ball_query_peers(queries, points, radius, K)),
            },
            check=check,
            threads=2 if device == "cpu" else 1,
            goal=3 if device == "cpu" else None,
        )


def chamfer_cases(device: str) -> Iterator[Case]:
    for B, N in ((32, 1024), (32, 2048), (512, 32)):
        a, b = clouds(B, N, device), clouds(B, N, device).flip(2)

        def eager(a=a, b=b):
            distance = torch.cdist(a, b).square()
            return distance.amin(2), distance.amin(1)

        def check(name: str, ours, theirs) -> None:
            torch.testing.assert_close(
                torch.cat(ours), torch.cat(theirs), rtol=1e-3, atol=1e-5,
                msg=lambda text: f"chamfer {name}: {text}",
            )  # fmt: skip

        yield Case(
            op="chamfer",
            name=f"B={B}, {N} x {N}",
            ours=lambda a=a, b=b: dapt_ext.chamfer(a, b),
            peers={"torch eager": eager},
            check=check,
            threads=2 if device == "cpu" else 1,
            goal=3 if device == "cpu" else None,
        )


SUITES = {
    "fps": fps_cases,
    "knn": knn_cases,
    "group": group_cases,
    "ball_query": ball_query_cases,
    "chamfer": chamfer_cases,
    "voxels": voxels_cases,
    "codes": codes_cases,
    "conv": conv_cases,
    "attention": attention_cases,
    "patch_encoder": patch_encoder_cases,
    "adapter": adapter_cases,
    "scale_shift": scale_shift_cases,
}


# --- report ---------------------------------------------------------------------------------------


def print_row(case: Case) -> None:
    if case.failure:
        print(f"{case.op:13} {case.name:36} FAILED {case.failure}", flush=True)
        return
    row = f"{case.op:13} {case.name:36} {case.threads:2} {1e3 * case.seconds['dapt_ext']:10.3f}"
    if case.peers:
        peer = case.best_peer
        goal = f"{case.goal:g}x" if case.goal else "-"
        row += f"  {1e3 * case.seconds[peer]:10.3f}  {case.speedup:6.1f}x {goal:>5}  {peer}"
    print(row, flush=True)


# What an instruction set of ours is called by those beside us: a machine that has no more.
CAPABILITY = {
    "avx512": {},
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
    },
    "scalar": {"ATEN_CPU_CAPABILITY": "default"},
}


def run_with(isa: str) -> None:
    """This script once more, on one instruction set: libraries ask for it when they are loaded."""
    environment = {"OMP_NUM_THREADS": "2", **os.environ, "DAPT_CPU_ISA": isa, **CAPABILITY[isa]}
    status = subprocess.run([sys.executable, *sys.argv, "--isa", isa], env=environment).returncode
    if status:
        sys.exit(status)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--only", default=",".join(SUITES), help="ops, separated by commas")
    sets = dapt_ext.build_info()["cpu_instruction_sets"]
    vectors = [name for name in sets if name != "scalar"] or sets
    parser.add_argument(
        "--isa",
        default=",".join(vectors),
        help=f"instruction sets of the CPU, separated by commas, of {', '.join(sets)}",
    )
    parser.add_argument("--seconds", type=float, default=1.5, help="time spent on each case")
    parser.add_argument("--once", action="store_true", help="ours alone, once: for a profiler")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/ops-<device>[-<isa>]")
    options = parser.parse_args()
    for option, known in (("only", SUITES), ("isa", sets)):
        unknown = set(getattr(options, option).split(",")) - set(known)
        if unknown:
            unknown = ", ".join(sorted(unknown))
            parser.error(f"--{option} takes {', '.join(known)}, got {unknown}")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda needs a GPU and a torch with CUDA; this torch finds none")
    kind = options.device
    if options.device == "cpu":
        isa = os.environ.get("DAPT_CPU_ISA")
        if isa != options.isa:
            if options.out and "," in options.isa:
                parser.error("--out needs one --isa")
            for isa in options.isa.split(","):
                run_with(isa)
            return
        kind += f"-{isa}"
    out = options.out or ROOT / "benchmarks" / "results" / f"ops-{kind}"

    strict_products()
    if options.once:
        for name in options.only.split(","):
            for case in SUITES[name](options.device):
                case.ours()
        return
    command = "python " + shlex.join([str(Path(sys.argv[0])), *sys.argv[1:]])
    path = out.with_suffix(".json")
    print(f"{kind}\n{'op':13} {'case':36} th {'ours ms':>10}  {'best ms':>10}  {'ratio':>7} goal")
    cases = []
    for name in options.only.split(","):
        for case in SUITES[name](options.device):
            try:
                measure(case, options.device, options.seconds)
            except (AssertionError, RuntimeError) as error:
                case.failure = " ".join(str(error).split())[:200] or type(error).__name__
            print_row(case)
            cases.append(case)
            write_json(path, command, options.device, [c.row() for c in cases])
    print(f"wrote {path} and {draw_ops(path)}")
    if failed := [f"{case.op} {case.name}" for case in cases if case.failure]:
        raise SystemExit(f"{len(failed)} of {len(cases)} cases failed: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
