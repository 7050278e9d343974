"""Interleaved timing of contenders, and what a result has to say about its machine."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from dapt_ext import build_info

PEERS = (
    "fpsample",
    "torch-quickfps",
    "scipy",
    "pykdtree",
    "flannrust",
    "small-gicp",
    "torch-cluster",
    "pointnet2-ops",
    "pytorch3d",
    "KNN-CUDA",
)
FAR_BEHIND = 3  # times slower than the best peer at first: one reading is enough


@dataclass
class Case:
    """One row of the table. `check` is called with every contender's result before timing."""

    op: str
    name: str
    ours: Callable[[], object]
    peers: dict[str, Callable[[], object]]
    check: Callable[[str, object, object], None]
    threads: int
    goal: float | None = None
    seconds: dict[str, float] = field(default_factory=dict)  # median, by contender
    failure: str = ""  # why there are none

    @property
    def best_peer(self) -> str | None:
        return min(self.peers, key=self.seconds.__getitem__, default=None)

    @property
    def speedup(self) -> float | None:
        return self.seconds[self.best_peer] / self.seconds["dapt_ext"] if self.peers else None

    def row(self) -> dict[str, object]:
        if self.failure:
            return {"op": self.op, "case": self.name, "failure": self.failure}
        return {
            "op": self.op,
            "case": self.name,
            "threads": self.threads,
            "milliseconds": {name: 1e3 * t for name, t in self.seconds.items()},
            "best_peer": self.best_peer,
            "speedup": self.speedup,
            "goal": self.goal,
        }


def strict_products() -> None:
    """Float32 as float32 on both sides: torch's convolutions on CUDA would round it to TF32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def measure(case: Case, device: str, budget: float, least: int = 5) -> None:
    """Check every contender against ours, then time them in turn, A B C A B C, for about `budget`
    seconds. Turns cancel what the machine does meanwhile; the median forgets its hiccups. Peers far
    behind the best one are timed once."""
    contenders = {"dapt_ext": case.ours, **case.peers}
    torch.set_num_threads(case.threads)
    result = case.ours()
    once = {}
    for name, call in contenders.items():
        case.check(name, result, call())
        once[name] = _time(call, 1, device)
    best = min((once[name] for name in case.peers), default=0)
    ahead = [n for n in contenders if n == "dapt_ext" or once[n] <= FAR_BEHIND * best]
    # A short call is repeated within one reading, so that the clock's own cost disappears.
    inner = {name: max(1, int(0.002 / t)) for name, t in once.items()}
    turn = sum(once[name] * inner[name] for name in ahead)
    few = min(least, max(2, int(10 * budget / turn)))  # of calls that take seconds
    turns = max(few, min(200, int(budget / turn)))
    readings = {name: [] if name in ahead else [t] for name, t in once.items()}
    for _ in range(turns):
        for name in ahead:
            readings[name].append(_time(contenders[name], inner[name], device))
    case.seconds = {n: statistics.median(times) for n, times in readings.items()}


def _time(call: Callable[[], object], times: int, device: str) -> float:
    if device == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        for _ in range(times):
            call()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) / 1e3 / times
    start = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - start) / times


def machine(device: str) -> dict[str, object]:
    info = {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "dapt_ext": build_info(),
        "commit": _commit(),
        "peers": {name: v for name in PEERS if (v := _version(name))},
    }
    if device == "cuda":
        info["gpu"] = torch.cuda.get_device_name()
        info["cuda"] = torch.version.cuda
    return info


def write_json(path: Path, command: str, device: str, rows: list[dict[str, object]]) -> None:
    report = {"command": command, "machine": machine(device), "rows": rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(report, indent=1) + "\n")
    os.replace(temporary, path)


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    if "model name" not in fields:  # not x86
        return platform.machine()
    generation = f"family {fields.get('cpu family')}, model {fields.get('model')}"
    return f"{fields['model name']} ({generation})"


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def _version(name: str) -> str | None:
    """Of an installed package, or of a module that was built in place and is in use."""
    try:
        return version(name)
    except PackageNotFoundError:
        module = sys.modules.get(name.lower().replace("-", "_"))
        return getattr(module, "__version__", None)
