"""A newcomer's first hour: helpful help, runs that move, files of all kinds, mistakes."""

import csv
import dataclasses
import json
import os
import shutil
import subprocess
import sys

import docstring_parser
import numpy as np
import pytest
import yaml

import dapt
from dapt import cli
from dapt.data.registry import names, options_of
from dapt.methods import METHODS
from dapt.models import BACKBONES
from dapt.runs.options import PretrainOptions
from dapt.tasks import TASKS
from support.runs import TINY, clouds, lines

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = [PretrainOptions, *map(options_of, names()), *METHODS.values(), *TASKS.values()]
SETTINGS = list(dict.fromkeys([*SETTINGS, *map(type, BACKBONES.values())]))


@pytest.fixture
def first(run):
    folder, code = run("first", "--with-test")
    assert code == 0
    return folder


def said(capsys):
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize("kind", SETTINGS, ids=lambda kind: kind.__name__)
def test_every_setting_is_explained(kind):
    docs = [docstring_parser.parse(each.__doc__ or "") for each in kind.__mro__]
    explained = {param.arg_name for doc in docs for param in doc.params}
    assert {field.name for field in dataclasses.fields(kind)} <= explained
    assert docs[0].short_description and not docs[0].short_description.startswith(
        f"{kind.__name__}("
    )


def test_help_says_what_the_settings_mean_and_what_there_is_to_choose(run, capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--method", "linear", "--data", "folder", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for words in (
        "--method NAME The adaptation method: adapter, dapt",
        "options of data folder",
        "--epochs N Number of passes over the training clouds. (default: 300)",
        "--out PATH The run folder. (required)",
    ):
        assert words in text
    assert "<class '" not in text and "Literal" not in text and "--method.rank" not in text


def test_before_training_a_run_says_what_trains_on_what(run, caplog):
    run("x", "--with-test", epochs=1)
    told = caplog.messages
    assert "data: train 28, validation 9, test 11 clouds, 24 points, 3 classes" in told
    assert any(line.startswith("machine: cpu, 1 threads, precision fp32") for line in told)
    assert any(line.startswith("dapt on point_mae: trains ") for line in told)
    assert all(
        len(line) <= 80 for line in told if line.startswith(("data:", "machine:", "dapt on"))
    )


def test_another_name_drops_the_options_of_the_one_before(run, tmp_path):
    folder, code = run("x", "--method", "linear", epochs=1)
    assert code == 0
    assert yaml.safe_load((folder / "config.yaml").read_text())["method"] == {"name": "linear"}
    words = ["--config", "synthetic", "--data", "npz", "--data.train", str(tmp_path / "a.npz")]
    from dapt.runs.settings import parse

    settings = parse("dapt train", [*words, "--out", "x"])
    assert settings.data.name == "npz" and settings.data.get("num_points") is None
    assert settings.backbone.name == "point_mae_tiny"


def test_a_moved_run_finds_its_files_beside_it(run, tmp_path, monkeypatch, capsys):
    home = tmp_path / "home"
    (home / "data").mkdir(parents=True)
    clouds(home / "data" / "a.npz"), clouds(home / "data" / "b.npz", samples=11, seed=1)
    (home / "c.yaml").write_text(yaml.safe_dump(TINY))
    monkeypatch.chdir(home)
    words = ["--config", "c.yaml", "--data.train", "data/a.npz", "--data.test", "data/b.npz"]
    assert cli.main(["train", *words, "--out", "runs/a"]) == 0
    stored = yaml.safe_load((home / "runs" / "a" / "config.yaml").read_text())
    assert stored["data"]["train"] == str(home / "data" / "a.npz")
    moved = tmp_path / "moved"
    monkeypatch.chdir(tmp_path)
    home.rename(moved)
    out = str(tmp_path / "scores.json")
    assert cli.main(["evaluate", str(moved / "runs" / "a"), "--out", out]) == 0
    before = json.loads((moved / "runs" / "a" / "result.json").read_text())
    assert json.loads((tmp_path / "scores.json").read_text())["accuracy"] == before["accuracy"]
    assert cli.main(["train", "--resume", str(moved / "runs" / "a")]) == 0
    shutil.move(moved / "data", tmp_path / "elsewhere")
    assert cli.main(["evaluate", str(moved / "runs" / "a")]) == 1
    assert "a.npz" in said(capsys)
    there = f"--data.test={tmp_path}/elsewhere/b.npz"
    there = [there, f"--data.train={tmp_path}/elsewhere/a.npz"]
    assert cli.main(["evaluate", str(moved / "runs" / "a"), *there, "--out", out]) == 0


