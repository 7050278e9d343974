"""benchmarks/gpu.sh as far as it runs on a machine without a GPU: with tools that only record how
they were called."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu.sh"
PARTS = (
    "build test_on_gpu memcheck racecheck fps_ncu encoder_ncu peers plans launches points cells "
    "tokens train_step initcheck synccheck"
).split()
FAKE = """#!/usr/bin/env bash
watch="caching=${{PYTORCH_NO_CUDA_MEMORY_CACHING:-}}"
echo "{name} $*" "$watch arch=$TORCH_CUDA_ARCH_LIST" >> {calls}
{more}
"""


@pytest.fixture
def box(tmp_path):
    """A function that runs the script as if there were a GPU: the finished process, the calls."""
    tools, calls = tmp_path / "tools", tmp_path / "calls"
    tools.mkdir()

    def tool(name, more=""):
        path = tools / name
        path.write_text(FAKE.format(name=name, calls=calls, more=more))
        path.chmod(0o755)
        return path

    tool("nvidia-smi", 'echo "NVIDIA H200, 9.0"')
    tool("ncu")
    program = 'while [ "$1" != -o ]; do shift; done; echo "#!/bin/sh" > "$2"; chmod +x "$2"'
    tool("nvcc", program)
    tool("compute-sanitizer", 'case "$*" in *racecheck*) echo "1 hazard"; exit 9 ;; esac')
    python = tool(
        "python-of-the-box", 'case "$*" in *cells*) sleep 30 ;; esac; echo "says \\"x\\""'
    )

    def run(*words, **environment):
        environment = {
            **os.environ,
            "PATH": f"{tools}:{os.environ['PATH']}",
            "PYTHON": str(python),
            **environment,
        }
        words = ["bash", str(SCRIPT), "--out", str(tmp_path / "out"), *words]
        done = subprocess.run(words, env=environment, capture_output=True, text=True)
        return done, calls.read_text().splitlines() if calls.exists() else []

    run.tool = tool
    return run


def reported(tmp_path):
    text = (tmp_path / "out" / "parts.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_list_names_the_parts_and_runs_nothing(box, tmp_path):
    done, calls = box("--list")
    assert done.returncode == 0 and not calls and not (tmp_path / "out").exists()
    assert [line.split()[0] for line in done.stdout.splitlines()] == PARTS
    done, _ = box("--list", "tokens", "build")
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["build", "tokens"]


def test_what_is_no_part_is_said(box):
    done, calls = box("memchek")
    assert done.returncode == 2 and not calls
    assert "memchek is no part; there are build test_on_gpu" in done.stderr


def test_without_a_gpu(box):
    box.tool("nvidia-smi", "exit 9")
    done, calls = box()
    assert done.returncode == 2 and done.stderr == "gpu.sh: nvidia-smi finds no GPU\n"
    assert len(calls) == 1


def test_all_parts(box, tmp_path):
    """A part that fails or takes too long is named and does not keep the others from running."""
    done, calls = box(DAPT_PART_SECONDS="3")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "failed: racecheck cells"
    lines = reported(tmp_path)
    assert [line["part"] for line in lines] == PARTS
    assert {line["part"]: line["code"] for line in lines if line["code"]} == {
        "racecheck": 9,
        "cells": 124,
    }
    assert {line["device"] for line in lines} == {"NVIDIA H200"}
    watched = [call for call in calls if call.startswith("compute-sanitizer")]
    assert len(watched) == 4
    for call in watched:
        assert "--kernel-name kns=dapt --error-exitcode 9" in call and "caching=1" in call
    assert all("arch=9.0" in call for call in calls[1:])
    assert sum("caching=1" in call for call in calls) == 4
    with tarfile.open(tmp_path / "out.tar.gz") as results:
        names = set(results.getnames())
    assert {"out/parts.jsonl", *(f"out/{part}.log" for part in PARTS)} <= names


def test_parts_by_name(box, tmp_path):
    done, calls = box("points", "fps_ncu")
    assert done.returncode == 0
    assert [line["part"] for line in reported(tmp_path)] == ["fps_ncu", "points"]
    assert calls[1].startswith("ncu --set full --kernel-name regex:fps_")
    assert "--only fps,knn,group,ball_query,chamfer" in calls[2]


def test_each_op_of_the_benchmarks_is_in_one_part(box, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from ops import SUITES

    listed, _ = box("--list", "points", "cells", "tokens")
    lines = listed.stdout.splitlines()
    asked = [op for line in lines for op in line.split("--only ")[1].split()[0].split(",")]
    assert sorted(asked) == sorted(SUITES)


def test_shellcheck():
    tool = shutil.which("shellcheck")
    if not tool:
        pytest.skip("shellcheck is not installed")
    subprocess.run([tool, SCRIPT], check=True)


def test_the_tests_for_a_gpu_run_without_pybind11_and_leave_a_line_each(tmp_path):
    """The tests run on the CPU; an interrupted run leaves the lines of what it got to."""
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "pybind11.py").write_text("raise ImportError('there is none')")
    before = filter(None, [os.environ.get("PYTHONPATH")])
    path = os.pathsep.join([str(blocked), str(ROOT / "benchmarks"), *before])
    lines = tmp_path / "lines" / "cases.jsonl"
    tests = tmp_path / "test_more.py"
    tests.write_text("def test_bad():\n    assert 1 == 2, 'no'\ndef test_worse(nothing): ...\n")
    words = ["-m", "pytest", "-p", "case_lines", "--case-lines", str(lines), "-p", "no:xdist"]
    chosen = ["tests/ops/test_on_gpu.py", str(tests), "-k", "lengths or attention or bad or worse"]
    environment = {**os.environ, "PYTHONPATH": path, "DAPT_TEST_DEVICE": "cpu"}
    done = subprocess.run(
        [sys.executable, *words, *chosen], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1, done.stdout
    found = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [case["outcome"] for case in found] == ["passed", "passed", "failed", "failed"]
    assert found[2]["message"] == "AssertionError: no\nassert 1 == 2"
    assert "fixture 'nothing' not found" in found[3]["message"] and found[3]["when"] == "setup"


def test_a_case_in_which_a_peer_differs_keeps_no_other_from_running(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import measure

    import ops

    def differs(name, ours, theirs):
        assert ours == theirs, "they differ"

    def cases(device):
        for name, other in (("one", 2), ("two", 1)):
            yield measure.Case("fps", name, lambda: 1, {"peer": lambda v=other: v}, differs, 1)

    monkeypatch.setattr(ops, "SUITES", {"fps": cases})
    out = tmp_path / "ops"
    monkeypatch.setenv("DAPT_CPU_ISA", "scalar")  # as --isa sets it in the process that it starts
    words = ["ops.py", "--only", "fps", "--isa", "scalar", "--seconds", "0.01", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit, match="1 of 2 cases failed: fps one"):
        ops.main()
    rows = json.loads(out.with_suffix(".json").read_text())["rows"]
    assert rows[0] == {"op": "fps", "case": "one", "failure": "they differ assert 1 == 2"}
    assert rows[1]["best_peer"] == "peer" and rows[1]["milliseconds"]["dapt_ext"] > 0
    assert "FAILED they differ" in capsys.readouterr().out
