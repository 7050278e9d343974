"""Adapters pushed to and loaded from a stub of the hub."""

import json
import logging
import re

import numpy as np
import pytest
import torch
import yaml

import dapt
from dapt import cli
from dapt.adapters import adapter_files
from dapt.adapters.adapter_files import BackboneRecord
from dapt.data.preprocessing import Preprocessing
from dapt.errors import DaptError, UsageError

NAME = "someone/chairs"
READY = Preprocessing(64)


def shipped():
    return dapt.create_backbone("point_mae_tiny", checkpoint="shipped", num_groups=16)


@pytest.fixture
def model():
    names = ("bag", "b|d", "cup")
    model = dapt.attach(shipped(), dapt.Dapt(rank=5), dapt.Classification(3, class_names=names))
    with torch.no_grad():
        for _, weight in model.own_parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    return model.eval()


def warnings_of(caplog):
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


def test_there_and_back(hub, model, caplog):
    commit = model.push_to_hub(
        NAME, preprocessing=READY, license="mit", data="chairs of ours", metrics={"accuracy": 0.9}
    )
    assert set(hub.repositories[NAME]["main"]) == {*adapter_files.NAMES, "README.md"}
    points = torch.randn(2, 64, 3)
    with caplog.at_level(logging.WARNING, "dapt"):
        loaded = dapt.AdaptedModel.from_hub(NAME, revision=commit).eval()
    assert not warnings_of(caplog)
    assert loaded.adapter.source == f"hf://{NAME}@{commit}"
    with torch.no_grad():
        assert torch.equal(loaded(points), model(points))
    [answer] = dapt.TrainedModel.from_hub(NAME, commit).predict(np.random.rand(99, 3))
    assert answer.label in ("bag", "b|d", "cup")


def test_only_the_two_files_are_fetched(hub, model):
    model.push_to_hub(NAME)
    hub.commit(NAME, "main", {"evil.pkl": b"cos\nsystem\n", "adapter_model.bin": b"x"})
    hub.asked.clear()
    dapt.AdaptedModel.from_hub(NAME)
    fetched = {path.split("/")[-1] for method, path in hub.asked}
    assert fetched == set(adapter_files.NAMES)


def test_the_commit_is_said_and_kept(hub, model, caplog):
    first = model.push_to_hub(NAME)
    hub.repositories[NAME]["v1"] = hub.repositories[NAME][first]
    with torch.no_grad():
        for _, weight in model.own_parameters():
            weight.mul_(2)
    second = model.push_to_hub(NAME)
    assert first != second
    for revision, commit in ((None, second), ("main", second), ("v1", first)):
        caplog.clear()
        loaded = dapt.AdaptedModel.from_hub(NAME, revision)
        assert loaded.adapter.source == f"hf://{NAME}@{commit}"
        [said] = warnings_of(caplog)
        assert f"is at commit {commit}; revision='{commit}' pins it" in said


def test_both_files_are_of_one_commit(hub, model):
    """Holds even if somebody pushes in between."""
    first = model.push_to_hub(NAME)
    points = torch.randn(2, 64, 3)
    with torch.no_grad():
        wanted = model(points)
    with torch.no_grad():
        for _, weight in model.own_parameters():
            weight.mul_(2)
    found = hub.found

    def pushed_meanwhile(path):
        answer = found(path)
        if path.endswith(adapter_files.CONFIG):
            hub.found = found
            model.push_to_hub(NAME)
        return answer

    hub.found = pushed_meanwhile
    loaded = dapt.AdaptedModel.from_hub(NAME, "main").eval()
    assert loaded.adapter.source == f"hf://{NAME}@{first}"
    with torch.no_grad():
        assert torch.equal(loaded(points), wanted)


