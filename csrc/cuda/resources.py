"""Compiles and links every CUDA source, kernels and the files of the ops, for compute capabilities
8.0, 9.0, 10.0 and 12.0 (those that nvcc knows) and prints what each kernel uses: bytes of static
shared memory and registers, and, counted by tests/cuda_on_host/traffic.py, the share of wavefronts
of shared memory that bank conflicts add, and the sectors of a request to global memory with how few
could hold what it asks for.

A spill fails, unless allowed_spills.txt beside this file names the kernel and the reason:
one "kernel: reason" a line, the kernel as the table prints it, without template arguments.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections import defaultdict
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "resources"
CAPABILITIES = ("8.0", "9.0", "10.0", "12.0")

ENTRY = re.compile(r"Compiling entry function '(\w+)' for '(sm_\w+)'")
SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")


def known_capabilities() -> list[str]:
    listed = subprocess.run(["nvcc", "--list-gpu-arch"], capture_output=True, text=True, check=True)
    known = listed.stdout.split()
    return [c for c in CAPABILITIES if f"compute_{c.replace('.', '')}" in known]


def compile_all(capabilities: list[str]) -> str:
    """What the compiler printed."""
    torch = Path(sysconfig.get_path("purelib")) / "torch"
    shutil.rmtree(BUILD, ignore_errors=True)
    scripts = Path(sysconfig.get_path("scripts"))
    tool = {name: shutil.which(name, path=scripts) or name for name in ("cmake", "ninja")}
    configure = [tool["cmake"], "-S", ROOT, "-B", BUILD, "-G", "Ninja", "-DDAPT_CUDA=ON"]
    configure += [f"-DCMAKE_MAKE_PROGRAM={tool['ninja']}", f"-DDAPT_TORCH={torch}"]
    configure += ["-DDAPT_PTXAS_VERBOSE=ON"]
    environment = {**os.environ, "TORCH_CUDA_ARCH_LIST": ";".join(capabilities)}
    subprocess.run(configure, env=environment, check=True, stdout=subprocess.DEVNULL)
    build = [tool["cmake"], "--build", BUILD, "--target", "dapt_cuda"]
    done = subprocess.run(build, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(done.stdout + "make cuda: the CUDA sources do not compile")
    return done.stdout


def short_name(mangled: str) -> str:
    """`dapt::cuda::(anonymous namespace)::fps_kernel<256, 8>(...)` -> `fps_kernel<256, 8>`."""
    name = subprocess.run(["c++filt", mangled], capture_output=True, text=True).stdout.strip()
    name = re.sub(r"\(anonymous namespace\)::|dapt::cuda::|^void ", "", name)
    name = re.sub(r"\((bool|int|unsigned int|long)\)", "", name)
    return name.split("(")[0]


def read(log: str) -> dict[str, dict[str, tuple[int, int, int]]]:
    """(registers, static shared bytes, spilled bytes) by kernel and architecture."""
    kernels, spilled = defaultdict(dict), 0
    for line in log.splitlines():
        if match := ENTRY.search(line):
            kernel, architecture = short_name(match[1]), match[2]
        elif match := SPILLS.search(line):
            spilled = int(match[1]) + int(match[2])
        elif match := USED.search(line):
            registers, shared = int(match[1]), SHARED.search(line)
            bytes_ = int(shared[1]) if shared else 0
            kernels[kernel][architecture] = (registers, bytes_, spilled)
    return kernels


def count_traffic() -> dict[str, dict[str, int]]:
    """By kernel, of those that run on the host."""
    script = ROOT / "tests" / "cuda_on_host" / "traffic.py"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, script, "--json"], env=environment, stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        sys.exit("make cuda: the kernels do not run on the host")
    return json.loads(done.stdout)


def traffic_columns(counts: dict[str, int] | None) -> tuple[str, str]:
    """Wavefronts that conflicts add, of 100; sectors a request, and at how few it could do."""
    if counts is None:
        return "-", "-"
    conflicts, sectors = "-", "-"
    if counts["wavefronts"]:
        added = counts["wavefronts"] - counts["least_wavefronts"]
        conflicts = f"{100 * added / counts['wavefronts']:.0f} %"
    if counts["global_requests"]:
        each, least = (
            counts[name] / counts["global_requests"] for name in ("sectors", "least_sectors")
        )
        sectors = f"{each:.1f} ({least:.1f})"
    return conflicts, sectors


def main() -> None:
    allowed = (HERE / "allowed_spills.txt").read_text().splitlines()
    allowed = {line.split(":")[0] for line in allowed if line and not line.startswith("#")}
    capabilities = known_capabilities()
    kernels = read(compile_all(capabilities))
    traffic = count_traffic()
    architectures = [f"sm_{c.replace('.', '')}" for c in capabilities]
    width = max(map(len, kernels))
    titles = [*(f"{a:>6}" for a in architectures), "conflicts", "sectors (least)"]
    print(f"{'kernel':{width}}  shared  registers on", *titles)
    bad = []
    for kernel, uses in sorted(kernels.items()):
        registers = [f"{uses[a][0]:6}" for a in architectures]
        conflicts, sectors = traffic_columns(traffic.get(kernel))
        columns = [*registers, f"{conflicts:>9}", f"{sectors:>15}"]
        print(f"{kernel:{width}}  {max(use[1] for use in uses.values()):6}  {'':12}", *columns)
        spills = [f"{use[2]} bytes on {a}" for a, use in uses.items() if use[2]]
        if spills and kernel.split("<")[0] not in allowed:
            bad.append(f"{kernel} ({', '.join(spills)})")
    if bad:
        sys.exit(f"make cuda: registers spill in {', '.join(bad)}")
    listed = ", ".join(architectures)
    print(f"{len(kernels)} kernels compiled and linked for {listed}; none spills unexpectedly")


if __name__ == "__main__":
    main()
