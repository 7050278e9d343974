"""Released DAPT models: sizes read off the tensors, everything loaded, mistakes named."""

import pytest
import torch

import dapt
from dapt.errors import DaptError, UsageError
from dapt.methods.release import RELEASE

HIDDEN = {"num_groups": 11, "group_size": 9, "num_heads": 3}
ALL_TOKENS = ["cls", "prompt:mean", "patch:max"]


def released(model):
    """A model's state as the published code would have saved it."""
    state = {}
    for entry, value in model.state_dict().items():
        is_convolution = ".encoder." in entry and value.ndim == 2
        state[RELEASE.key(entry)] = value[..., None].clone() if is_convolution else value.clone()
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
    plain = {k: v for k, v in case.weights().items() if "Adapter" not in k and "tfts" not in k}
    refused(DaptError, "not a released DAPT model: 'blocks.blocks.0.Adapter_MLP", plain)


def test_a_backbone_alone_can_be_taken_from_a_release(golden, tmp_path):
    case = golden("dapt_tiny")
    torch.save({"base_model": case.weights()}, tmp_path / "release.pth")
    sizes = {"dim": 48, "depth": 3, "num_heads": 3, "encoder_dim": 48}
    backbone = dapt.create_backbone("point_mae", tmp_path / "release.pth", **sizes)
    assert any("load_release" in why for why in backbone.load_report.left_over.values())
    assert "left over" in str(backbone.load_report)
