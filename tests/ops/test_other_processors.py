"""Point ops on a processor with NEON, emulated by qemu, give the same bits as here."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
ARM, QEMU = "aarch64-linux-gnu-g++", shutil.which("qemu-aarch64")
KERNELS = ("fps", "knn", "ball_query", "chamfer")

needs_arm = pytest.mark.skipif(
    not (shutil.which(ARM) and QEMU),
    reason="apt install g++-aarch64-linux-gnu qemu-user",
)


def results(program: Path, compiler: str, *flags: str, run_by: tuple[str, ...] = ()) -> str:
    include = [f"-I{ROOT / 'csrc'}", f"-I{Path(torch.__file__).parent / 'include'}"]
    options = ["-std=c++20", "-O2", "-ffp-contract=off", "-fopenmp-simd", "-Wno-psabi", *include]
    sources = [Path(__file__).with_name("every_op.cpp")]
    sources += [ROOT / "csrc" / "cpu" / f"{kernel}.cpp" for kernel in KERNELS]
    subprocess.run([compiler, *options, *flags, *sources, "-o", program], check=True)
    command = [*run_by, str(program)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@needs_arm
def test_neon_gives_the_same_bits(tmp_path):
    here = results(tmp_path / "here", os.environ.get("CXX") or shutil.which("c++"))
    there = results(tmp_path / "there", ARM, "-static", run_by=(QEMU,))
    assert len(here.splitlines()) == 30
    assert there == here
