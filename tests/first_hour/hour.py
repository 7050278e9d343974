"""A newcomer's first hour as a script, for an empty folder and the Python that runs it:

    python tests/first_hour/hour.py

It runs README's commands as written, but with less to compute, and its Python; then a folder of
meshes, scenes, a custom method, and a folder that moves.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
QUICK = {  # flags added to README's commands
    "train": "--epochs 1 --warmup_epochs 0 --accelerator cpu",
    "compare": "--epochs 1 --warmup_epochs 0 --data.train_size 60 --data.test_size 30",
}


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def dapt(*words, code: int = 0) -> str:
    """Runs a command, which must exit with this code and without a traceback; returns its
    output."""
    done = subprocess.run(
        [sys.executable, "-m", "dapt", *map(str, words)], capture_output=True, text=True
    )
    print("dapt", *words, flush=True)
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    return done.stdout + done.stderr


def has(package: str) -> bool:
    """Whether this Python has a package from one of the extras."""
    command = [sys.executable, "-c", f"import {package}"]
    return subprocess.run(command, capture_output=True).returncode == 0


def own_data() -> None:
    """Makes what a newcomer has: an npz file, folders of meshes, scenes, a scan, a published
    file."""
    import torch
    import trimesh

    import dapt

    rng = np.random.default_rng(0)
    labels = np.arange(30) % 3
    np.savez("a.npz", points=rng.normal(size=(30, 1024, 3)), labels=labels)
    for number in range(6):
        size = rng.uniform(0.5, 2, 3)
        for name, mesh in {
            "box": trimesh.creation.box(size),
            "ball": trimesh.creation.icosphere(radius=size[0]),
        }.items():
            Path("shapes", name).mkdir(parents=True, exist_ok=True)
            mesh.export(f"shapes/{name}/{number}.ply")
    Path("rooms").mkdir()
    for number in range(3):
        floor = rng.uniform(0, 2, (4000, 3)) * [1, 1, 0.01]
        wall = rng.uniform(0, 2, (4000, 3)) * [1, 0.01, 1]
        points, labels = np.concatenate([floor, wall]), np.repeat([0, 1], 4000)
        np.savez(f"rooms/{number}.npz", points=points, labels=labels)
    trimesh.PointCloud(rng.normal(size=(3000, 3))).export("scan.ply")
    torch.save(dapt.create_backbone("point_mae", "none").state_dict(), "pretrain.pth")


def readme() -> None:
    """Runs README's block of commands in order."""
    [block] = [each for each in blocks("README.md", "sh") if "dapt train" in each]
    seen = set()
    for line in block.splitlines():
        command, *words = shlex.split(line, comments=True)[1:] or [""]
        if not line.startswith("dapt") or command == "serve":  # runs until it is stopped
            continue
        seen.add(command)
        if command == "compare":
            words[words.index("--seeds") + 1] = "1"
        if command == "export" and not has("onnx"):
            assert "pip install" in dapt(command, *words, code=2)
            words[words.index("--format") + 1], words[-1] = "pt2", "model.pt2"
            if shutil.which("g++") is None:
                assert "C++ compiler" in dapt(command, *words, code=2)
                continue
        dapt(command, *words, *QUICK.get(command, "").split())
    assert {"train", "evaluate", "predict", "compare", "view", "info", "export"} <= seen
    for code in blocks("README.md", "python"):
        exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})


def own_model() -> None:
    """Labels scenes and meshes, and uses a trained model in Python."""
    import dapt as toolkit

    told = dapt("predict", "runs/rooms", "rooms/0.npz")
    assert "8,000 points" in told
    dapt("predict", "runs/shapes", "shapes/box", "--out", "labels.csv")
    model = toolkit.load_run("runs/shapes")
    [answer] = model.predict("shapes/box/0.ply")
    assert f"shapes/box/0.ply,{answer.label}," in Path("labels.csv").read_text()


def own_method() -> None:
    """Uses the method of CONTRIBUTING.md from a file."""
    [code] = blocks("CONTRIBUTING.md", "python")
    Path("bitfit.py").write_text(code)
    words = ["--import", "bitfit.py", "--method", "bitfit", "--config", "npz"]
    dapt("train", *words, "--data.train", "a.npz", "--out", "runs/own", *QUICK["train"].split())
    assert "add --import" in dapt("evaluate", "runs/own", "--split", "validation", code=2)
    dapt("evaluate", "runs/own", "--split", "validation", "--import", "bitfit.py")


def moved() -> None:
    """Moves everything to another folder and uses it there."""
    home = Path.cwd()
    home.rename(home.with_name("moved"))
    os.chdir(home.with_name("moved"))
    dapt("evaluate", "runs/a", "--split", "validation")
    dapt("train", "--resume", "runs/a")
    dapt("predict", "runs/rooms", "rooms/1.npz")


def mistakes() -> None:
    """The most common mistakes; tests/first_hour/test_first_hour.py has the others."""
    assert "needs weights" in dapt(
        *"train --backbone point_mae --data.train a.npz --out runs/x".split(), code=2
    )
    assert "did you mean --epochs?" in dapt(
        *"train --config npz --epcohs 3 --data.train a.npz --out runs/x".split(), code=2
    )
    assert not Path("runs/x").exists()


if __name__ == "__main__":
    assert "dapt_ext" in dapt("doctor") and "usage" in dapt("--help")
    for step in (own_data, readme, own_model, own_method, moved, mistakes):
        step()
    print("an hour well spent")
