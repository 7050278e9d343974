"""Compiles and links every CUDA source for sm_80 and sm_90 and prints what each kernel uses.

A spill fails, unless allowed_spills.txt beside this file names the kernel and the reason:
one "kernel: reason" a line, the kernel as the table prints it, without template arguments.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "resources"

ENTRY = re.compile(r"Compiling entry function '(\w+)' for '(sm_\w+)'")
SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")


def compile_all() -> str:
    """What the compiler printed."""
    torch = Path(sysconfig.get_path("purelib")) / "torch"
    shutil.rmtree(BUILD, ignore_errors=True)
    scripts = Path(sysconfig.get_path("scripts"))
    tool = {name: shutil.which(name, path=scripts) or name for name in ("cmake", "ninja")}
    configure = [tool["cmake"], "-S", ROOT, "-B", BUILD, "-G", "Ninja", "-DDAPT_CUDA=ON"]
    configure += [f"-DCMAKE_MAKE_PROGRAM={tool['ninja']}", f"-DDAPT_TORCH={torch}"]
    configure += ["-DDAPT_PTXAS_VERBOSE=ON"]
    environment = {**os.environ, "TORCH_CUDA_ARCH_LIST": "8.0;9.0"}
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


def read(log: str) -> list[tuple[str, str, int, int, int]]:
    """(kernel, architecture, registers, static shared bytes, spilled bytes) of every kernel."""
    rows, spilled = [], 0
    for line in log.splitlines():
        if match := ENTRY.search(line):
            kernel, architecture = short_name(match[1]), match[2]
        elif match := SPILLS.search(line):
            spilled = int(match[1]) + int(match[2])
        elif match := USED.search(line):
            registers, shared = int(match[1]), SHARED.search(line)
            bytes_ = int(shared[1]) if shared else 0
            rows.append((kernel, architecture, registers, bytes_, spilled))
    return sorted(rows)


def main() -> None:
    allowed = (HERE / "allowed_spills.txt").read_text().splitlines()
    allowed = {line.split(":")[0] for line in allowed if line and not line.startswith("#")}
    rows = read(compile_all())
    width = max(len(row[0]) for row in rows)
    print(f"{'kernel':{width}}  arch   registers  shared  spills (bytes)")
    for kernel, architecture, registers, shared, spilled in rows:
        print(f"{kernel:{width}}  {architecture:5}  {registers:9}  {shared:6}  {spilled:6}")
    bad = sorted({row[0] for row in rows if row[4] and row[0].split("<")[0] not in allowed})
    if bad:
        sys.exit(f"make cuda: registers spill in {', '.join(bad)}")
    print(f"{len(rows)} kernels compiled and linked for sm_80 and sm_90, none spills unexpectedly")


if __name__ == "__main__":
    main()
