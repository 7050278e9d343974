"""Long work shows its progress on a terminal, and nothing elsewhere."""

import os
import pty
import subprocess
import sys

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

import dapt
from dapt import progress
from dapt.data import ArrayDataset
from dapt.data.convert import Sample, Source, write_arrays
from dapt.data.preprocessing import Preprocessing
from dapt.inference.labeling import label_rooms
from dapt.inference.prediction import clouds_of_all, predict
from dapt.inference.probe import linear_probe
from dapt.inference.score import score


@pytest.fixture
def bars(monkeypatch):
    """Every bar that would be drawn, as (description, steps done, total)."""
    drawn = []

    class Display:
        def add(self, bar):
            drawn.append(None)
            return len(drawn) - 1

        def update(self, task, bar):
            drawn[task] = bar.what, bar.done, bar.total

        def remove(self, task):
            pass

        def speed(self, task):
            return 0.0

    monkeypatch.setattr(progress, "is_watched", lambda: True)
    monkeypatch.setattr(progress, "_display", Display())
    monkeypatch.setattr(progress.Bar.__init__, "__defaults__", (None, 0, True, 0.0))
    return drawn


def small_model(task, **options):
    backbone = dapt.create_backbone("point_mae_tiny", "none", num_groups=8, group_size=8, depth=2)
    return dapt.attach(backbone, options.get("method", dapt.Linear()), task=task)


def clouds(count, points=32):
    rng = np.random.default_rng(0)
    points = rng.normal(size=(count, points, 3)).astype(np.float32)
    return ArrayDataset({"points": points, "labels": np.arange(count) % 2}, ["a", "b"])


def test_evaluation(bars):
    fabric = Fabric(accelerator="cpu", devices=1)
    score(small_model(dapt.Classification(2)), clouds(10), fabric, None, 4, what="test")
    assert bars == [("test", 3, 3)]


def test_linear_probe(bars):
    backbone = dapt.create_backbone("point_mae_tiny", "none", num_groups=8, group_size=8, depth=2)
    linear_probe(backbone, clouds(10), clouds(4), batch_size=4)
    assert bars == [("linear probe", 3, 3), ("linear probe", 1, 1)]


def test_prediction_counts_the_clouds_of_all_files(bars, tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "a.npz", points=rng.normal(size=(3, 32, 3)).astype(np.float32))
    np.save(tmp_path / "b.npy", rng.normal(size=(32, 3)))
    clouds = clouds_of_all([tmp_path / "a.npz", tmp_path / "b.npy"])
    found = predict(small_model(dapt.Classification(2)), clouds, Preprocessing(32))
    assert len(list(found)) == 4 and bars == [("clouds", 4, 4)]


def test_scenes(bars, tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "room.npy", rng.random((400, 3)) * [2, 2, 1])
    model = small_model(dapt.SemanticSegmentation(2))
    clouds = clouds_of_all([tmp_path / "room.npy"])
    list(label_rooms(model, clouds, Preprocessing(32, up="z"), block=1.0, stride=1.0))
    assert bars == [("clouds", 1, 1), ("blocks", 4, 4)]


def test_conversion(bars, tmp_path):
    samples = iter([Sample("one", np.eye(3), 0), Sample("two", np.eye(3), 0)])
    write_arrays(Source(tmp_path, ["a"], 2, samples), None, True, tmp_path)
    assert bars == [("converting, once", 2, 2)]


def test_a_run_in_a_comparison_shows_both(bars, monkeypatch):
    for name, value in progress.part_of_whole("all runs", 2, 6).items():
        monkeypatch.setenv(name, value)
    with progress.whole() as bar:
        bar.update(done=2.5)
    assert bars == [("all runs", 2.5, 6)]
    with progress.whole() as bar:  # nested progress is not shown again
        bar.update(done=1)
    assert len(bars) == 1


def test_what_is_quick_gets_no_bar(bars, monkeypatch):
    monkeypatch.setattr(progress.Bar.__init__, "__defaults__", (None, 0, True, 5.0))
    assert list(progress.watched("abc", "letters", 3)) == ["a", "b", "c"] and bars == []


SCRIPT = """
import time
from dapt.progress import Bar, say, watched
with Bar("outer", 2, patience=0) as outer:
    for i in watched(range(2), "inner", 2):
        say(f"line {i}")
        print("result", i)
        outer.advance()
        time.sleep(0.3)
"""


def run_with(stderr):
    command, environment = [sys.executable, "-c", SCRIPT], {**os.environ, "TERM": "xterm"}
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr, env=environment)


def read(terminal):
    try:
        return os.read(terminal, 100_000)
    except OSError:  # how Linux reports the end of a terminal
        return b""


def test_on_a_terminal():
    ours, theirs = pty.openpty()
    done = run_with(theirs)
    os.close(theirs)
    shown = b""
    while chunk := read(ours):
        shown += chunk
    assert done.returncode == 0 and done.stdout == b"result 0\nresult 1\n"
    for part in ("outer", "line 0", "line 1", "100%"):
        assert part.encode() in shown


def test_in_a_log_there_are_lines_alone():
    done = run_with(subprocess.PIPE)
    assert done.stderr == b"line 0\nline 1\n" and done.stdout == b"result 0\nresult 1\n"


def test_the_memory_bank(bars):
    from dapt.training.adaptation import Adaptation

    job = object.__new__(Adaptation)
    job.train, job.task, job.num_points = clouds(40), dapt.Classification(2), None
    job.model = small_model(job.task, method=dapt.PointPeft())
    job.prepare(Fabric(accelerator="cpu", devices=1))
    steps = -(-40 // job.task.evaluation_batch)
    assert bars == [("memory bank", steps, steps)]
    assert torch.isfinite(job.model.backbone.memory.bank).all()
