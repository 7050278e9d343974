"""The remaining commands, and one sentence for whatever is wrong."""

import csv
import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch

from dapt import cli
from support.runs import clouds, lines

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def trained(run):
    folder, code = run("trained", "--with-test")
    assert code == 0
    return folder


def test_evaluate_repeats_the_result_of_the_run(trained, tmp_path, capsys):
    out = tmp_path / "scores.json"
    assert cli.main(["evaluate", str(trained), "--out", str(out)]) == 0
    scores, result = json.loads(out.read_text()), json.loads((trained / "result.json").read_text())
    assert scores["accuracy"] == result["accuracy"]
    assert scores["per_class"] == result["per_class"]
    assert scores["samples"] == sum(row["samples"] for row in scores["per_class"]) == 11
    assert cli.main(["evaluate", str(trained), "--split", "validation", "--out", str(out)]) == 0
    scores = json.loads(out.read_text())
    assert scores["accuracy"] == max(line["validation_accuracy"] for line in lines(trained))
    assert cli.main(["evaluate", str(trained), "--votes", "3", "--out", str(out)]) == 0
    assert json.loads(out.read_text())["votes"] == 3
    assert "mean class accuracy" in capsys.readouterr().out


def test_settings_may_stand_before_the_run(trained, tmp_path, capsys):
    setting, run = ["--data.test", str(tmp_path / "a.npz")], str(trained)
    said = []
    for words in ([*setting, run], [run, *setting], [run]):
        capsys.readouterr()
        assert cli.main(["evaluate", *words]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] != said[2]


def test_predict_agrees_with_evaluate(trained, tmp_path):
    """The share of correct labels is the accuracy, and JSON and CSV agree."""
    test = tmp_path / "b.npz"
    as_json, as_csv = tmp_path / "p.json", tmp_path / "p.csv"
    for out in (as_json, as_csv):
        assert cli.main(["predict", str(trained), str(test), "--out", str(out)]) == 0
    predictions = json.loads(as_json.read_text())
    labels = np.load(test)["labels"]
    right = [int(p["label"]) == label for p, label in zip(predictions, labels, strict=True)]
    assert np.mean(right) == json.loads((trained / "result.json").read_text())["accuracy"]
    for prediction in predictions:
        assert sum(prediction["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        best = max(prediction["probabilities"], key=prediction["probabilities"].get)
        assert prediction["label"] == best
    rows = list(csv.DictReader(as_csv.open()))
    assert [row["label"] for row in rows] == [p["label"] for p in predictions]
    assert float(rows[0]["2"]) == predictions[0]["probabilities"]["2"]


def test_predict_reads_files_of_points(trained, tmp_path):
    points = np.random.default_rng(3).normal(size=(40, 3))
    np.save(tmp_path / "c.npy", points)
    np.savetxt(tmp_path / "c.xyz", points, fmt="%.17g")
    out = tmp_path / "p.json"
    files = [str(tmp_path / name) for name in ("c.npy", "c.xyz")]
    assert cli.main(["predict", str(trained), *files, "--out", str(out)]) == 0
    one, other = json.loads(out.read_text())
    assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-6)


def test_predict_refuses_what_it_cannot_judge(trained, tmp_path, capsys):
    def sentence(points, name="c.npy"):
        np.save(tmp_path / name, points)
        out = tmp_path / "none.json"
        code = cli.main(["predict", str(trained), str(tmp_path / name), "--out", str(out)])
        assert code == 1 and not out.exists()
        return capsys.readouterr().err

    points = np.random.default_rng(3).normal(size=(40, 3))
    assert "has 20 points" in sentence(points[:20])
    points[7] = np.nan
    assert "not finite: point 7" in sentence(points)
    assert "allow_pickle" in sentence(np.array([{}], dtype=object))


def test_info_counts_the_published_model(capsys):
    config = "configs/scanobjectnn_hardest.yaml"
    path = os.path.join(os.path.dirname(__file__), "..", "..", config)
    assert cli.main(["info", "--config", path, "--batch_size", "2"]) == 0
    assert "trained 1,087,771 of" in capsys.readouterr().out


def test_doctor_and_help(capsys):
    assert cli.main(["doctor"]) == 0 and "kernels: dapt_ext" in capsys.readouterr().out
    assert cli.main(["--help"]) == 0 and "predict" in capsys.readouterr().out
    assert cli.main(["nothing"]) == 2


def bad(tmp_path, **changed):
    return str(clouds(tmp_path / "bad.npz", **changed))


def nan_points():
    points = np.ones((6, 24, 3), np.float32)
    points[4, 3, 1] = np.nan
    return points


@pytest.mark.parametrize(
    "flags, code, words",
    [
        (["--data.train", "missing.npz"], 1, "missing.npz"),
        (["--nonsense", "1"], 2, "nonsense"),
        (["--method.rnak", "4"], 2, "rnak"),
        (["--method", "nonsense"], 2, "unknown method"),
        (["--backbone", "nonsense"], 2, "nonsense"),
        (["--epochs", "0"], 2, "epochs must be at least 1"),
        (["--patience", "3", "--validation", "0"], 2, "patience needs a validation split"),
        (["--epochs", "many"], 2, "epochs"),
        (["--backbone.num_groups", "25"], 2, "num_groups"),
        (["--backbone.group_size", "25"], 2, "group_size"),
        (["--num_points", "25"], 2, "num_points"),
        (["--backbone.checkpoint", "missing.pth"], 1, "missing.pth"),
        (["--config", "missing.yaml"], 2, "missing.yaml"),
        (["--validation", "0"], 2, "validation"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_flags_are_one_sentence(run, capsys, flags, code, words):
    folder, got = run("x", *flags)
    written = capsys.readouterr().err.strip().splitlines()
    assert got == code, written
    assert words in written[-1] and written[-1].startswith("dapt train: ")
    assert not any("Traceback" in line for line in written)
    assert not folder.exists()


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"points": nan_points(), "labels": np.arange(6) % 3}, "cloud 4"),
        ({"labels": np.arange(37) % 3 - 1}, "label"),
        ({"labels": np.arange(37), "class_names": np.array(["a", "b"])}, "label"),
        ({"labels": np.arange(5)}, "labels of"),
        ({"points": np.ones((37, 24, 2), np.float32)}, "points of"),
        ({"points": np.array([{}], dtype=object)}, "bad.npz"),
    ],
    ids=["nan", "negative", "beyond", "few labels", "flat", "pickle"],
)
def test_bad_data_is_one_sentence(run, tmp_path, capsys, changed, words):
    folder, got = run("x", "--data.train", bad(tmp_path, **changed))
    written = capsys.readouterr().err.strip().splitlines()
    assert got == 1, written
    assert words in written[-1] and not any("Traceback" in line for line in written)
    assert not folder.exists()


