"""Released models: sizes are read from the tensors, everything is loaded, mistakes are named."""

import dataclasses
import json

import pytest
import torch

import dapt
from dapt.adapters.release_table import KINDS
from dapt.errors import DaptError, UsageError

HIDDEN = {"num_groups": 11, "group_size": 9, "num_heads": 3}
ALL_TOKENS = ["cls", "prompt:mean", "patch:max"]


def released(model, title="released DAPT model"):
    """A model's state as the published code would have saved it."""
    kind, state = next(kind for kind in KINDS if kind.title == title), {}
    for entry, value in model.state_dict().items():
        is_convolution = ".encoder." in entry and value.ndim == 2
        key = kind.layout(model.adapter.task).key(entry)
        state[key] = value[..., None].clone() if is_convolution else value.clone()
    return state


@pytest.mark.parametrize("name", ["point_mae", "point_bert"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_round_trip(small_backbone, tmp_path, name, prefix):
    method = dapt.Dapt(rank=5, head_tokens=["cls", "prompt:max"])
    model = dapt.attach(small_backbone(name), method, dapt.Classification(6)).eval()
    with torch.no_grad():
        for _, weight in model.own_parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    state = {prefix + key: value for key, value in released(model).items()}
    torch.save({"base_model": state}, tmp_path / "release.pth")

    again = dapt.load_release(tmp_path / "release.pth", **HIDDEN, head_tokens=["cls", "prompt:max"])

    points = torch.randn(3, 80, 3)
    assert torch.equal(again(points), model(points))
    assert again.backbone.config == model.backbone.config or name == "point_bert"
    assert again.adapter.method.rank == 5 and again.adapter.task.num_classes == 6


def test_mistakes_are_named(golden, tmp_path):
    case = golden("dapt_tiny")
    arguments = {"num_groups": 16, "group_size": 8, "num_heads": 3, "head_tokens": ALL_TOKENS}
    path = tmp_path / "release.pth"

    def refused(error, message, state=None, **changes):
        torch.save({"base_model": case.weights() if state is None else state}, path)
        with pytest.raises(error, match=message):
            dapt.load_release(path, **arguments | changes)

    refused(UsageError, "head_tokens must name 3 tokens, .* got \\['cls'\\]", head_tokens=["cls"])
    refused(UsageError, "num_heads must divide dim=48, got 5", num_heads=5)
    state = case.weights()
    del state["blocks.blocks.1.attn.tfts_beta_2"]
    refused(DaptError, "'blocks.blocks.1.attn.tfts_beta_2' is missing", state)
    state = case.weights()
    state["blocks.blocks.1.Adapter_MLP.up_proj.weight"] = torch.zeros(48, 9)
    refused(DaptError, r"'blocks.blocks.1.Adapter_MLP.up_proj.weight' is \[48, 9\]", state)
    refused(
        DaptError,
        "is not a released model of this kind: 'norm.weight' is missing",
        {k: v for k, v in case.weights().items() if k != "norm.weight"},
    )
    state = case.weights() | {"blocks.blocks.0.surprise.weight": torch.zeros(3)}
    refused(DaptError, "no place for 'blocks.blocks.0.surprise.weight'", state)
    refused(DaptError, "is not a known released model", {"a": torch.zeros(3)})


def test_a_config_says_what_shapes_hide(small_backbone, tmp_path):
    """The config may be a published YAML file or its settings; a `model` section counts as the
    top."""
    yaml = pytest.importorskip("yaml")
    model = dapt.attach(small_backbone(), dapt.Full(), dapt.Classification(6)).eval()
    path, points = tmp_path / "model.pth", torch.randn(3, 80, 3)
    torch.save({"base_model": released(model, "fine-tuned point transformer")}, path)
    said = {"NAME": "PointTransformer", "num_group": 11, "group_size": 9, "num_heads": 3}
    for config in (said, {"model": said, "npoints": 80}):
        assert torch.equal(dapt.load_release(path, config)(points), model(points))
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"model": said, "npoints": 80}))
    again = dapt.load_release(path, tmp_path / "c.yaml")
    assert torch.equal(again(points), model(points)) and again.adapter.method == dapt.Full()
    again = dapt.load_release(path, {"num_group": 11, "group_size": 9}, num_heads=3)
    assert torch.equal(again(points), model(points))
    again = dapt.load_release(path, said, near_origin="skip")
    again.save_adapter(tmp_path / "adapter")
    model.backbone.tokenizer.near_origin = "skip"
    points[:, 1:] *= 0.01
    points[:, ::3] *= 100
    assert torch.equal(again(points), model(points))
    record = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert record["backbone"]["config"]["near_origin"] == "skip"

    def refused(error, message, config):
        with pytest.raises(error, match=message):
            dapt.load_release(path, config)

    refused(UsageError, "config of .*model.pth must set 'group_size'", {"num_group": 11})
    refused(UsageError, "no released models of method 'lora' are known", {"method": "lora"})
    (tmp_path / "c.yaml").write_text("- 1\n")
    refused(UsageError, "must hold settings by name", tmp_path / "c.yaml")
    (tmp_path / "c.yaml").write_text("a: [")
    refused(DaptError, "cannot read .*c.yaml", tmp_path / "c.yaml")
    refused(DaptError, "cannot read .*none.yaml", tmp_path / "none.yaml")


def test_a_whole_model_in_an_adapter_out(golden, tmp_path):
    """The released file contains the backbone too; with it, the adapter's folder restores the
    model."""
    case = golden("dapt_tiny")
    torch.save({"base_model": case.weights()}, tmp_path / "release.pth")
    model = dapt.load_release(tmp_path / "release.pth", case.config)
    model.save_adapter(tmp_path / "adapter")
    config = model.backbone.config
    sizes = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    backbone = dapt.create_backbone("point_mae", tmp_path / "release.pth", **sizes)
    again = dapt.load_adapter(tmp_path / "adapter", backbone).eval()
    assert torch.equal(again(case.points()), model(case.points()))


def test_a_backbone_alone_can_be_taken_from_a_release(golden, tmp_path):
    case = golden("dapt_tiny")
    torch.save({"base_model": case.weights()}, tmp_path / "release.pth")
    sizes = {"dim": 48, "depth": 3, "num_heads": 3, "encoder_dim": 48}
    backbone = dapt.create_backbone("point_mae", tmp_path / "release.pth", **sizes)
    assert any("load_release" in why for why in backbone.load_report.left_over.values())
    assert "left over" in str(backbone.load_report)
