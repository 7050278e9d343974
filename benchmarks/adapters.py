"""Many adapters on one backbone: one call for eight clouds and adapters against eight calls, and
the memory of a thousand loaded adapters.

The two ways take turns, so that other load on the machine affects both alike; the reported speedup
is the median of the ratios of pairs.
"""

from __future__ import annotations

import argparse
import gc
import os
import shlex
import statistics
import sys
import time
from pathlib import Path

import torch
from measure import write_json

import dapt

METHODS = {
    "dapt": dapt.Dapt(),
    "adapter": dapt.Adapter(),
    "vpt": dapt.Vpt(),
    "prefix": dapt.Prefix(),
    "linear": dapt.Linear(),
}


def carrying(backbone: str, method: dapt.methods.Method, count: int) -> dapt.AdaptedModel:
    torch.manual_seed(0)
    weights = "shipped" if backbone == "point_mae_tiny" else "none"
    network = dapt.create_backbone(backbone, weights)
    model = dapt.attach(network, method, dapt.Classification(15), "0")
    for number in range(1, count):
        model.add_adapter(str(number), method, dapt.Classification(15))
    return model.eval()


@torch.no_grad()
def batch_row(backbone: str, name: str, clouds: int, points: int, turns: int) -> dict[str, object]:
    """Milliseconds of one call for all clouds, and of one call per cloud."""
    model = carrying(backbone, METHODS[name], clouds)
    inputs = torch.rand(clouds, points, 3) * 2 - 1
    names = [str(number) for number in range(clouds)]

    def together() -> torch.Tensor:
        return model(inputs, adapters=names)

    def one_at_a_time() -> torch.Tensor:
        return torch.cat([model.adapters[n](inputs[i : i + 1]) for i, n in enumerate(names)])

    torch.testing.assert_close(together(), one_at_a_time(), rtol=1e-3, atol=1e-3)
    seconds: list[list[float]] = [[], []]
    for _ in range(turns):
        for readings, call in zip(seconds, (together, one_at_a_time), strict=True):
            begin = time.perf_counter()
            call()
            readings.append(time.perf_counter() - begin)
    one, other = (1e3 * statistics.median(readings) for readings in seconds)
    ratio = statistics.median(b / a for a, b in zip(*seconds, strict=True))
    return {
        "backbone": backbone, "method": name, "clouds": clouds, "points": points,
        "one_call_ms": one, "single_calls_ms": other, "times_faster": ratio,
    }  # fmt: skip


def memory_row(backbone: str, name: str, count: int) -> dict[str, object]:
    """How many bytes the process grows per adapter when it loads `count` more, and their size."""
    model, method = carrying(backbone, METHODS[name], 10), METHODS[name]
    own = sum(value.nbytes for value in model.own_state().values())
    before = resident_bytes()
    for number in range(count):
        model.add_adapter(f"more {number}", method, dapt.Classification(15))
    grown = (resident_bytes() - before) / count
    return {
        "backbone": backbone, "method": name, "loaded": count, "own_bytes": own,
        "resident_bytes": grown, "more_than_own": grown / own - 1,
    }  # fmt: skip


def resident_bytes() -> int:
    gc.collect()
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbones", nargs="+", default=["point_mae_tiny", "point_mae"])
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--clouds", type=int, default=8)
    parser.add_argument("--points", type=int, default=1024)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--loaded", type=int, default=1000, help="adapters held in memory; 0: none")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    print("| backbone | method | one call, ms | single calls, ms | times faster |")
    print("|---|---|---|---|---|")
    for backbone in args.backbones:
        for name in args.methods:
            row = batch_row(backbone, name, args.clouds, args.points, args.turns)
            rows.append(row)
            print(
                f"| `{backbone}` | `{name}` | {row['one_call_ms']:.1f} | "
                f"{row['single_calls_ms']:.1f} | {row['times_faster']:.2f} |",
                flush=True,
            )
    for name in args.methods if args.loaded else ():
        row = memory_row(args.backbones[0], name, args.loaded)
        rows.append(row)
        print(
            f"{args.loaded} of `{name}`: {row['own_bytes'] / 1e6:.3f} MB own, "
            f"{row['resident_bytes'] / 1e6:.3f} MB of the process, each",
            flush=True,
        )
    if args.json:
        write_json(args.json, shlex.join(["python", *sys.argv]), "cpu", rows)


if __name__ == "__main__":
    main()
