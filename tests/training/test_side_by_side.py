"""Parallel runs of a comparison, here and via submitit: the same bits, stopped together."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml

from dapt import cli
from dapt.runs.folder import RunFolder
from dapt.training import compare
from dapt.training.launching import environment
from dapt.training.slurm import SlurmOptions
from support.runs import TINY, assert_same_run, clouds

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def words(tmp_path, monkeypatch):
    """A function that gives the command line of a comparison of tiny single-threaded runs."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    clouds(tmp_path / "a.npz")
    clouds(tmp_path / "b.npz", samples=11, seed=1)

    def of(out, *flags, epochs=2, methods="dapt,linear"):
        (tmp_path / "base.yaml").write_text(yaml.safe_dump(TINY | {"epochs": epochs}))
        given = ["--methods", methods, "--seeds", "1", "--config", tmp_path / "base.yaml"]
        given += ["--data.train", tmp_path / "a.npz", "--data.test", tmp_path / "b.npz"]
        return [str(each) for each in ("compare", *given, "--out", tmp_path / out, *flags)]

    return of


def test_jobs_and_slurm_give_the_same_runs(words, tmp_path, caplog, monkeypatch):
    """Sequential runs, parallel runs, and jobs of submitit's local executor agree."""
    with monkeypatch.context() as here:  # in this process, which is faster and not under test
        here.setattr(compare, "train", lambda run, _: cli.main(["train", *run.arguments]))
        assert cli.main(words("plain")) == 0
    assert cli.main(words("jobs", "--jobs", "2")) == 0
    assert "run 2 of 2 is complete" in caplog.text
    slurm = ["--launcher", "slurm", "--jobs", "2", "--slurm.time", "5", "--slurm.cpus", "1"]
    assert cli.main(words("slurm", *slurm)) == 0
    assert "there is no Slurm" in caplog.text
    for method in ("dapt", "linear"):
        for other in ("jobs", "slurm"):
            assert_same_run(
                tmp_path / f"plain/{method}/seed_0", tmp_path / other / method / "seed_0"
            )
    rows = [
        json.loads((tmp_path / o / "comparison.json").read_text())["rows"]
        for o in ("plain", "jobs", "slurm")
    ]
    assert len({str([(row["method"], row["scores"]) for row in each]) for each in rows}) == 1
    assert "accuracy" in (tmp_path / "jobs/dapt/seed_0.log").read_text()
    assert list((tmp_path / "slurm" / "jobs").glob("*_log.out"))


def test_a_run_that_fails_is_told_of_once_the_others_are_complete(words, tmp_path, capfd):
    folder = tmp_path / "out" / "dapt" / "seed_0"
    folder.mkdir(parents=True)
    (folder / "last.ckpt").write_bytes(b"damaged")
    assert cli.main(words("out", "--jobs", "2")) == 1
    said = capfd.readouterr().err.strip().splitlines()[-1]
    assert "the run of dapt with seed 0 ended with exit code 1" in said
    assert "every checkpoint in" in said
    assert (tmp_path / "out/linear/seed_0/result.json").is_file()


@pytest.mark.parametrize("flags", [(), ("--launcher", "slurm", "--slurm.time", "5")])
def test_all_are_stopped_and_go_on(words, tmp_path, flags):
    command = [sys.executable, "-m", "dapt", *words("out", "--jobs", "2", *flags, epochs=100_000)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    runs = [RunFolder(tmp_path / "out" / method / "seed_0") for method in ("dapt", "linear")]
    try:
        end = time.monotonic() + 90
        while not all(run.last.exists() for run in runs):
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1].splitlines()
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130
    assert said[-1] == "dapt compare: stopped: repeat the command to continue"
    for run in runs:
        run.wait()  # nobody trains there any longer
        epochs = len(run.metrics.read_text().splitlines())
        assert epochs and not run.result.exists()


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (("--jobs", "0"), "--jobs: must be at least 1, got 0"),
        (("--slurm.gpus", "1"), "--slurm.gpus needs --launcher slurm"),
        (("--launcher", "slurm", "--slurm.time", "0"), "time must be at least 1, got 0"),
        (("--launcher", "pbs"), "invalid choice: 'pbs'"),
    ],
)
def test_mistakes(words, capsys, flags, sentence):
    assert cli.main(words("out", *flags)) == 2
    assert sentence in capsys.readouterr().err


def test_what_slurm_is_asked_for(tmp_path):
    """The file that is passed to sbatch."""
    slurm = pytest.importorskip("submitit.slurm.slurm")
    options = SlurmOptions(partition="gpu", time=90, gpus=1, memory=32, setup="module load cuda")
    given = {name.removeprefix("slurm_"): value for name, value in options.parameters().items()}
    given = {
        name: value for name, value in given.items() if value is not None and name != "local_setup"
    }
    translated = slurm.SlurmExecutor._equivalence_dict()
    given = {translated.get(name, name): value for name, value in given.items()}
    given["mem"] = f"{given['mem']}GB"
    text = slurm._make_sbatch_string(command="train", folder=tmp_path, **given)
    for line in ("partition=gpu", "time=90", "gpus-per-node=1", "mem=32GB", "cpus-per-task=4"):
        assert f"#SBATCH --{line}\n" in text
    assert "\nmodule load cuda\n" in text


def test_each_has_a_gpu_of_its_own(words, monkeypatch):
    from dapt.runs.settings import parse

    _, *given = words("x")
    chosen = [word for word in given if word not in ("--methods", "dapt,linear", "--seeds", "1")]
    settings = parse(
        "dapt train", [*chosen, "--accelerator", "auto", "--backbone.checkpoint", "none"]
    )
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    taken = [environment(1, slot, settings)["CUDA_VISIBLE_DEVICES"] for slot in range(3)]
    assert taken == ["0", "1", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert environment(1, 1, settings)["CUDA_VISIBLE_DEVICES"] == "7"
