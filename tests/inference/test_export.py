"""Exported models against the original: in onnxruntime, in torch's loader and from C++."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import dapt
import dapt_ext
from dapt import cli
from dapt.errors import UsageError
from dapt.inference.export import traced
from support.methods import FAMILY, attached, randomize

ROOT = Path(__file__).parents[2]
needs_onnx = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("onnx", "onnxruntime", "onnxscript"))),
    reason="needs the extra export",
)
SHAPES = [(2, 80), (1, 11), (5, 137)]


def session(path):
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def in_onnxruntime(path, *inputs):
    runtime = session(path)
    given = {node.name: x.numpy() for node, x in zip(runtime.get_inputs(), inputs, strict=True)}
    return torch.from_numpy(runtime.run(None, given)[0])


@torch.no_grad()
def assert_like(model, run, shapes=SHAPES, *more):
    for B, N in shapes:
        points = torch.randn(B, N, 3)
        given = [value[:B] for value in more]
        torch.testing.assert_close(run(points, *given), model(points, *given), rtol=1e-4, atol=1e-4)


@needs_onnx
@pytest.mark.parametrize(
    "method, backbone",
    [
        ("dapt", "point_mae"),
        *(
            pytest.param(*both, marks=pytest.mark.slow)
            for both in (
                ("vpt", "point_bert"),
                ("prefix", "point_mae"),
                ("point_lora", "point_mae"),
                ("adapter", "point_m2ae"),
                ("linear", "point_gpt_s"),
            )
        ),
    ],
)
def test_onnx_says_what_the_model_says(small_backbone, tmp_path, method, backbone):
    model = attached(small_backbone(backbone), method)
    randomize(model)
    path = dapt.export(model, tmp_path / "model.onnx")
    assert model.training and not model.is_merged  # left unchanged
    shapes = [(2, 80), (1, 40), (5, 137)]
    assert_like(model.eval(), lambda points: in_onnxruntime(path, points), shapes)


@pytest.mark.parametrize(
    "method",
    [
        each
        if each == "dapt, positions in each block"
        else pytest.param(each, marks=pytest.mark.slow)
        for each in FAMILY
    ],
)
def test_every_method_takes_any_number_of_clouds_and_points(small_backbone, method):
    model = attached(small_backbone(), method)
    randomize(model)
    program = traced(model.eval()).module()
    assert_like(model, lambda points: program(points, None), [(2, 80), (1, 40), (5, 137)])


@pytest.mark.slow
@needs_onnx
def test_onnx_knows_its_labels_and_needs_no_torch(small_backbone, tmp_path):
    task = dapt.Classification(3, class_names=("bag", "bin", "cup"))
    model = attached(small_backbone(), "dapt", task).eval()
    path = dapt.export(model, tmp_path / "model.onnx", num_points=64)
    assert session(path).get_inputs()[0].shape[1:] == [64, 3]
    points = torch.randn(4, 64, 3)
    np.save(tmp_path / "points.npy", points.numpy())
    script = """
import json, sys
import numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
logits = session.run(["logits"], {"points": numpy.load(sys.argv[2])})[0]
assert "torch" not in sys.modules
notes = session.get_modelmeta().custom_metadata_map
print(json.dumps({"labels": json.loads(notes["labels"]), "logits": logits.tolist()}))
"""
    words = [sys.executable, "-c", script, str(path), str(tmp_path / "points.npy")]
    done = subprocess.run(words, capture_output=True, text=True, env={"PATH": os.environ["PATH"]})
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["labels"] == ["bag", "bin", "cup"]
    with torch.no_grad():
        torch.testing.assert_close(
            torch.tensor(said["logits"]), model(points), rtol=1e-4, atol=1e-4
        )


@pytest.mark.slow
@needs_onnx
def test_onnx_of_hard_clouds(small_backbone, tmp_path):
    """With ties and coincident points, centers and neighbors are those of the kernels."""
    model = attached(small_backbone(), "dapt").eval()
    path = dapt.export(model, tmp_path / "model.onnx")
    lattice = torch.cartesian_prod(*[torch.arange(4.0)] * 3)[None]
    repeated = torch.randn(1, 20, 3).repeat(1, 4, 1)
    with torch.no_grad():
        for points in (lattice, repeated, lattice * 1e-3):
            torch.testing.assert_close(
                in_onnxruntime(path, points), model(points), rtol=1e-4, atol=1e-4
            )


@pytest.mark.slow
@needs_onnx
@pytest.mark.parametrize("kind", ["part", "semantic"])
def test_onnx_labels_points(small_backbone, tmp_path, kind):
    task = dapt.PartSegmentation(3, 6) if kind == "part" else dapt.SemanticSegmentation(4)
    more = [torch.tensor([2, 0, 1, 1, 2])] if kind == "part" else []
    model = attached(small_backbone(), "dapt", task).eval()
    path = dapt.export(model, tmp_path / "model.onnx")
    assert_like(model, lambda *given: in_onnxruntime(path, *given), [(2, 80), (5, 60)], *more)


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A small model and its package, made only once, because it has to be compiled."""
    if shutil.which("g++") is None:
        pytest.skip("pt2 needs a C++ compiler")
    torch.manual_seed(0)
    sizes = {"dim": 24, "depth": 2, "num_heads": 2, "encoder_dim": 24, "encoder_widths": (4, 8, 8)}
    backbone = dapt.create_backbone("point_mae", num_groups=6, group_size=5, **sizes)
    model = dapt.attach(backbone, dapt.Dapt(rank=3), dapt.Classification(4))
    randomize(model)
    path = tmp_path_factory.mktemp("package") / "model.pt2"
    return model.eval(), dapt.export(model, path)


