"""Published files are recognized by content, fully accounted for, and refused when damaged."""

import dataclasses
import io
import os
import pickle
import re
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch

import dapt
from dapt.errors import DaptError
from dapt.models import checkpoints
from dapt.models.checkpoints import find_layout, load_weights, read_state
from dapt.models.layouts import LAYOUTS, plain_renames

PUBLISHED = ("point_bert", "point_m2ae", "recon")


def plain_file(backbone, prefix=""):
    """A backbone's weights under the published names and in the published shapes."""
    renames = plain_renames(prefix)
    state = {}
    for entry, value in backbone.state_dict().items():
        for pattern, replacement in renames:
            entry = re.sub(pattern, replacement, entry)
        is_convolution = ".encoder." in f".{entry}" and value.ndim == 2
        state[entry] = value[..., None].clone() if is_convolution else value.clone()
    return state


def save(state, path, **others):
    torch.save({"base_model": state, **others}, path)
    return path


def assert_same_weights(one, other):
    expected = other.state_dict()
    for name, value in one.state_dict().items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_load_whole(published_layout, tmp_path, name):
    state = published_layout(name)
    path = save(state, tmp_path / "whatever.name", optimizer={"lr": 1e-3}, epoch=300)

    backbone = dapt.create_backbone(name, checkpoint=path)

    report = backbone.load_report
    assert set(report.loaded) == set(backbone.state_dict()) and not report.fresh
    assert len(report.loaded) + len(report.left_over) == len(state)
    assert "not a part of the network" not in report.left_over.values()
    layout = find_layout(state, LAYOUTS, "")
    for entry, value in backbone.state_dict().items():
        assert torch.equal(value.flatten(), state[layout.key(entry)].flatten()), entry


@pytest.mark.parametrize("name", PUBLISHED)
def test_each_missing_weight_is_named(published_layout, monkeypatch, name):
    state = published_layout(name)
    layout = find_layout(state, LAYOUTS, "")
    backbone = dapt.create_backbone(name)
    for entry in list(backbone.state_dict())[::3]:
        key = layout.key(entry)
        damaged = {k: v for k, v in state.items() if k != key}
        monkeypatch.setattr(checkpoints, "read_state", lambda path, state=damaged: state)
        with pytest.raises(DaptError, match=f"'{re.escape(key)}' is missing"):
            load_weights(backbone, "file.pth")


@pytest.mark.parametrize("name", PUBLISHED)
def test_each_misshapen_weight_is_named(published_layout, monkeypatch, name):
    state = published_layout(name)
    layout = find_layout(state, LAYOUTS, "")
    backbone = dapt.create_backbone(name)
    before = {entry: value.clone() for entry, value in backbone.state_dict().items()}
    for entry in list(before)[::7]:
        key = layout.key(entry)
        damaged = state | {key: torch.cat([state[key].reshape(-1), torch.zeros(1)])}
        monkeypatch.setattr(checkpoints, "read_state", lambda path, state=damaged: state)
        with pytest.raises(DaptError, match=f"'{re.escape(key)}' is .* needs"):
            load_weights(backbone, "file.pth")
    for entry, value in backbone.state_dict().items():
        assert torch.equal(value, before[entry]), entry


def test_point_mae_pre_training_has_no_class_token(golden, tmp_path):
    case = golden("point_mae_pretrain_tiny")
    path = save(case.weights(), tmp_path / "pretrain.pth")
    sizes = {"dim": 48, "depth": 3, "num_heads": 3, "encoder_dim": 48}
    backbone = dapt.create_backbone("point_mae", checkpoint=path, **sizes)

    assert set(backbone.load_report.fresh) == {"cls_token", "cls_pos"}
    again = dapt.create_backbone("point_mae", checkpoint=path, **sizes)
    assert_same_weights(backbone, again)  # including the class token, on which adapters rely
    assert all("decoder" in reason for reason in backbone.load_report.left_over.values())


@pytest.mark.parametrize("prefix", ["", "ACT_encoder.", "module.", "module.base_model."])
def test_fine_tuned_act_and_prefixed_files(small_backbone, tmp_path, prefix):
    wanted = small_backbone(seed=1)
    state = plain_file(wanted, prefix)
    state[prefix + "cls_head_finetune.0.weight"] = torch.zeros(2, 2)
    backbone = small_backbone(seed=2)
    report = load_weights(backbone, save(state, tmp_path / "file.pth"))
    assert_same_weights(backbone, wanted)
    assert len(report.left_over) == 1 and not report.fresh


def test_our_own_files_and_half_precision(small_backbone, tmp_path):
    for name in ("point_mae", "point_bert", "point_m2ae"):
        wanted = small_backbone(name, seed=1).half()
        path = tmp_path / "named.pth"  # the content decides, not the name
        safetensors.torch.save_file(wanted.state_dict(), path)
        backbone = small_backbone(name, seed=2)
        load_weights(backbone, path)
        assert_same_weights(backbone.half(), wanted)


@pytest.mark.parametrize("objective", ["rebuild", "classify", "both"])
def test_backbone_of_our_own_pre_training(small_backbone, tmp_path, objective):
    backbone = small_backbone(class_token=False, seed=1)
    autoencoder = dapt.models.MaskedAutoencoder(
        backbone, decoder_depth=1, objective=objective, num_classes=5
    )
    torch.save(autoencoder.state_dict(), tmp_path / "pretrain.pth")
    loaded = small_backbone(seed=2)
    report = load_weights(loaded, tmp_path / "pretrain.pth")
    assert set(report.fresh) == {"cls_token", "cls_pos"}
    for entry, value in backbone.state_dict().items():
        assert torch.equal(loaded.state_dict()[entry], value), entry


