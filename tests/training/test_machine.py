"""When the machine fails, a run ends with one sentence and resumes bit for bit."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError

import pytest
import torch

import dapt
from dapt.data import ArrayDataset
from dapt.errors import DataError
from dapt.runs.folder import RunFolder
from dapt.training import events, loop
from dapt.training.loop import Trainer
from support.runs import assert_same_run

pytestmark = pytest.mark.usefixtures("one_thread")


def said(capsys):
    """The last line, the only one besides those of epochs."""
    lines = capsys.readouterr().err.splitlines()
    assert not [line for line in lines if "Traceback" in line or "Exception" in line], lines
    return lines[-1]


def test_a_full_disk_under_tensorboard(run, monkeypatch, capsys):
    whole, _ = run("whole", tensorboard=True)

    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, content):
            raise OSError(errno.ENOSPC, "No space left on device")

    calls = []

    def opened(*arguments):
        calls.append(arguments)
        file = open(*arguments)
        return Full(file) if len(calls) == 3 else file  # the second epoch's

    with monkeypatch.context() as patch:
        patch.setattr(events, "open", opened, raising=False)
        folder, code = run("parts", tensorboard=True)
    assert code == 1 and "tensorboard" in (line := said(capsys)) and "the disk is full" in line
    assert run("parts", "--resume", tensorboard=True)[1] == 0
    assert_same_run(whole, folder)


def test_tensorboard_reads_the_events(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, _ = run("x", tensorboard=True)
    read = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert [event.step for event in read.Scalars("train_loss")] == [3, 6, 9]
    assert "validation_accuracy" in read.Tags()["scalars"]


@pytest.mark.parametrize("how", ["killed", "no memory", "bad data"])
def test_a_process_that_loads_data(run, monkeypatch, capsys, how):
    whole, _ = run("whole")
    batch, parent = ArrayDataset.batch, os.getpid()

    def fails(self, indices):
        if os.getpid() != parent:
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise MemoryError if how == "no memory" else DataError("cloud 3 is no cloud")
        return batch(self, indices)

    with monkeypatch.context() as patch:
        patch.setattr(ArrayDataset, "batch", fails)
        folder, code = run("parts", "--num_workers", "1")
    line = said(capsys)
    assert code == 1 and "Original" not in line
    words = {"killed": "was killed", "no memory": "not enough memory", "bad data": "cloud 3 is no"}
    assert words[how] in line
    assert run("parts", "--resume")[1] == 0
    assert_same_run(whole, folder)


@pytest.mark.parametrize("error", ["allocator", "MemoryError", "cuda"])
def test_no_memory(run, monkeypatch, capsys, error):
    def step(self, *_):
        if error == "allocator":
            torch.empty(2**50)
        raise MemoryError if error == "MemoryError" else torch.OutOfMemoryError("CUDA out of...")

    monkeypatch.setattr(Trainer, "_step", step)
    assert run("x")[1] == 1
    line = said(capsys)
    assert "not enough memory" in line and "--resume continues" in line


def test_other_errors_are_not_hidden(run, monkeypatch):
    def step(self, *_):
        raise RuntimeError("a mistake in the program")

    monkeypatch.setattr(Trainer, "_step", step)
    with pytest.raises(RuntimeError, match="a mistake"):
        run("x")


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the child processes")
def test_a_peer_that_is_killed(run, tmp_path):
    """Of two processes on this machine, the survivor says so in one sentence and ends."""
    words = ["--config", str(tmp_path / "x.yaml"), "--data.train", str(tmp_path / "a.npz")]
    run("x")
    words += ["--out", str(tmp_path / "two"), "--devices", "2", "--epochs", "100000"]
    path = os.pathsep.join(filter(None, sys.path))
    process = subprocess.Popen(
        [sys.executable, "-m", "dapt", "train", *words],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + 120
    while not (tmp_path / "two" / "last.ckpt").exists():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.1)
    with open(f"/proc/{process.pid}/task/{process.pid}/children") as children:
        peer = int(children.read().split()[0])
    os.kill(peer, signal.SIGKILL)
    lines = process.communicate(timeout=120)[1].splitlines()
    assert process.returncode == 1
    assert not [line for line in lines if "Traceback" in line or "rank0" in line]
    assert "another process of the run ended" in lines[-1]
    assert RunFolder(tmp_path / "two").load() is not None


def test_packages_without_metadata_lose_no_run(run, monkeypatch):
    """As from a source folder on PYTHONPATH, where importlib finds no dapt."""

    def version(name):
        if name == "numpy":
            return "2.0"
        raise PackageNotFoundError(name)

    monkeypatch.setattr(loop, "version", version)
    folder, code = run("run")
    versions = json.loads((folder / "result.json").read_text())["versions"]
    assert code == 0 and versions.pop("python")
    assert versions == {"dapt": dapt.__version__, "numpy": "2.0"}
