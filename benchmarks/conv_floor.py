"""How near the convolutions on a CPU come to the time that their multiplications take.

    python benchmarks/conv_floor.py --rate 121

The floor is the number of operations divided by `--rate`, in billions per second. It limits how
many times faster than torch any kernel can be. Contenders take turns on one thread. The times are
the least of processor time, so that other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import time

import torch
from scenes import WIDTHS, conv_case, stages

import dapt_ext


def least_times(calls: list, budget: float) -> list[float]:
    """Of each call, in seconds, taken in turns for about `budget` seconds."""
    least = [float("inf")] * len(calls)
    end = time.thread_time() + budget
    while time.thread_time() < end:
        for i, call in enumerate(calls):
            start = time.thread_time()
            call()
            least[i] = min(least[i], time.thread_time() - start)
    return least


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, help="default: that of torch's product of 1024 rows")
    parser.add_argument("--seconds", type=float, default=2, help="time spent on each case")
    options = parser.parse_args()
    torch.set_num_threads(1)
    a, b = torch.randn(2, 1024, 1024)
    of_torch = 2 * 1024**3 / least_times([lambda: a @ b], options.seconds)[0] / 1e9
    rate = options.rate or of_torch
    isa = dapt_ext.build_info()["cpu_instruction_set_in_use"]
    print(f"{isa}: torch's product {of_torch:.0f} GFLOP/s; floors at {rate:.0f}; milliseconds")
    print(f"{'case':38} {'floor':>6} {'ours':>6} {'torch':>6} {'faster':>6} {'at most':>7}")
    for cells, widths in zip(stages("cpu", len(WIDTHS)), WIDTHS, strict=True):
        neighbors = dapt_ext.neighbor_map(cells)
        pairs = int((neighbors >= 0).sum())
        for C, with_gradients in [*((C, False) for C in widths), (widths[0], True)]:
            case = conv_case(neighbors, C, "cpu", with_gradients)
            floor = 2 * pairs * C * C * (3 if with_gradients else 1) / rate / 1e9
            ours, *peers = least_times([case.ours, *case.peers.values()], options.seconds)
            best = min(peers)
            row = f"{case.name:38} {1e3 * floor:6.1f} {1e3 * ours:6.1f} {1e3 * best:6.1f}"
            print(f"{row} {best / ours:5.1f}x {best / floor:6.1f}x", flush=True)


if __name__ == "__main__":
    main()
