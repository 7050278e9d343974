"""How many kernels a training step launches on CUDA.

    python benchmarks/launches.py
    python benchmarks/launches.py --device cuda

On a GPU the profiler counts and times them, and the kernels of each step are written as JSON
(--out, without an ending). Without one, the step runs on the CPU by the paths that it takes on
CUDA, and each operator that torch dispatches counts as one launch: views and allocations as none,
our ops as their launchers launch. That is an estimate: a matrix product may be two kernels (split
along its inner dimension), and a fused update of the weights some more than one.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
from measure import strict_products, write_json
from torch.utils._python_dispatch import TorchDispatchMode
from train_step import Step

import dapt_ext

RESULTS = Path(__file__).parent / "results"
# What has no kernel of its own beside views.
NOTHING = {
    "aten::empty", "aten::empty_like", "aten::empty_strided", "aten::new_empty",
    "aten::new_empty_strided", "aten::detach", "aten::lift_fresh", "aten::_unsafe_view",
    "aten::is_same_size", "aten::resize_", "aten::promote_types", "prim::device",
    "profiler::_record_function_enter_new", "profiler::_record_function_exit",
}  # fmt: skip
# Of our launchers (csrc/cuda).
OURS = {
    "dapt::fps": 1, "dapt::knn": 1, "dapt::group": 2, "dapt::gather": 1, "dapt::patch_encoder": 2,
    "dapt::scale_shift_grad": 2, "dapt::dynamic_adapter_backward": 4,
}  # fmt: skip


class LaunchCounter(TorchDispatchMode):
    """Counts launches by the name of their operator while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.by_name: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().split(".")[0]
        if name == "dapt::dynamic_adapter":
            self.by_name[name] += 3 if args[19] else 2  # a prompt is one more
        elif name == "dapt::patch_encoder":
            self.by_name[name] += OURS[name] + (args[0].dtype != args[9])  # patches are rounded
        elif name not in NOTHING and not function.is_view:
            self.by_name[name] += OURS.get(name, 1)
        return function(*args, **(kwargs or {}))

    @property
    def total(self) -> int:
        return sum(self.by_name.values())


def attention_of_cuda(qkv, num_heads, mask=None, causal=False):
    q, k, v = qkv.unflatten(2, (3, num_heads, -1)).permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


@contextmanager
def paths_of_cuda() -> Iterator[None]:
    """What depends on values is done on the CPU alone, and under torch.compile on no device."""
    with (
        mock.patch.object(dapt_ext, "attention", attention_of_cuda),
        mock.patch.object(torch.compiler, "is_compiling", lambda: True),
    ):
        yield


def count(dtype: torch.dtype, naive: bool = False) -> LaunchCounter:
    """Of the step at its published size, but for the batch, which changes no launch."""
    step = Step("cpu", 2, 128, dtype, naive)
    step()
    with LaunchCounter() as counter:
        with paths_of_cuda():
            loss = step.loss()
        loss.backward()
        step.optimizer.step()
        step.optimizer.zero_grad()
    return counter


def kernels_of(dtype: torch.dtype, naive: bool, batch_size: int, steps: int = 5) -> list[dict]:
    """Each kernel of the step on this GPU: how often it runs in a step, and its microseconds."""
    step = Step("cuda", batch_size, 128, dtype, naive)
    for _ in range(3):
        step()
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(steps):
            step()
        torch.cuda.synchronize()
    rows = [
        {"kernel": e.key, "launches": e.count / steps, "us": e.self_device_time_total / steps}
        for e in profile.key_averages()
        if e.device_type == torch.autograd.DeviceType.CUDA
    ]
    return sorted(rows, key=lambda row: -row["us"])


def count_on_gpu(out: Path, batch_size: int) -> None:
    strict_products()
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        for naive in (True, False):
            kernels = kernels_of(dtype, naive, batch_size)
            name = f"{'naive' if naive else 'dapt'}, {str(dtype).removeprefix('torch.')}"
            launches = sum(row["launches"] for row in kernels)
            micros = sum(row["us"] for row in kernels)
            print(f"{name}: {launches:.0f} launches, {micros / 1e3:.2f} ms")
            for row in kernels[:15]:
                print(f"  {row['us']:8.1f} us {row['launches']:6.1f} x {row['kernel'][:100]}")
            rows.append({"step": name, "launches": launches, "us": micros, "kernels": kernels})
            command = "python " + shlex.join(sys.argv)
            write_json(out.with_suffix(".json"), command, "cuda", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch-size", type=int, default=32, help="on a GPU")
    parser.add_argument("--out", type=Path, default=RESULTS / "launches-cuda", help="on a GPU")
    options = parser.parse_args()
    if options.device == "cuda":
        return count_on_gpu(options.out, options.batch_size)
    for dtype in (torch.float32, torch.bfloat16):
        for naive in (True, False):
            counter = count(dtype, naive)
            print(f"{'naive' if naive else 'dapt'}, {dtype}: {counter.total} launches")
            listed = counter.by_name.most_common(12)
            print("  " + ", ".join(f"{number} {name.split('::')[1]}" for name, number in listed))


if __name__ == "__main__":
    main()