def test_the_card(hub, model, capsys):
    told = {"license": "mit", "data": "chairs", "metrics": {"accuracy": 0.912}}
    model.push_to_hub(NAME, preprocessing=READY, **told)
    card = hub.repositories[NAME]["main"]["README.md"].decode()
    _, head, page = card.split("---\n", 2)
    told = yaml.safe_load(head)
    assert told["license"] == "mit" and told["library_name"] == "dapt"
    assert {"dapt", "point-cloud", "classification"} <= set(told["tags"])
    [result] = told["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == 0.912 and result["dataset"]["name"] == "chairs"
    with model.pretrained() as backbone:
        fingerprint = BackboneRecord.of(backbone, model.adapter.method.owns).fingerprint
    for words in (fingerprint, "| data | chairs |", "| accuracy | 0.9120 |", "| license | mit |",
                  r"3 labels of clouds: bag, b\|d, cup", "num_points=64", "rank=5"):  # fmt: skip
        assert words in page, words
    assert cli.main(["info", f"hf://{NAME}@main"]) == 0
    assert fingerprint in capsys.readouterr().out
    [code] = re.findall(r"```python\n(.*?)for answer", page, re.DOTALL)
    space = {}
    exec(code, space)  # exactly as printed on the card
    assert space["model"].adapter.task.num_classes == 3


def test_a_run_tells_its_data_and_scores(hub, run):
    folder, code = run("x", epochs=1)
    assert code == 0
    model = dapt.load_run(folder)
    commit = model.push_to_hub(NAME)
    card = hub.repositories[NAME][commit]["README.md"].decode()
    result = json.loads((folder / "result.json").read_text())
    assert "| data | npz (a.npz) |" in card and str(folder.parent) not in card
    assert f"| accuracy | {result['accuracy']:.4f} on the {result['split']} split |" in card
    assert 'checkpoint="pretrain.pth")' in card

    with pytest.raises(UsageError, match="whose weights do not come with the package"):
        dapt.AdaptedModel.from_hub(NAME, commit)
    with model.pretrained() as backbone:
        state = dict(backbone.state_dict())
    torch.save(state, folder / "pretrain.pth")
    loaded = dapt.TrainedModel.from_hub(NAME, commit, checkpoint=folder / "pretrain.pth")
    clouds = np.random.default_rng(0).normal(size=(3, 40, 3))
    assert loaded.predict(clouds) == model.predict(clouds)
    given = dapt.TrainedModel.from_hub(NAME, commit, backbone=dapt.detach(loaded))
    assert given.predict(clouds) == model.predict(clouds)


def test_strangers_files_are_refused_in_a_sentence(hub, model, tmp_path):
    model.push_to_hub(NAME)
    files = dict(hub.repositories[NAME]["main"])
    config = json.loads(files[adapter_files.CONFIG])

    def load(**given):
        return dapt.AdaptedModel.from_hub(NAME, **given)

    torch.save(shipped().state_dict(), tmp_path / "small.pth")
    config["backbone"]["config"]["dim"] = 3 * 2**17
    hub.commit(NAME, "main", {adapter_files.CONFIG: json.dumps(config).encode()})
    with pytest.raises(DaptError, match="describes a larger network than"):
        load(checkpoint=tmp_path / "small.pth")
    with pytest.raises(UsageError, match="name their file with checkpoint="):
        load()
    weights = files[adapter_files.WEIGHTS]
    hub.commit(NAME, "main", files | {adapter_files.WEIGHTS: weights[:-1] + b"x"})
    with pytest.raises(DaptError, match="is damaged"):
        load()
    hub.commit(NAME, "main", {adapter_files.CONFIG: b"\x80\x04."})
    with pytest.raises(DaptError, match="is not JSON"):
        load()


def test_what_the_hub_refuses_is_a_sentence(hub, model):
    with pytest.raises(DaptError, match=f"hf://{NAME} cannot be fetched: ") as error:
        dapt.AdaptedModel.from_hub(NAME)
    assert "\n" not in str(error.value)
    with pytest.raises(DaptError, match=f"hf://{NAME} cannot be pushed to: ") as error:
        model.push_to_hub(NAME, token="wrong")
    assert "\n" not in str(error.value)
    for wrong in ("chairs", "a/b/c", "../..", "a/..", "", "hf://a/b"):
        for call in (dapt.AdaptedModel.from_hub, model.push_to_hub):
            with pytest.raises(UsageError, match="named owner/repository"):
                call(wrong)
    model.push_to_hub(NAME, token="right", private=True)
    assert "Bearer right" in hub.tokens