def test_resume_by_the_folder_alone_and_for_longer_where_the_schedule_allows(run, capsys):
    flat = {"learning_rate": 1e-3, "min_learning_rate": 1e-3}
    long, _ = run("long", epochs=4, **flat)
    short, _ = run("short", epochs=2, **flat)
    assert cli.main(["train", "--resume", str(short), "--epochs", "4"]) == 0
    assert lines(short) == lines(long)
    falling, _ = run("falling", epochs=2)
    capsys.readouterr()
    assert cli.main(["train", "--resume", str(falling), "--epochs", "4"]) == 2
    assert "its learning rate decays over 2 epochs" in said(capsys)


def test_a_start_that_fails_leaves_nothing(run, monkeypatch, capsys):
    def broken(*_):
        raise dapt.DaptError("no room")

    with monkeypatch.context() as patch:
        patch.setattr("dapt.training.adaptation.Adaptation.prepare", broken)
        folder, code = run("x")
    assert code == 1 and not folder.exists()
    folder, code = run("x", "--learning_rate", "0.002")
    assert code == 0


def test_a_set_smaller_than_a_batch_is_one_batch(run, caplog):
    folder, code = run("x", batch_size=64, epochs=1)
    assert code == 0 and lines(folder)[0]["step"] == 1
    assert "28 clouds do not fill batch_size 64: using batches of 28" in caplog.messages


def test_predict_takes_folders_and_tables_and_leaves_out_what_is_bad(first, tmp_path, capsys):
    scans = tmp_path / "scans"
    scans.mkdir()
    points = np.random.default_rng(3).normal(size=(40, 3))
    np.save(scans / "a.npy", points)
    comma = {"delimiter": ",", "fmt": "%.17g", "comments": ""}
    np.savetxt(scans / "b.csv", points[:, [2, 0, 1]], header="z,x,y", **comma)
    np.savetxt(scans / "c.txt", np.c_[points, points], header="x, y, z, r, g, b", **comma)
    np.savetxt(scans / "d.txt", points, fmt="%.17g")
    np.savetxt(scans / "e.csv", points, delimiter=";", fmt="%.17g")
    (scans / "f.ply").write_text("nothing")
    out = tmp_path / "p.json"
    assert cli.main(["predict", str(first), str(scans), "--out", str(out)]) == 1
    assert "1 file was skipped" in said(capsys)
    found = json.loads(out.read_text())
    assert [each["file"][-5:] for each in found] == ["a.npy", "b.csv", "c.txt", "d.txt", "e.csv"]
    for each in found[1:]:
        assert each["probabilities"] == pytest.approx(found[0]["probabilities"], abs=1e-6)


def test_predict_with_a_run_of_folds_names_one(run, tmp_path, capsys):
    task = {"name": "few_shot", "way": 3, "shot": 3, "queries": 3, "folds": 2}
    folder, code = run("few", task=task, epochs=1, validation=0.0)
    assert code == 0
    assert cli.main(["predict", str(folder), str(tmp_path / "b.npz")]) == 2
    assert said(capsys).endswith(f"such as {folder}/fold_0")
    assert cli.main(["predict", str(folder / "fold_0"), str(tmp_path / "b.npz")]) == 0


def test_a_logger_by_name_gets_every_epoch_and_the_loss_of_steps(run, capsys):
    folder, code = run("x", "--logger", "csv", batch_size=2, epochs=1)
    assert code == 0
    [table] = folder.rglob("metrics.csv")
    rows = list(csv.DictReader(table.open()))
    losses = {int(row["step"]): float(row["step_loss"]) for row in rows if row.get("step_loss")}
    assert list(losses) == [10]
    assert any(row.get("validation_accuracy") for row in rows)
    capsys.readouterr()
    for name in ("nothing", "nowhere.Logger"):
        folder, code = run("y", "--logger", name, epochs=1)
        assert code == 2 and name in said(capsys) and not folder.exists()


