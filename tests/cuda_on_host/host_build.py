"""Builds files of csrc/cuda, or modified copies of them, for the CPU.

    library = ctypes.CDLL(compile_host(["my_kernel.cu", "exports.cpp"]))

Symbols are hidden unless a source exports them. A sanitized library needs a process that starts
with the sanitizer's run-time, such as the Python of `run_sanitized`.
"""

import fcntl
import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CSRC = ROOT / "csrc"
LAYER = sorted(HERE.glob("*.cpp"))
CACHE = ROOT / "build" / "host"

COMPILER = os.environ.get("CXX", "g++")
LAUNCHER = os.environ.get("CMAKE_CXX_COMPILER_LAUNCHER", "").split()  # such as ccache
FLAGS = [
    "-std=c++20",
    "-O1",
    "-g",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    f"-I{CSRC}",
    f"-I{HERE.parent}",
]
WARNINGS = ["-Wall", "-Wextra", "-Wno-unknown-pragmas"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
# Only the calls are wanted, which races.cpp implements. Structures are accessed as a whole, as by
# nvcc.
WATCH = ["-fsanitize=thread", "-fno-tree-sra"]


def compile_host(sources, extra_flags=(), sanitize=False, races=False):
    """Returns the path of a shared library of `sources` (.cu, .cpp) and the layer that runs them;
    with `races`, the layer watches every access of a .cu file to shared memory (races.h)."""
    objects = compile_objects(sources, extra_flags, sanitize, races)
    return link([objects[source] for source in objects], sanitize)


def link(objects, sanitize=False):
    """Links `objects` into a shared library and returns its path."""
    library = CACHE / f"{_digest(str(o).encode() for o in objects)}.so"
    with _one_at_a_time():
        if not library.exists():
            _make(
                library, [COMPILER, *(SANITIZE if sanitize else []), "-shared", *map(str, objects)]
            )
    return library


def compile_objects(sources, extra_flags=(), sanitize=False, races=False):
    """Compiles `sources` and the layer; returns the objects by the path of the source."""
    flags = [*FLAGS, *WARNINGS, *(SANITIZE if sanitize else []), *extra_flags]
    watched = WATCH if races else []
    sources = [Path(source).resolve() for source in sources]
    folders = {CSRC, HERE, CSRC / "cuda", *(source.parent for source in sources)}
    with _one_at_a_time(), ThreadPoolExecutor(os.cpu_count()) as pool:
        made = {source: pool.submit(_compile, source, flags, {HERE}) for source in LAYER}
        for source in sources:
            own = [*flags, *(watched if source.suffix == ".cu" else [])]
            made[source] = pool.submit(_compile, source, own, folders)
        return {source: future.result() for source, future in made.items()}


def compile_altered(source):
    """Compiles one .cu file of a folder `cuda` with modified copies of csrc/cuda, watching
    races."""
    flags = [f"-I{source.parents[1]}", *FLAGS, *WARNINGS, *WATCH]  # searched before csrc
    return _compile(source, flags, {CSRC, HERE, source.parent})


def run_sanitized(*arguments):
    """Runs a Python that can load sanitized libraries; returns the finished process."""
    environment = {
        **os.environ,
        # Also libstdc++, whose functions the sanitizer looks up when the process starts.
        "LD_PRELOAD": " ".join(map(_compiler_library, ("libasan.so", "libstdc++.so"))),
        "PYTHONMALLOC": "malloc",  # so that it knows the bounds of Python's own blocks
        "ASAN_OPTIONS": "detect_leaks=0",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def _compiler_library(name):
    command = [COMPILER, f"-print-file-name={name}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@contextmanager
def _one_at_a_time():
    """When several test processes want the same library, one builds it and the others find it."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _compile(source, flags, header_folders):
    headers = {f for folder in header_folders for f in folder.glob("*.*h") if f.is_file()}
    texts = [source.read_bytes(), *(f.read_bytes() for f in sorted(headers))]
    made = CACHE / f"{source.stem}-{_digest([' '.join([COMPILER, *flags]).encode(), *texts])}.o"
    if not made.exists():
        _make(made, [*LAUNCHER, COMPILER, *flags, "-x", "c++", "-c", str(source)])
    return made


def _make(path, command):
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    # The compiler must not run under the sanitizer that this process may use.
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    command = [*command, "-o", str(unfinished)]
    finished = subprocess.run(command, capture_output=True, text=True, env=environment)
    if finished.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{finished.stderr}")
    os.replace(unfinished, path)


def _digest(parts):
    whole = hashlib.sha256()
    for part in parts:
        whole.update(hashlib.sha256(part).digest())
    return whole.hexdigest()[:16]
