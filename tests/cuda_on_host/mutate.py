"""Removes one barrier, wait or double buffer at a time from the CUDA kernels and checks that the
tests on the host notice; fails if they do not.

    python tests/cuda_on_host/mutate.py            all, over an hour on two busy cores
    python tests/cuda_on_host/mutate.py fps topk   those whose name has one of these words
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from host_build import CSRC, HERE, compile_altered, compile_objects, link
from host_module import flags, sources

CUDA = CSRC / "cuda"
KERNELS, TOKENS = "test_kernels_on_host.py", "test_tokens_on_host.py"
# file: the unit to recompile, the tests to run
TESTS = {
    "topk.cuh": ("knn.cu", KERNELS, "knn"),
    "knn.cu": ("knn.cu", KERNELS, "knn"),
    "points.cuh": ("knn.cu", KERNELS, "knn"),
    "fps.cu": ("fps.cu", KERNELS, "fps"),
    "gather.cu": ("gather.cu", KERNELS, "gather"),
    "ball_query.cu": ("ball_query.cu", KERNELS, "ball_query"),
    "scale_shift.cu": ("scale_shift.cu", TOKENS, "scale_shift"),
    "sum_rows.cuh": ("scale_shift.cu", TOKENS, "scale_shift"),
    "dynamic_adapter.cu": ("dynamic_adapter.cu", TOKENS, "options or early"),
    "dynamic_adapter_backward.cu": (
        "dynamic_adapter_backward.cu", TOKENS, "options or early or many_tiles",
    ),
    "adapter_backward.cuh": (
        "dynamic_adapter_backward.cu", TOKENS, "options or early or many_tiles",
    ),
    "submanifold_conv.cu": ("submanifold_conv.cu", TOKENS, "submanifold"),
    "voxels.cu": ("voxels.cu", KERNELS, "cells or neighbor_map"),
    "patch_encoder.cu": ("patch_encoder.cu", TOKENS, "test_patch_encoder and not published"),
}  # fmt: skip
WAIT = re.compile(
    r"^ *(__syncthreads\(\)|__syncwarp\(\)|cluster_sync\(\)|wait_for_copies\(\)|box\.wait\(.*\));"
    r"[^\n]*\n",
    re.MULTILINE,
)
VALUE = re.compile(r"__syncthreads_(?:and|or|count)\b")  # a barrier whose result is used
# The functions with which kernels wait, and their counterparts on the host.
WRAPPERS = {"async_copy.cuh", "cluster.cuh", "mailbox.cuh"}
BUFFER = re.compile(r"\[\w+ % 2\]|\b\w+ % 2 \* \w+")
# file, text, replacement, name
BUFFERS = [
    ("fps.cu", "keys + turn % 2 * 32", "keys", "one set of keys in a block"),
    ("fps.cu", "turn % 2 * gridDim.x", "0 * gridDim.x", "one mailbox a block of a grid"),
    ("fps.cu", "mail[m % 2]", "mail[0]", "one mailbox a block of a cluster"),
    ("fps.cu", "distance[m % 2][", "distance[0][", "one set of distances in a cluster"),
    ("fps.cu", "place[m % 2][", "place[0][", "one set of places in a cluster"),
]


class Mutant(NamedTuple):
    file: str
    name: str
    text: str  # of the changed file


def check_that_none_is_left_out() -> None:
    for path in sorted(CUDA.glob("*.cu*")):
        text = path.read_text()
        if (WAIT.search(text) or VALUE.search(text)) and path.name not in {*TESTS, *WRAPPERS}:
            raise SystemExit(f"mutate.py: {path.name} waits, and TESTS names no tests for it")
        known = [old for file, old, _, _ in BUFFERS if file == path.name]
        for found in BUFFER.findall(text) if path.name in TESTS else []:
            if not any(found in old for old in known):
                raise SystemExit(f"mutate.py: BUFFERS lacks {found!r} of {path.name}")


def mutants() -> list[Mutant]:
    check_that_none_is_left_out()
    made = []
    for file in TESTS:
        text = (CUDA / file).read_text()
        for match in WAIT.finditer(text):
            line = text[: match.start()].count("\n") + 1
            without = text[: match.start()] + "\n" + text[match.end() :]
            made.append(Mutant(file, f"{file}:{line} without {match[1]}", without))
        for match in VALUE.finditer(text):
            line = text[: match.start()].count("\n") + 1
            without = text[: match.start()] + "bool" + text[match.end() :]  # of the thread alone
            made.append(Mutant(file, f"{file}:{line} without {match[0]}", without))
    for file, old, new, name in BUFFERS:
        text = (CUDA / file).read_text()
        if old not in text:
            raise SystemExit(f"mutate.py: {file} no longer has {old!r}")
        made.append(Mutant(file, f"{file} with {name}", text.replace(old, new)))
    return made


def run_tests(library: Path, tests: str, which: str) -> tuple[bool, str]:
    """Whether they passed, and the last line of their output."""
    environment = {**os.environ, "DAPT_HOST_MODULE": str(library), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", HERE / tests]
    try:
        done = subprocess.run(
            [*command, "-k", which], env=environment, capture_output=True, text=True, timeout=900
        )
    except subprocess.TimeoutExpired:
        return False, "takes more than 15 minutes"
    said = re.findall(r"^E +(.*)$", done.stdout, re.MULTILINE)
    return done.returncode == 0, said[-1] if said else (done.stdout + done.stderr)[-200:].strip()


def caught(mutant: Mutant, objects: dict[Path, Path]) -> tuple[bool, str]:
    unit, tests, which = TESTS[mutant.file]
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(CUDA, Path(folder) / "cuda")
        (Path(folder) / "cuda" / mutant.file).write_text(mutant.text)
        mine = compile_altered(Path(folder) / "cuda" / unit)
    others = [made for path, made in objects.items() if path.name != unit]
    # Of a template that several units contain, the linker takes the first copy.
    passed, said = run_tests(link([mine, *others]), tests, which)
    return not passed, said


def main(words: list[str]) -> None:
    objects = compile_objects(sources(), flags(), races=True)
    chosen = [m for m in mutants() if not words or any(word in m.name for word in words)]
    for _, tests, which in sorted({TESTS[mutant.file] for mutant in chosen}):
        passed, said = run_tests(link(list(objects.values())), tests, which)
        if not passed:
            raise SystemExit(f"mutate.py: {tests} -k '{which}' fails without a mutation: {said}")
    missed, began = [], time.monotonic()
    for mutant in chosen:
        found, said = caught(mutant, objects)
        print(f"{'caught' if found else 'MISSED'}  {mutant.name}: {said[:120]}", flush=True)
        if not found:
            missed.append(mutant.name)
    if missed:
        raise SystemExit(f"{len(missed)} of {len(chosen)} mutants are missed")
    minutes = (time.monotonic() - began) / 60
    print(f"all caught: {len(chosen)} mutants, {minutes:.0f} minutes")


if __name__ == "__main__":
    main(sys.argv[1:])
