"""Code in the README and the pages is run: Python in full, commands as far as their arguments."""

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import dapt
from dapt.cli import COMMANDS
from dapt.methods import METHODS
from dapt.models import BACKBONES
from dapt.runs.settings import ADAPTATION, PRETRAINING, parse

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
PAGES = [page for page in PAGES if "results" not in page.parts]
WALK = ROOT / "docs" / "start.md"
RUNNABLE = ("train", "pretrain", "compare")


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def commands(page):
    """The `dapt ...` lines of a page, each as its words."""
    text = (
        "\n".join(blocks(page, "sh"))
        + "\n"
        + "\n".join(code for code in re.findall(r"`(dapt [^`\n]*)`", page.read_text()))
    )
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if "dapt" in words[:5] and "..." not in line and not line.startswith("pip"):
            yield words[words.index("dapt") + 1 :]


def names(paths):
    return [str(path.relative_to(ROOT)) for path in paths]


@pytest.fixture
def desk(tmp_path, monkeypatch, own_names):
    """A folder with the files that snippets mention."""
    monkeypatch.chdir(tmp_path)
    torch.save(dapt.create_backbone("point_mae", "none").state_dict(), "pretrain.pth")
    rng = np.random.default_rng(0)
    clouds = rng.normal(size=(20, 1024, 3)).astype(np.float32)
    np.savez("a.npz", points=clouds, labels=np.arange(20) % 2)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    return tmp_path


PYTHON = [page for page in PAGES if blocks(page, "python") and page != WALK]


@pytest.mark.parametrize("page", PYTHON, ids=names(PYTHON))
def test_python_of_a_page_runs(page, desk):
    code = "\n".join(blocks(page, "python"))
    for package in ("peft", "onnxruntime"):
        if package in code:
            pytest.importorskip(package)
    exec(compile(code, str(page), "exec"), {"__name__": "__main__"})


SHELL = [page for page in PAGES if any(True for _ in commands(page))]


@pytest.mark.parametrize("page", SHELL, ids=names(SHELL))
def test_commands_of_a_page_are_understood(page, desk, capsys):
    for command, *words in commands(page):
        assert command in COMMANDS, command
        words = [word for word in words if word not in ("RUN", "FILES")]
        if not words:
            continue
        if command in RUNNABLE:
            if command == "compare":  # its own flags first; the rest belong to a run
                own = ("--methods", "--seeds", "--jobs", "--launcher", "--search", "--reference")
                words = without(words, *own, *(w for w in words if w.startswith("--slurm.")))
            given = " ".join(words)
            if "--out" not in given:
                words += ["--out", "x"]
            if "npz" in given and "--data.train" not in given:
                words += ["--data.train", "a.npz"]
            parse(f"dapt {command}", words, PRETRAINING if command == "pretrain" else ADAPTATION)
        else:
            module = importlib.import_module(f"dapt.cli.{command}")
            with pytest.raises(SystemExit):
                module.run(["--help"])
            offered = capsys.readouterr().out
            for word in words:
                if word.startswith("--"):
                    assert word.partition("=")[0] in offered, f"dapt {command} has no {word}"


def without(words, *flags):
    kept, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif word in flags:
            skip = True
        else:
            kept.append(word)
    return kept


@pytest.mark.slow
def test_the_walk_through_as_a_newcomer_takes_it(desk):
    """docs/start.md in order: Python in one session, commands as processes."""
    session = {"__name__": "__main__"}
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    for language, code in re.findall(r"```(python|sh)\n(.*?)```", WALK.read_text(), re.DOTALL):
        if language == "python":
            exec(compile(code, str(WALK), "exec"), session)
        elif not code.startswith("pip"):
            [(command, *words)] = [shlex.split(code)[1:]]
            done = subprocess.run(
                [sys.executable, "-m", "dapt", command, *words],
                env=environment,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr
    assert session["chances"].sum() == pytest.approx(1, abs=1e-4)
    assert Path("scan.json").is_file() and Path("runs/shapes/adapter").is_dir()


def test_every_method_and_backbone_has_a_page():
    nav = (ROOT / "mkdocs.yml").read_text()
    for method in METHODS:
        assert (ROOT / f"docs/methods/{method}.md").is_file(), method
        assert f"methods/{method}.md" in nav, method
    pages = [page.stem for page in (ROOT / "docs/backbones").glob("*.md")]
    for backbone in BACKBONES:
        family = max((page for page in pages if backbone.startswith(page)), key=len, default=None)
        assert family, backbone
        assert f"backbones/{family}.md" in nav, backbone
