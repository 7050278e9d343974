"""`dapt info` on adapter folders: what a stranger needs to know about an adapter."""

import json
import re

import pytest
import torch

import dapt
from dapt import cli
from dapt.adapters import adapter_files
from dapt.adapters.adapter_files import BackboneRecord


def said(capsys, *words):
    assert cli.main(["info", *map(str, words)]) == 0
    return capsys.readouterr().out


@pytest.fixture
def shipped(tmp_path):
    """An adapter on the backbone that comes with the package, with a different number of
    patches."""
    backbone = dapt.create_backbone("point_mae_tiny", checkpoint="shipped", num_groups=16)
    task = dapt.Classification(3, class_names=("bag", "b\x1b[31mn", "cup"))
    model = dapt.attach(backbone, dapt.Dapt(rank=5), task)
    model.save_adapter(tmp_path / "gift")
    return model, tmp_path / "gift"


def test_it_says_what_loads_it(shipped, capsys):
    model, folder = shipped
    text = said(capsys, folder)
    with model.pretrained() as backbone:
        fingerprint = BackboneRecord.of(backbone, model.adapter.method.owns).fingerprint
    weights = sum(value.numel() for value in model.own_state().values())
    for words in ("dapt: rank=5", "3 labels of clouds: bag", fingerprint, f"{weights:,} numbers"):
        assert words in text, words
    assert "\x1b" not in text and r"b\x1b[31mn" in text
    space = {"dapt": dapt}
    code = re.search(r"load it\s+(backbone = .*)\n\s+(model = .*)\n", text)
    for line in code.groups():
        exec(line, space)
    points = torch.randn(2, 64, 3)
    with torch.no_grad():
        assert torch.equal(space["model"](points), model.eval()(points))


def test_other_weights_are_not_called_shipped(tmp_path, capsys):
    backbone = dapt.create_backbone("point_mae_tiny", checkpoint="none")
    model = dapt.attach(backbone, dapt.Vpt(), dapt.Classification(2))
    model.save_adapter(tmp_path)
    text = said(capsys, tmp_path)
    assert '"point_mae_tiny", checkpoint="pretrain.pth")' in text


def test_a_run_tells_its_data_and_score(run, capsys):
    folder, code = run("x", epochs=1)
    assert code == 0 and capsys.readouterr()
    result = json.loads((folder / "result.json").read_text())
    for path in (folder, folder / "adapter"):
        text = said(capsys, path)
        assert "as in training: num_points=24" in text
        assert "a.npz" in text and f"accuracy {result['accuracy']:.4f} on the" in text
    (folder / "result.json").write_text('{"metric": []}')
    assert "score" not in said(capsys, folder)


def test_damaged_folders_are_refused_in_a_sentence(shipped, tmp_path, capsys):
    _, folder = shipped
    weights = folder / adapter_files.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    for path, message in ((folder, "it is damaged"), (tmp_path / "none", "cannot be read")):
        assert cli.main(["info", str(path)]) == 1
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
