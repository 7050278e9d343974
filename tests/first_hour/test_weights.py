"""A backbone's initial weights are stated, never guessed."""

import logging

import pytest
import torch
import yaml

import dapt
from dapt import cli
from dapt.models.pretrained import RANDOM, SHIPPED
from dapt.runs.settings import Settings, parse
from support.runs import TINY, lines

pytestmark = pytest.mark.usefixtures("one_thread")

UNSAID = {key: value for key, value in TINY["backbone"].items() if key != "checkpoint"}
WORDS = ["--data.train", "a.npz", "--out", "x"]


@pytest.mark.parametrize("method", ["dapt", "linear", "full"])
@pytest.mark.parametrize("checkpoint", [{}, {"checkpoint": None}])
def test_a_random_backbone_is_refused_unless_it_is_meant(run, capsys, method, checkpoint):
    folder, code = run("x", method=method, backbone=UNSAID | checkpoint)
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert code == 2 and not folder.exists()
    assert "backbone point_mae needs weights" in told and "--backbone.checkpoint none" in told
    flags = ["--backbone.checkpoint", "none"]
    assert run("x", *flags, method=method, backbone=UNSAID, epochs=1)[1] == 0


def test_compare_refuses_before_its_first_run(tmp_path, capsys):
    flags = ["--methods", "linear", "--data.train", "a.npz", "--out", str(tmp_path / "c")]
    assert cli.main(["compare", *flags]) == 2
    told = capsys.readouterr().err
    assert told.startswith("dapt compare: backbone point_mae needs weights")


def test_settings_made_in_python_say_it_too():
    tree = parse("dapt train", [*WORDS, "--backbone.checkpoint", "none"]).tree()
    assert Settings.of(tree).backbone.get("checkpoint") == RANDOM
    tree["backbone"]["checkpoint"] = None
    with pytest.raises(dapt.DaptError, match="needs weights"):
        Settings.of(tree)
    tree["backbone"] = {"name": "point_mae_tiny"}
    assert Settings.of(tree).backbone.get("checkpoint") == SHIPPED


@pytest.mark.parametrize(
    "method, words",
    [("full", "and all of them train: from scratch"), ("dapt", "and most of them stay frozen")],
)
def test_a_run_says_what_becomes_of_random_weights(run, caplog, method, words):
    run("x", method=method, epochs=1)
    assert f"the backbone has random weights, {words}" in caplog.messages


def test_pretraining_begins_with_random_weights(run):
    config, code = run("x", command="pretrain", backbone=UNSAID, num_points=24, epochs=1)
    assert code == 0


def test_none_is_no_file(run, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    folder, code = run("x", epochs=1)
    assert code == 0
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["backbone"]["checkpoint"] == RANDOM


def test_a_run_of_an_earlier_version_goes_on(run):
    flat = {"learning_rate": 1e-3, "min_learning_rate": 1e-3}
    long, _ = run("long", epochs=2, **flat)
    short, _ = run("short", epochs=1, **flat)
    tree = yaml.safe_load((short / "config.yaml").read_text())
    tree["backbone"]["checkpoint"] = None
    (short / "config.yaml").write_text(yaml.safe_dump(tree))
    dapt.load_run(short)
    assert cli.main(["train", "--resume", str(short), "--epochs", "2"]) == 0
    assert lines(short) == lines(long)


def test_the_tiny_backbone_has_its_weights_by_default(caplog):
    assert parse("dapt train", ["--config", "npz", *WORDS]).backbone.get("checkpoint") == SHIPPED
    with caplog.at_level(logging.WARNING):
        default = dapt.create_backbone("point_mae_tiny", num_groups=16, class_token=False)
        assert not caplog.messages
    shipped = dapt.create_backbone("point_mae_tiny", SHIPPED)
    assert torch.equal(default.blocks[0].mlp.fc1.weight, shipped.blocks[0].mlp.fc1.weight)


@pytest.mark.parametrize("name, fields", [("point_mae_tiny", {"depth": 2}), ("point_mae", {})])
def test_in_python_random_weights_are_a_warning_unless_they_are_meant(caplog, name, fields):
    with caplog.at_level(logging.WARNING):
        dapt.create_backbone(name, **fields)
    assert any(f"{name} has random weights" in line for line in caplog.messages)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        dapt.create_backbone(name, RANDOM, **fields)
    assert not caplog.messages


def test_shipped_weights_of_other_sizes_are_refused(run, capsys):
    folder, code = run("x", backbone={"name": "point_mae_tiny", "depth": 2})
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert code == 2 and "not with depth=2" in told and "none for random weights" in told
