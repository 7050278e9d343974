"""Configs that are not valid settings end in one sentence."""

import logging
import re

import numpy as np
import pytest

from dapt import cli
from dapt.cli import main
from dapt.errors import UsageError, shown
from dapt.runs.folder import RunFolder
from dapt.runs.paths import found

BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in range(20)
)


@pytest.mark.parametrize(
    "text, message",
    [
        (BOMB, "aliases expand"),
        ("a: &a [*a]\n", "contains it"),
        ("a: &a {<<: *a}\n", "contains it|merg"),
        ("a: " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("a: " + "{b: " * 5000 + "}" * 5000, "nested too deeply"),
        ("method: 5\n", "method must be a name"),
        ("method: [dapt]\n", "method must be a name"),
        ("data: 2024-99-99\n", "invalid value"),
        ("epochs: " + "9" * 5000, "invalid value"),
        ("method:\n", "data"),  # an empty section counts as absent, so only data is missing
        ("seed: 18446744073709551616\n", "seed"),
        ("learning_rate:\n", "learning_rate must have a value"),
        ("a: !!python/object/apply:os.system [x]\n", "not YAML"),
        ("\x00", "not YAML"),
    ],
)
def test_a_config_that_is_none(tmp_path, capsys, text, message):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    more = [] if "data" in message else ["--data.train", "a.npz"]
    assert main(["train", "--config", str(path), "--out", str(tmp_path / "run"), *more]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and len(said) < 1500
    assert re.search(message, said), said


@pytest.mark.parametrize("command", ["predict", "evaluate"])
@pytest.mark.parametrize(
    "text", ["a: 1\n", "method: dapt\n", "data: {}\nmethod: {}\n", "epochs: 3\ndata:\n", ""]
)
def test_a_damaged_run(tmp_path, capsys, command, text):
    (tmp_path / "config.yaml").write_text(text)
    np.save(tmp_path / "a.npy", np.zeros((9, 3)))
    files = [str(tmp_path / "a.npy")] if command == "predict" else []
    assert main([command, str(tmp_path), *files]) in (1, 2)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "config" in said
    with pytest.raises(UsageError):
        RunFolder(tmp_path).settings()


def test_names_do_not_reach_the_terminal_raw(capsys, caplog):
    assert shown("a\x1b[2J\nb\u202e\udc80é") == "a\\x1b[2J\\nb\\u202e\\udc80é"
    assert main(["evil\x1b[31m"]) == 2
    assert "\x1b" not in capsys.readouterr().err
    assert (
        cli._Shown("%(message)s").format(
            logging.LogRecord("x", 30, "", 0, "a %s", ("\x1b[2J\nb",), None)
        )
        == "a \\x1b[2J\\nb"
    )


def test_a_path_that_no_disk_can_hold_is_looked_for_like_others(tmp_path):
    long = "x" * 300
    tree = found({"data": {"train": long}, "out": "y"}, tmp_path)
    assert tree["data"]["train"].endswith(long)
