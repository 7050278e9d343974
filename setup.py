"""Builds the native part with CMake and ninja: `pip install -e .`

Environment: DAPT_CUDA=auto|on|off (auto: where nvcc is found and torch has CUDA),
TORCH_CUDA_ARCH_LIST as in torch ("8.0;9.0+PTX"), DAPT_JOBS (compile jobs at once).
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


def find_torch() -> Path:
    """Folder of the torch that the extension will run with. Under build isolation torch is not
    importable, but the environment that is installed into is still known to sysconfig."""
    folders = [Path(sysconfig.get_path(kind)) / "torch" for kind in ("purelib", "platlib")]
    spec = importlib.util.find_spec("torch")
    if spec and spec.origin:
        folders.insert(0, Path(spec.origin).parent)
    for folder in folders:
        if (folder / "include" / "torch" / "csrc" / "stable" / "library.h").exists():
            return folder
    raise SystemExit(
        f"dapt needs torch >= 2.10 in {sys.prefix} before it is built: "
        "run `pip install torch -c constraints.txt`, then `pip install -e .` again."
    )


def find_tool(name: str) -> str:
    """A program of this environment, else one on the PATH."""
    path = shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
    if not path:
        raise SystemExit(f"dapt needs {name} to build: run `pip install {name}`.")
    return path


def wants_cuda(torch: Path) -> bool:
    wish = os.environ.get("DAPT_CUDA", "auto")
    if wish not in ("auto", "on", "off"):
        raise SystemExit(f"DAPT_CUDA must be auto, on or off, got {wish!r}.")
    if wish != "auto":
        return wish == "on"
    version = re.search(r"^cuda.*=\s*(.+)$", (torch / "version.py").read_text(), flags=re.MULTILINE)
    has_cuda = version is not None and version.group(1) != "None"
    return has_cuda and shutil.which("nvcc") is not None


class NativeBuild(build_ext):
    """Runs CMake, which owns sources, flags and architectures, into the package's folder."""

    def run(self) -> None:
        in_place = self.inplace or self.editable_mode
        package = ROOT / "dapt_ext" if in_place else Path(self.build_lib).resolve() / "dapt_ext"
        torch = find_torch()
        cuda = wants_cuda(torch)
        build = ROOT / "build" / ("cuda" if cuda else "cpu")
        configure = {
            "CMAKE_MAKE_PROGRAM": find_tool("ninja"),
            "CMAKE_LIBRARY_OUTPUT_DIRECTORY": package,
            "DAPT_CUDA": "ON" if cuda else "OFF",
            "DAPT_TORCH": torch,
            "DAPT_VERSION": self.distribution.get_version(),
        }
        cmake = find_tool("cmake")
        options = [f"-D{name}={value}" for name, value in configure.items()]
        subprocess.check_call([cmake, "-S", ROOT, "-B", build, "-G", "Ninja", *options])
        jobs = os.environ.get("DAPT_JOBS")
        subprocess.check_call([cmake, "--build", build, *(["-j", jobs] if jobs else [])])

    def get_outputs(self) -> list[str]:
        return []

    def get_output_mapping(self) -> dict[str, str]:
        return {}


setup(
    ext_modules=[Extension("dapt_ext._library", sources=[])],
    cmdclass={"build_ext": NativeBuild},
    package_dir={"dapt_ext": "dapt_ext", "dapt": "python/dapt"},
)
