"""One build serves every torch from the oldest that pyproject.toml allows to the newest: the op
files compile with the stable headers of both, for the CPU and for CUDA, and need no function that
the oldest lacks.

The wheels are downloaded once into build/torch_wheels and not installed. Only their headers are
used, so the platform with the smallest wheel is enough. DAPT_TORCH_WHEELS names another folder, or
`off`.
"""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc"
WHEELS = os.environ.get("DAPT_TORCH_WHEELS") or ROOT / "build" / "torch_wheels"
OLDEST = re.search(r'"torch>=([\d.]+)"', (ROOT / "pyproject.toml").read_text())[1]
# The oldest is for Linux without CUDA, so that it has a library in which to look up functions.
RELEASES = {
    "oldest": (f"torch=={OLDEST}.*", "manylinux_2_28_aarch64"),
    "newest": ("torch", "macosx_14_0_arm64"),
}
STABLE = ("csrc/stable/", "csrc/inductor/aoti_torch/", "headeronly/")
BACKENDS = {"cpu": [], "cuda": ["-DDAPT_CUDA", "-DUSE_CUDA"]}
FROM_CMAKE = ("DAPT_VERSION", "DAPT_COMPILER", "DAPT_CUDA_ARCHITECTURES")
# Functions that a torch with CUDA has in a separate library.
OF_TORCH_CUDA = {"aoti_torch_get_current_cuda_stream"}


def wheel_of(release):
    """The path of a wheel of torch."""
    if WHEELS == "off":
        pytest.skip("DAPT_TORCH_WHEELS=off")
    requirement, platform = RELEASES[release]
    folder = Path(WHEELS) / release
    if not list(folder.glob("*.whl")):
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            folder,
        ]
        command += ["--only-binary=:all:", "--platform", platform, "--python-version", "3.11"]
        try:
            done = subprocess.run(
                [*command, requirement], capture_output=True, text=True, timeout=300
            )
            reason = done.stderr.strip() or "pip said nothing"
        except subprocess.TimeoutExpired:
            reason = "pip took more than 5 minutes"
        if not list(folder.glob("*.whl")):
            pytest.skip(f"the {release} torch cannot be downloaded: {reason.splitlines()[-1]}")
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module", params=RELEASES)
def torch_wheel(request, tmp_path_factory):
    """A wheel, and the folder of its headers."""
    path, folder = wheel_of(request.param), tmp_path_factory.mktemp(request.param)
    stable = tuple(f"torch/include/torch/{part}" for part in STABLE)
    with zipfile.ZipFile(path) as wheel:
        wheel.extractall(folder, [name for name in wheel.namelist() if name.startswith(stable)])
    return path, folder / "torch" / "include"


def sources_of(backend):
    """The sources that include torch."""
    if backend == "cpu":
        kernels = [path for path in CSRC.glob("cpu/*") if "#include <torch" in path.read_text()]
        assert CSRC / "cpu" / "matmul.h" in kernels
        return [str(path.relative_to(CSRC)) for path in [*CSRC.glob("*.cpp"), *kernels]]
    listed = re.search(r"set\(CUDA_OPS ([\w\s]+)\)", (ROOT / "CMakeLists.txt").read_text())[1]
    return ["checks.cpp", *(f"{stem}.cpp" for stem in listed.split())]


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_ops_compile(torch_wheel, backend, tmp_path):
    wheel, include = torch_wheel
    target = re.search(r"TORCH_TARGET_VERSION=\w+", (ROOT / "CMakeLists.txt").read_text())[0]
    source, made = tmp_path / "ops.cpp", tmp_path / "ops.o"
    lines = [f'#define {name} ""' for name in FROM_CMAKE]
    lines += [f'#include "{name}"' for name in sources_of(backend)]
    if backend == "cpu":  # unused inline functions need nothing of torch
        lines.append("auto* const used = &dapt::cpu::scalar::matmul;")
    source.write_text("\n".join(lines))
    flags = ["-std=c++20", "-O0", "-c", "-fPIC", "-w", f"-D{target}", *BACKENDS[backend]]
    command = [
        os.environ.get("CXX", "g++"),
        *flags,
        f"-I{CSRC}",
        "-isystem",
        include,
        source,
        "-o",
        made,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"with {wheel.name}:\n{done.stderr}"

    library = "torch/lib/libtorch_cpu.so"
    with zipfile.ZipFile(wheel) as files:
        if library not in files.namelist():
            return
        exported = files.read(library)
    listed = subprocess.run(["nm", "-u", made], capture_output=True, text=True, check=True).stdout
    asked = set(re.findall(r"\b(?:aoti_)?torch_\w+", listed))
    assert len(asked) > 10
    missing = {name for name in asked if name.encode() + b"\0" not in exported}
    assert missing == (OF_TORCH_CUDA if backend == "cuda" else set())