@pytest.mark.parametrize(
    "line, wanted",
    [
        ("dapt ev", {"evaluate "}),
        ("dapt evaluate --spl", {"--split "}),
        ("dapt train --epo", {"--epochs "}),
    ],
)
def test_the_shell_completes(line, wanted, tmp_path):
    asked = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "IFS": " "}
    asked |= {"_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "words"), "_ARGCOMPLETE_IFS": "|"}
    subprocess.run([sys.executable, "-m", "dapt"], env=os.environ | asked, check=False)
    assert set((tmp_path / "words").read_text().split("|")) == wanted


def test_train_alone_says_what_it_needs(capsys):
    assert cli.main(["train"]) == 2 and "required: out, data.train" in said(capsys)


MISTAKES = {
    "--batch-size 4": "there is no option --batch-size: did you mean --batch_size?",
    "--epcohs 4": "there is no option --epcohs: did you mean --epochs?",
    "--rank 4": "there is no option --rank: did you mean --method.rank?",
    "--method.rnak 4": "did you mean --method.rank?",
    "--data.tarin x.npz": "did you mean --data.train?",
    "--lr 1": "there is no option --lr",
    "--wholly-unknown 1": "see --help for all options",
    "--method lora": "unknown method 'lora': did you mean peft:lora?",
    "--method Dapt": "(did you mean dapt?)",
    "--method daptt": "(did you mean dapt?)",
    "--method peft:nothing": "unknown method 'peft:nothing'",
    "--method density": "density:dapt",
    "--method full:dapt": "method 'full' cannot be combined",
    "--backbone point-mae": "(did you mean point_mae?)",
    "--backbone pointmae": "(did you mean point_mae?)",
    "--data modelnet": "unknown dataset 'modelnet'",
    "--data scanobjectNN": "(did you mean scanobjectnn?)",
    "--task classify": "(did you mean classification?)",
    "--config npy": "unknown recipe 'npy'",
    "--config nowhere.yaml": "cannot read the config nowhere.yaml",
    "--config elsewhere/npz.yaml": "the recipe of this name is --config npz",
    "--epochs many": "epochs",
    "--epochs 0": "epochs must be at least 1",
    "--batch_size 0": "batch_size must be at least 1",
    "--learning_rate 0": "learning_rate must be above 0",
    "--learning_rate -1": "learning_rate must be above 0",
    "--validation 1.5": "validation must be at least 0 and below 1",
    "--validation 0": "validation 0 needs test data",
    "--ema 2": "ema must be at least 0 and below 1",
    "--seed -1": "seed must be at least 0",
    "--precision fp16": "precision",
    "--accelerator gpu": "accelerator",
    "--augmentation flip": "augmentation",
    "--method.rank 0": "rank must be from 1 to 256",
    "--method.rank 2.5": "rank",
    "--backbone.num_groups 99": "num_groups",
    "--backbone.dim 13": "num_heads must divide dim=13",
    "--backbone.checkpoint nowhere.pth": "nowhere.pth cannot be read",
    "--data.train nowhere.npz": "nowhere.npz",
    "--data.up w": "up",
    "--num_points 99": "num_points must be at most the 24 points",
    "--resume nowhere": "nowhere is not a run folder",
}


@pytest.mark.parametrize("flags", MISTAKES)
def test_a_mistake_is_one_sentence_that_helps(run, capsys, flags):
    folder, code = run("x", *flags.split())
    told = capsys.readouterr().err.strip().splitlines()
    assert code in (1, 2) and told[-1].startswith("dapt train: ") and MISTAKES[flags] in told[-1]
    assert not any("Traceback" in line for line in told) and not folder.exists()


def test_no_gpu_is_one_sentence(run, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    folder, code = run("x", "--accelerator", "cuda")
    assert code == 2 and "torch finds no GPU here" in said(capsys) and not folder.exists()


@pytest.mark.parametrize(
    "method, task, words",
    [
        ("dapt", dapt.Classification(3), "method must be the settings of one, as dapt.Dapt"),
        (dapt.Dapt, dapt.Classification(3), "method must be the settings of one"),
        (dapt.Dapt(rank=3), "classification", "task must be the settings of one"),
        (dapt.Dapt(rank=3), 15, "task must be the settings of one, as dapt.Classification(15)"),
    ],
)
def test_attach_says_what_it_wants(small_backbone, method, task, words):
    with pytest.raises(dapt.DaptError) as error:
        dapt.attach(small_backbone(), method, task=task)
    assert words in str(error.value)


@pytest.mark.slow
def test_several_processes_print_once(run, tmp_path):
    run("x", epochs=1)
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "dapt"]
    words += ["train", "--config", str(tmp_path / "x.yaml"), "--out", str(tmp_path / "both")]
    words += ["--data.train", str(tmp_path / "a.npz")]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("run folder:") == 1 and done.stderr.count("machine: cpu x 2") == 1


def test_several_processes_refuse_once(run, tmp_path):
    run("x", epochs=1)
    words = ["train", "--config", str(tmp_path / "x.yaml"), "--out", str(tmp_path / "both")]
    words += ["--data.train", str(tmp_path / "none.npz"), "--accelerator", "cpu", "--devices", "3"]
    command = [sys.executable, "-m", "dapt", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and done.stderr.count("dapt train: cannot read") == 1
    assert "Traceback" not in done.stderr