@pytest.mark.parametrize("head", ["point_mae", pytest.param("linear", marks=pytest.mark.slow)])
def test_two_processes_train_and_evaluate_as_one(run, tmp_path, head):
    # With a batch norm over eight rows and a rate of 1e-2, a change of 1e-7 in the weights changes
    # the loss of a single process by a percent in the second epoch; hence the small rate.
    rate = {"point_mae": "1e-4", "linear": "1e-2"}[head]
    flags = ["--epochs", "2", "--learning_rate", rate]
    # dropout masks differ between processes
    task = {"name": "classification", "dropout": 0.0, "head": head}
    method = {"name": "dapt", "rank": 3, "dropout": 0.0, "drop_path": 0.0}
    alone, _ = run("alone", *flags, "--with-test", task=task, method=method)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += ["--master_addr", "127.0.0.1", "--master_port", str(port), "-m", "dapt", "train"]
    command += ["--config", str(tmp_path / "alone.yaml"), *flags]
    command += ["--data.train", str(tmp_path / "a.npz"), "--data.test", str(tmp_path / "b.npz")]
    command += ["--out", str(tmp_path / "both")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for one, two in zip(lines(alone), lines(tmp_path / "both"), strict=True):
        for loss in ("train_loss", "validation_loss", "test_loss"):
            assert one[loss] == pytest.approx(two[loss], rel=1e-4), loss
    counts = [
        [row["samples"] for row in json.loads((folder / "result.json").read_text())["per_class"]]
        for folder in (alone, tmp_path / "both")
    ]
    assert counts[0] == counts[1] and sum(counts[0]) == 11


def test_compiled_training_learns_the_same(run):
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        pytest.skip("this CPU's compiler is not under test")
    still = {
        "epochs": 1,
        "augmentation": "none",
        "method": {"name": "linear"},
        "task": {"name": "classification", "dropout": 0.0},
    }
    plain, compiled = run("plain", **still)[0], run("compiled", compile=True, **still)[0]
    for one, other in zip(lines(plain), lines(compiled), strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-3)
