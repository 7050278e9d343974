"""A run that is killed, stopped or damaged ends, once resumed, like an uninterrupted one."""

import errno
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

import dapt
from dapt.runs.folder import RunFolder
from dapt.training import loop as training
from support.runs import TINY, Killed, assert_same_run, clouds, kill_at, lines

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("step", [0, 1, 4, 5, 8])  # three steps per epoch
@pytest.mark.parametrize("fields", [{}, {"accumulate": 2, "ema": 0.9}], ids=["plain", "more"])
def test_killed_and_resumed_is_uninterrupted(run, monkeypatch, step, fields):
    fields = fields | {"checkpoint_seconds": 0.0}
    whole, _ = run("whole", **fields)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, step)
        run("parts", **fields)
    folder, code = run("parts", "--resume", **fields)
    assert code == 0
    assert_same_run(whole, folder)


def test_a_killed_pretraining_goes_on_by_the_same_command(run, monkeypatch):
    how = {"command": "pretrain", "num_points": None, "checkpoint_seconds": 0.0, "ema": 0.9}
    how["backbone"] = TINY["backbone"] | {"checkpoint": None}  # as if it were not given
    whole, _ = run("whole", **how)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 4)
        run("parts", **how)
    folder, code = run("parts", "--resume", **how)
    assert code == 0
    assert lines(whole) == lines(folder)
    assert (whole / "backbone.safetensors").read_bytes() == (
        folder / "backbone.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_checkpoint_falls_back_on_the_one_before(run, monkeypatch, damage):
    whole, _ = run("whole")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 7)
        run("parts")
    last = RunFolder(whole.parent / "parts").last
    content = bytearray(last.read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
    else:
        content = b""
    last.write_bytes(content)
    folder, code = run("parts", "--resume")
    assert code == 0
    assert_same_run(whole, folder)


def test_no_whole_checkpoint_is_said_in_one_sentence(run, capsys):
    folder, _ = run("x")
    for path in (RunFolder(folder).last, RunFolder(folder).previous):
        path.write_bytes(b"nothing")
    capsys.readouterr()
    assert run("x", "--resume")[1] == 1
    assert "every checkpoint" in capsys.readouterr().err.splitlines()[-1]


def test_ctrl_c_saves_and_says_how_to_go_on(run, monkeypatch, capsys):
    whole, _ = run("whole")
    step, handler = training.Trainer._step, signal.getsignal(signal.SIGINT)

    def interrupted(self, at, batch):
        step(self, at, batch)
        if at == 4:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(training.Trainer, "_step", interrupted)
        _, code = run("parts")
    assert code == 130 and "--resume" in capsys.readouterr().err.splitlines()[-1]
    assert signal.getsignal(signal.SIGINT) is handler
    assert_same_run(whole, run("parts", "--resume")[0])


def test_a_complete_run_resumed_stays_as_it_is(run):
    whole, _ = run("whole")
    run("again")
    assert_same_run(whole, run("again", "--resume")[0])


def test_a_run_keeps_its_settings_and_its_folder(run, capsys):
    run("x")
    assert run("x")[1] == 2 and "--resume" in capsys.readouterr().err
    assert run("x", "--resume", "--learning_rate", "0.5")[1] == 2
    assert "learning_rate" in capsys.readouterr().err.splitlines()[-1]


def test_a_full_disk_is_one_sentence_and_the_run_goes_on_later(run, monkeypatch, capsys):
    whole, _ = run("whole")
    write, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 9:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        folder, code = run("parts")
    assert code == 1
    assert "disk is full" in capsys.readouterr().err.splitlines()[-1]
    assert {path.name for path in folder.rglob(".*")} <= {".lock"}  # no partial file
    assert_same_run(whole, run("parts", "--resume")[0])


@pytest.mark.slow
def test_sigkill_at_random_moments(run, tmp_path):
    """Real processes, killed while they start, train, evaluate or write."""
    flags = ["--checkpoint_seconds", "0", "--epochs", "40"]
    whole, _ = run("whole", *flags)
    command = [sys.executable, "-m", "dapt", "train", "--config", str(tmp_path / "whole.yaml")]
    command += ["--data.train", str(tmp_path / "a.npz"), "--out", str(tmp_path / "killed")]
    command += [*flags, "--resume"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    seed = random.randrange(1000)
    chance = random.Random(seed)
    killed = 0
    for _ in range(3):
        child = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        child.stdout.readline()  # running: its imports are done
        time.sleep(chance.uniform(0, 0.7))
        killed += child.poll() is None
        child.kill()
        child.communicate()
    print(f"seed {seed}: killed {killed} times")
    assert killed
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert_same_run(whole, tmp_path / "killed")


def test_two_processes_do_not_train_in_one_folder(run, tmp_path, capsys):
    """The second process learns who holds the folder; a dead process holds nothing."""
    folder, hold = tmp_path / "x", "import sys, time; print(flush=True); time.sleep(60)"
    script = f"from dapt.runs.folder import RunFolder\nwith RunFolder({str(folder)!r}).locked():\n"
    child = subprocess.Popen(
        [sys.executable, "-c", f"{script}    {hold}"], stdout=subprocess.PIPE, text=True
    )
    child.stdout.readline()
    assert run("x", "--resume")[1] == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"is in use by process {child.pid} on" in said and "another --out" in said
    child.kill()
    child.communicate()
    assert run("x", "--resume")[1] == 0


@pytest.mark.parametrize("change", ["data", "backbone"])
def test_a_run_does_not_go_on_with_other_inputs(run, tmp_path, monkeypatch, capsys, change):
    checkpoint = tmp_path / "weights.pth"
    backbone = TINY["backbone"] | {"checkpoint": str(checkpoint)}

    def save_backbone(seed):
        torch.manual_seed(seed)
        fields = {
            key: value
            for key, value in TINY["backbone"].items()
            if key not in ("name", "checkpoint")
        }
        torch.save(dapt.create_backbone("point_mae", **fields).state_dict(), checkpoint)

    save_backbone(0)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 4)
        run("x", backbone=backbone)
    if change == "data":
        clouds(tmp_path / "a.npz", seed=5)
    else:
        save_backbone(1)
    assert run("x", "--resume", backbone=backbone)[1] == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"the {'training data' if change == 'data' else 'backbone'} of the run" in said


@pytest.mark.parametrize("harm", ["damaged", "gone"])
@pytest.mark.parametrize("when", ["in between", "at the end"])
def test_the_best_adapter_is_checked(run, monkeypatch, capsys, harm, when):
    if when == "in between":
        with monkeypatch.context() as patch, pytest.raises(Killed):
            kill_at(patch, 7)
            run("x")
    folder = run("x")[0]  # it will not start again where it has begun
    result = folder / "result.json"
    before = result.read_bytes() if result.exists() else None
    weights = folder / "adapter" / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(content) if harm == "damaged" else weights.unlink()
    capsys.readouterr()
    assert run("x", "--resume")[1] == 1
    assert "is damaged or missing" in capsys.readouterr().err.splitlines()[-1]
    assert (result.read_bytes() if result.exists() else None) == before