def test_pre_training_starts_from_another_objective_or_from_a_backbone(small_backbone, tmp_path):
    fields = dataclasses.asdict(small_backbone().config)
    del fields["class_token"]

    def create(objective, checkpoint="none"):
        return dapt.create_autoencoder(
            "point_mae", checkpoint, objective=objective, num_classes=5, decoder_depth=1, **fields
        )

    for objective in ("rebuild", "classify"):
        first = create(objective)
        torch.save(first.state_dict(), tmp_path / "first.pth")
        torch.save(first.backbone.state_dict(), tmp_path / "backbone.pth")
        state, random = create("both", tmp_path / "first.pth").state_dict(), create("both")
        for entry, value in random.state_dict().items():
            kept = first.state_dict().get(entry)
            assert state[entry].shape == value.shape
            assert kept is None or torch.equal(state[entry], kept), entry
        backbone = create("both", tmp_path / "backbone.pth").backbone
        assert_same_weights(backbone, first.backbone)

    broken = first.state_dict()
    del broken["classify.1.bias"]
    torch.save(broken, tmp_path / "broken.pth")
    with pytest.raises(DaptError, match=r"'classify\.1\.bias' is missing"):
        create("classify", tmp_path / "broken.pth")


def test_a_network_too_small_for_the_file_is_refused(small_backbone, tmp_path):
    path = save(plain_file(small_backbone(depth=4)), tmp_path / "deep.pth")
    with pytest.raises(DaptError, match=r"no place for 'blocks\.blocks\.3\."):
        load_weights(small_backbone(depth=3), path)


def test_the_wrong_network_is_named(small_backbone, published_layout, tmp_path):
    path = save(published_layout("point_bert"), tmp_path / "bert.pth")
    with pytest.raises(DaptError, match="for the network 'point_bert'"):
        dapt.create_backbone("point_mae", checkpoint=path)


def test_accuracies_of_published_files_are_numpy_numbers(small_backbone, tmp_path):
    state = plain_file(small_backbone())
    metrics = {"acc": np.float64(85.18), "best": np.float32(1), "epoch": np.int64(3)}
    path = save(state, tmp_path / "file.pth", metrics=metrics, best_metrics=np.float64(2))
    assert len(read_state(path)) == len(state)

    # written under numpy 1, where the module is numpy.core
    old_numpy = (tmp_path / "old.pth").open("wb")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(old_numpy, "w") as target:
        for entry in source.infolist():
            content = source.read(entry)
            target.writestr(entry, content.replace(b"numpy._core.", b"numpy.core."))
    assert len(read_state(tmp_path / "old.pth")) == len(state)


class Hostile:
    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize(
    "function, args",
    [(os.system, ("touch {}",)), (eval, ("open('{}', 'w')",)), (np.fromfile, ("{}",))],
)
def test_hostile_files_are_refused_and_not_run(tmp_path, function, args, form):
    proof, path = tmp_path / "proof", tmp_path / "hostile.pth"
    hostile = Hostile(function, *(arg.format(proof) for arg in args))
    content = {"base_model": {"x": torch.zeros(1)}, "epoch": hostile}
    if form == "pickle":
        path.write_bytes(pickle.dumps({"base_model": hostile}, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(DaptError, match="is refused: it asks for") as refusal:
        dapt.create_backbone("point_mae", checkpoint=path)
    assert "\n" not in str(refusal.value)
    assert not proof.exists()


def test_damaged_files_are_refused(small_backbone, tmp_path):
    path = save(plain_file(small_backbone()), tmp_path / "file.pth")
    content = path.read_bytes()
    buffer = io.BytesIO()
    torch.save({"base_model": {}}, buffer)
    damaged = {
        "empty": b"",
        "cut": content[: len(content) // 2],
        "text": b"<html>Google Drive - Quota exceeded</html>",
        "no weights": buffer.getvalue(),
        "cut safetensors": safetensors.torch.save({"x": torch.zeros(9)})[:-5],
    }
    for name, content in damaged.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DaptError, match=re.escape(name)) as refusal:
            read_state(tmp_path / name)
        assert "\n" not in str(refusal.value)
    for missing in (tmp_path / "nowhere.pth", tmp_path):
        with pytest.raises(DaptError, match="cannot be read"):
            read_state(missing)


def test_weights_that_are_not_numbers_are_refused(small_backbone, tmp_path):
    state = plain_file(small_backbone())
    state["blocks.blocks.1.attn.proj.weight"][3, 4] = float("nan")
    path = save(state, tmp_path / "diverged.pth")
    with pytest.raises(DaptError, match=r"'blocks\.blocks\.1\.attn\.proj\.weight' holds NaN"):
        load_weights(small_backbone(), path)


def test_an_unknown_layout_is_refused(small_backbone, tmp_path):
    path = save({"resnet.conv1.weight": torch.zeros(3)}, tmp_path / "resnet.pth")
    with pytest.raises(DaptError, match=r"no known layout has keys like 'resnet\.conv1\.weight'"):
        load_weights(small_backbone(), path)
