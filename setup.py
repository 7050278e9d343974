"""Builds the native part with CMake and ninja: `pip install -e .`

Environment: DAPT_CUDA=auto|on|off (auto: on if nvcc is found and torch has CUDA),
TORCH_CUDA_ARCH_LIST as in torch ("8.0;9.0+PTX"), DAPT_JOBS (number of parallel compile jobs).
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
BUILD = ROOT / "build"
OLDEST_TORCH = (2, 10)


def find_torch() -> Path:
    """The folder of the torch to compile against. Under pip's build isolation, the target
    environment cannot be imported from, but sysconfig still knows its path."""
    folders = [Path(sysconfig.get_path(kind)) / "torch" for kind in ("purelib", "platlib")]
    spec = importlib.util.find_spec("torch")
    if spec and spec.origin:
        folders.insert(0, Path(spec.origin).parent)
    torch = next((folder for folder in folders if (folder / "version.py").exists()), None)
    version = re.search(r"__version__ = '(\d+)\.(\d+)", read_version(torch)) if torch else None
    if version is None or (int(version[1]), int(version[2])) < OLDEST_TORCH:
        found = f"torch {version[1]}.{version[2]}" if version else "none"
        raise SystemExit(
            f"dapt is built against torch >= {OLDEST_TORCH[0]}.{OLDEST_TORCH[1]}, and {sys.prefix} "
            f"has {found}: run `pip install --upgrade torch` there, then build again."
        )
    return torch


def read_version(torch: Path) -> str:
    return (torch / "version.py").read_text()


def find_tool(name: str) -> str:
    """The path of a program, in this environment or else on the PATH."""
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
    version = re.search(r"^cuda.*=\s*(.+)$", read_version(torch), flags=re.MULTILINE)
    has_cuda = version is not None and version.group(1) != "None"
    return has_cuda and shutil.which("nvcc") is not None


@contextmanager
def alone() -> Iterator[None]:
    """Serializes builds of one checkout; the second one then finds its work done."""
    BUILD.mkdir(exist_ok=True)
    with (BUILD / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class NativeBuild(build_ext):
    """Builds into the package's folder with CMake, which owns sources, flags and architectures."""

    def run(self) -> None:
        in_place = self.inplace or self.editable_mode
        package = ROOT / "dapt_ext" if in_place else Path(self.build_lib).resolve() / "dapt_ext"
        torch = find_torch()
        cuda = wants_cuda(torch)
        folder = BUILD / ("cuda" if cuda else "cpu")
        configure = {
            "CMAKE_MAKE_PROGRAM": find_tool("ninja"),
            "CMAKE_LIBRARY_OUTPUT_DIRECTORY": package,
            "DAPT_CUDA": "ON" if cuda else "OFF",
            "DAPT_TORCH": torch,
            "DAPT_VERSION": self.distribution.get_version(),
        }
        cmake = find_tool("cmake")
        options = [f"-D{name}={value}" for name, value in configure.items()]
        jobs = os.environ.get("DAPT_JOBS")
        with alone():
            subprocess.check_call([cmake, "-S", ROOT, "-B", folder, "-G", "Ninja", *options])
            subprocess.check_call([cmake, "--build", folder, *(["-j", jobs] if jobs else [])])

    def get_outputs(self) -> list[str]:
        return []

    def get_output_mapping(self) -> dict[str, str]:
        return {}


class CleanBuild(build):
    """Empties the folder in which setuptools collects a wheel's files, so that files deleted from
    the source are not shipped."""

    def run(self) -> None:
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


class PlatformWheel(bdist_wheel):
    """The libraries use torch's stable ABI but not Python's, so one wheel serves every version."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    # CMake has the sources; an extension in this list makes setuptools call NativeBuild and tag the
    # wheel with the platform.
    ext_modules=[Extension("dapt_ext.libdapt_cpu", sources=[])],
    cmdclass={"bdist_wheel": PlatformWheel, "build": CleanBuild, "build_ext": NativeBuild},
    package_dir={"dapt_ext": "dapt_ext", "dapt": "python/dapt"},
)