@pytest.mark.slow
def test_a_package_says_what_the_model_says(package):
    model, path = package
    loaded = torch._inductor.aoti_load_package(str(path))
    assert json.loads(loaded.get_metadata()["labels"]) == ["0", "1", "2", "3"]
    assert_like(model, loaded)


@pytest.mark.slow
def test_a_package_runs_from_cpp(package, tmp_path):
    model, path = package
    torch_folder = Path(torch.__file__).parent
    folder = Path(os.environ.get("DAPT_LIBRARIES") or Path(dapt_ext.__file__).parent)
    configure = ["cmake", "-S", str(ROOT / "examples" / "cpp"), "-B", str(tmp_path / "build")]
    configure += [f"-DCMAKE_PREFIX_PATH={torch_folder}", f"-DDAPT_EXT={folder}"]
    for command in (configure, ["cmake", "--build", str(tmp_path / "build")]):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    points = torch.randn(50, 3)
    points = points - points.mean(0)
    points = points / points.norm(dim=1).max()
    cloud = tmp_path / "cloud.xyz"
    np.savetxt(cloud, points.numpy())
    program = str(tmp_path / "build" / "label")
    done = subprocess.run([program, str(path), str(cloud)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    logits = torch.tensor([float(word) for word in done.stdout.split("logits")[1].split()])
    with torch.no_grad():
        torch.testing.assert_close(logits, model(points[None])[0], rtol=1e-3, atol=1e-3)
    wrong = subprocess.run([program, str(path), "none"], capture_output=True, text=True)
    assert wrong.returncode == 1 and wrong.stderr == "label: cannot read none\n"


@pytest.mark.slow
@needs_onnx
def test_the_command(run, tmp_path, capsys):
    folder, code = run("x", epochs=1)
    assert code == 0 and capsys.readouterr()
    assert cli.main(["export", str(folder), "--format", "onnx"]) == 0
    assert capsys.readouterr().out.startswith(f"{folder / 'model.onnx'}, ")
    points = torch.randn(3, 24, 3)
    backbone = dapt.runs.assembly.restore_model(dapt.runs.folder.RunFolder(folder)).eval()
    with torch.no_grad():
        torch.testing.assert_close(
            in_onnxruntime(folder / "model.onnx", points), backbone(points), rtol=1e-4, atol=1e-4
        )
    for words, message in (
        (["--out", "model.h5"], "unknown format 'h5': choose one of onnx, pt2"),
        (["--format", "onnx", "--num_points", "3"], "num_points must be at least 6"),
    ):
        assert cli.main(["export", str(folder), *words]) == 2
        assert message in capsys.readouterr().err


def test_packed_backbones_say_why_not(small_backbone, tmp_path):
    model = dapt.attach(small_backbone("ptv3_tiny"), dapt.Dapt(rank=3), dapt.Classification(3))
    with pytest.raises(UsageError, match="cannot be exported: how many tokens"):
        dapt.export(model, tmp_path / "model.onnx")


def test_a_package_needs_a_compiler(small_backbone, tmp_path, monkeypatch):
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    with pytest.raises(UsageError, match=r"needs a C\+\+ compiler: install one"):
        dapt.export(attached(small_backbone(), "linear").eval(), tmp_path / "model.pt2")
