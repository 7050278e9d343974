"""Child processes are stopped with their parent, save before they end, and are never orphaned."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml

from dapt.runs.folder import RunFolder
from support.runs import TINY, clouds

CHILD = """
import os, sys, time
from dapt.runs import children
if sys.argv[1] == "watch":
    children.sys.platform = "elsewhere"
children.end_with_parent()
print(os.getpid(), flush=True)
time.sleep(120)
"""
STARTER = """
import sys
from dapt.runs.children import run_child
run_child([sys.executable, "-c", {child!r}, sys.argv[1]])
"""


def python(*arguments, **options):
    path = os.pathsep.join(filter(None, sys.path))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    return subprocess.Popen(
        [sys.executable, *arguments], env=environment, stdout=subprocess.PIPE, text=True, **options
    )


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:  # an ended process may not have been reaped yet
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells which processes are alive")
@pytest.mark.parametrize("how", ["prctl", "watch"])
def test_a_child_ends_with_a_parent_that_is_killed(how):
    parent = python("-c", STARTER.format(child=CHILD), how)
    child = int(parent.stdout.readline())
    assert is_alive(child)
    parent.kill()
    parent.wait()
    wait_until(lambda: not is_alive(child), 20)


@pytest.fixture
def comparison(tmp_path):
    """A comparison of one run that would never end."""
    clouds(tmp_path / "a.npz")
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(TINY | {"epochs": 100_000}))
    words = ["compare", "--methods", "linear", "--seeds", "1", "--data.train", tmp_path / "a.npz"]
    words += ["--config", tmp_path / "base.yaml", "--out", tmp_path / "out"]
    process = python("-m", "dapt", *map(str, words), stderr=subprocess.PIPE)
    run = RunFolder(tmp_path / "out" / "linear" / "seed_0")
    try:
        wait_until(run.last.exists)
        yield process, run
    finally:
        process.kill()
        process.communicate()


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells which processes are alive")
@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        *(pytest.param(each, marks=pytest.mark.slow) for each in (signal.SIGINT, signal.SIGKILL)),
    ],
)
def test_a_comparison_that_is_stopped(comparison, number):
    """It lets its training save; if it is killed itself, the training ends on its own."""
    process, run = comparison
    child = int((run.path / ".lock.holder").read_text().split()[1])
    lines = len(run.metrics.read_text().splitlines())
    process.send_signal(number)
    said = process.communicate(timeout=60)[1].splitlines()
    wait_until(lambda: not is_alive(child), 30)
    if number != signal.SIGKILL:
        assert process.returncode == 130
        assert said[-1] == "dapt compare: stopped: repeat the command to continue"
        assert "stopped and saved" in said[-2]
        state = torch.load(run.last, weights_only=True)
        assert state["metrics"] == run.metrics.read_text()  # nothing is lost
    assert len(run.metrics.read_text().splitlines()) >= lines
    assert json.loads(run.metrics.read_text().splitlines()[-1])["epoch"] >= 0
    with run.locked(patience=5):  # nobody is training there
        assert not run.result.exists()
