"""What dapt does with only one extra: run `python scenarios.py train` in such an environment.

A scenario ends with "as promised". It uses the installed dapt and does without pytest.
"""

import contextlib
import io
import os
import sys
from pathlib import Path

import numpy as np
import torch

import dapt
from dapt import cli
from dapt.data import read_cloud

SMALL = dict(dim=12, depth=2, num_heads=2, encoder_dim=12, encoder_widths=[4, 8, 8])
SMALL |= dict(num_groups=6, group_size=5)


def command(*argv: str) -> tuple[int, str]:
    """The exit code of `dapt argv`, and everything that it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            code = cli.main(list(argv))
        except SystemExit as end:  # raised by --help
            code = end.code or 0
    return code, printed.getvalue()


def refused(function, *arguments) -> str:
    """The sentence of the error that a function raises."""
    try:
        function(*arguments)
    except dapt.DaptError as error:
        return str(error)
    raise AssertionError(f"{function} did not refuse {arguments}")


def asks_for(extra: str, sentence: str) -> None:
    assert f"pip install 'dapt[{extra}]'" in sentence, sentence
    assert "Traceback" not in sentence and sentence.strip().count("\n") == 0, sentence


def adapted(method: object) -> dapt.AdaptedModel:
    """Saves and reloads a small network with a method."""
    model = dapt.attach(dapt.create_backbone("point_mae", **SMALL), method, dapt.Classification(3))
    points = torch.randn(2, 32, 3)
    expected = model.eval()(points)
    model.save_adapter("adapter")
    weights = {name: value.clone() for name, value in dapt.detach(model).state_dict().items()}
    backbone = dapt.create_backbone("point_mae", **SMALL)
    backbone.load_state_dict(weights)
    again = dapt.load_adapter("adapter", backbone=backbone).eval()
    torch.testing.assert_close(again(points), expected)
    return again


def every_command_helps_or_says_what_it_needs() -> None:
    assert command("--help")[0] == 0
    for name in cli.COMMANDS:
        code, printed = command(name, "--help")
        assert code == 0 or (code == 1 and "pip install 'dapt[" in printed), printed
    code, printed = command("doctor")
    assert code == 0 and "kernels: dapt_ext" in printed, printed


def clouds(path: str) -> str:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(24, 32, 3)).astype(np.float32)
    np.savez(path, points=points, labels=np.arange(24) % 3)
    return path


def bare() -> None:
    adapted(dapt.Dapt(rank=3))
    every_command_helps_or_says_what_it_needs()
    assert "pip install 'dapt[train]'" in command("doctor")[1]
    code, printed = command("train", "--data.train", clouds("a.npz"), "--out", "run")
    assert code == 1
    asks_for("train", printed)
    dapt.data.load("npz", {"train": "a.npz"}, "train")
    Path("a.h5").touch()
    asks_for("train", refused(dapt.data.load, "npz", {"train": "a.h5"}, "train"))
    for name in ("a.ply", "a.las"):
        Path(name).touch()
        asks_for("files", refused(read_cloud, name))
    asks_for("hub", refused(dapt.create_backbone, "point_mae", "hf://a/b/c.pth"))
    asks_for("peft", refused(lambda: adapted(dapt.Peft.of("lora"))))
    asks_for("export", refused(dapt.export, adapted(dapt.Dapt(rank=3)), "model.onnx"))
    code, printed = command("serve", "run")
    assert code == 1
    asks_for("serve", printed)


def train() -> None:
    clouds("a.npz"), clouds("b.npz")
    small = [f"--backbone.{key}={value}" for key, value in SMALL.items()]
    argv = [
        "--backbone=point_mae",
        "--backbone.checkpoint=none",
        *small,
        "--method.rank=3",
        "--epochs=1",
        "--batch_size=8",
        "--out=run",
    ]
    code, printed = command("train", "--data.train=a.npz", "--data.test=b.npz", *argv)
    assert code == 0 and "test accuracy" in printed, printed
    code, printed = command("evaluate", "run")
    assert code == 0 and "accuracy" in printed, printed
    every_command_helps_or_says_what_it_needs()
    assert all(command(name, "--help")[0] == 0 for name in ("train", "compare", "info"))
    short = ["--config=npz", "--method=linear", "--data.train=a.npz", "--epochs=1", "--out=named"]
    code, printed = command("train", *short, "--batch_size=8", "--warmup_epochs=0")
    assert code == 0 and "validation accuracy" in printed, printed
    code, printed = command("train", "--data.train=a.npz", "--method=peft:lora", *argv)
    assert code != 0
    asks_for("peft", printed)
    swept = ["--methods=linear", "--config=npz", "--data.train=a.npz", "--out=swept"]
    code, printed = command("compare", *swept, "--launcher=slurm")
    assert code != 0
    asks_for("slurm", printed)


def slurm() -> None:
    from dapt.training.slurm import Queue, SlurmOptions

    assert Queue(Path("jobs"), SlurmOptions(cpus=1)).is_here  # there is no Slurm in tests
    every_command_helps_or_says_what_it_needs()


def files() -> None:
    points = np.random.default_rng(0).normal(size=(20, 3))
    import laspy
    import trimesh

    trimesh.PointCloud(points).export("a.ply")
    las = laspy.create()
    las.xyz = points
    las.write("a.las")
    for name in ("a.ply", "a.las"):
        np.testing.assert_allclose(np.asarray(read_cloud(name)), points, atol=0.01)
    every_command_helps_or_says_what_it_needs()


def peft() -> None:
    adapted(dapt.Peft.of("lora"))
    every_command_helps_or_says_what_it_needs()


def export() -> None:
    import onnxruntime

    model = adapted(dapt.Dapt(rank=3))
    session = onnxruntime.InferenceSession(dapt.export(model, "model.onnx"))
    points = torch.randn(2, 32, 3)
    (logits,) = session.run(None, {"points": points.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), model(points), rtol=1e-4, atol=1e-4)
    every_command_helps_or_says_what_it_needs()


def hub() -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    sentence = refused(dapt.create_backbone, "point_mae", "hf://a/b/c.pth")
    assert "cannot be fetched" in sentence, sentence
    every_command_helps_or_says_what_it_needs()


def serve() -> None:
    from dapt.inference.serving.app import create_app
    from dapt.inference.serving.shelf import Shelf

    assert "/predict" in create_app(Shelf()).openapi()["paths"]
    every_command_helps_or_says_what_it_needs()


def view() -> None:
    from dapt.view.evidence import embedding

    how, places = embedding(np.random.default_rng(0).normal(size=(9, 4)))
    assert how == "t-SNE" and places.shape == (9, 2)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
    print("as promised")
