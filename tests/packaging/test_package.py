"""The package itself: quick to import, names where they are promised, and a single version."""

import ast
import re
import subprocess
import sys

import project
import pytest

import dapt
from dapt import cli


def test_help_and_version_import_no_torch():
    code = (
        "import sys, dapt.cli as c; c.main(['--help']); c.main(['--version']); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"dapt {dapt.__version__}" in done.stdout
    assert not {"torch", "numpy"} & set(done.stdout.split())


def test_every_name_is_there_and_known_to_type_checkers():
    tree = ast.parse((project.ROOT / "python" / "dapt" / "__init__.py").read_text())
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module.startswith("dapt.")
        for alias in node.names
    }
    assert imported == set(dapt.__all__) <= set(dir(dapt))
    for name in set(dapt.__all__) - {"__version__"}:
        assert getattr(dapt, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        dapt.nothing  # noqa: B018


def test_import_dapt_is_enough_for_data():
    code = "import dapt; print(len(dapt.data.load('synthetic', {'train_size': 3}, 'train')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "3\n", done.stderr


def test_one_version():
    cited = re.search(
        r"^version: (.*)$", (project.ROOT / "CITATION.cff").read_text(), re.MULTILINE
    )[1]
    assert dapt.__version__ == project.PROJECT["version"] == cited.strip("\"'")


def test_recipes_go_by_name(capsys):
    assert cli.main(["info", "--config", "npz", "--num_points", "64", "--batch_size", "2"]) == 0
    assert cli.main(["info", "--config", "npy"]) == 2
    assert "unknown recipe 'npy'" in capsys.readouterr().err
    assert cli.main(["info", "--config", "nowhere/npz.yaml"]) == 2
    assert "the recipe of this name is --config npz" in capsys.readouterr().err
