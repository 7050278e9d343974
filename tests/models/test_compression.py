"""Quantized and pruned backbones: what is stored, what it represents, and what trains on it."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dapt
from dapt.errors import DaptError, UsageError
from dapt.models import weight_bytes
from dapt.models.compression import (
    LEVELS,
    QuantizedLinear,
    compress,
    dequantized,
    prune_smallest,
    prune_two_of_four,
    quantized,
)
from dapt.runs.memory import CountSaved
from support.methods import FAMILY, TASK, assert_same_state, attached, copy_of, train_steps

KINDS = ("int8", "int4", "nf4")
QUANTIZED = pytest.mark.parametrize("kind", KINDS)


def restated(weight, kind):
    """The represented weight, computed block by block and value by value."""
    if kind == "int8":
        scale = np.abs(weight).max(1, keepdims=True) / 127
        return np.rint(weight / np.where(scale == 0, 1, scale)) * scale
    flat = weight.flatten()
    for begin in range(0, len(flat), 64):
        block = flat[begin : begin + 64]
        largest = block[np.abs(block).argmax()]
        scale = -largest if kind == "int4" else abs(largest)
        levels = np.array(LEVELS[kind]) * scale
        flat[begin : begin + 64] = [levels[np.abs(levels - value).argmin()] for value in block]
    return flat.reshape(weight.shape)


@QUANTIZED
@pytest.mark.parametrize("shape", [(48, 144), (7, 11), (1, 1), (3, 64)])
def test_stands_for_the_nearest_levels(kind, shape):
    weight = torch.randn(shape, dtype=torch.float64)
    weight[0] = 0  # a row of zeros must stay zero
    codes, scales = quantized(weight, kind)
    got = dequantized(codes, scales, kind, shape)
    np.testing.assert_allclose(got, restated(weight.numpy().copy(), kind), atol=1e-12)
    assert not got[0].any()
    assert codes.element_size() == 1 and codes.numel() <= (
        weight.numel() if kind == "int8" else (weight.numel() + 127) // 2
    )


def test_errors_of_each_kind():
    """Relative errors for normal weights follow from the step widths of each kind."""
    weight, errors = torch.randn(384, 1152), {}
    for kind in KINDS:
        difference = dequantized(*quantized(weight, kind), kind, weight.shape) - weight
        errors[kind] = float(difference.norm() / weight.norm())
    assert errors["int8"] < 0.01 < errors["nf4"] < errors["int4"] < 0.13


@QUANTIZED
def test_a_layer_is_the_plain_one_with_that_weight(kind):
    plain = nn.Linear(20, 13)
    layer = QuantizedLinear(plain, kind)
    x = torch.randn(2, 5, 20, requires_grad=True)
    saved = CountSaved(layer)
    with saved:
        out = layer(x)
    assert saved.bytes == 0  # neither x nor the weight is kept
    wanted = F.linear(x, layer.weight, plain.bias)
    torch.testing.assert_close(out, wanted)
    slope = torch.randn_like(out)
    got = torch.autograd.grad(out, [x, layer.bias], slope)
    for one, other in zip(got, torch.autograd.grad(wanted, [x, plain.bias], slope), strict=True):
        torch.testing.assert_close(one, other)
    assert not layer.codes.requires_grad and layer.weight.dtype == torch.float32
    torch.testing.assert_close(layer.in_float()(x), wanted)
    assert layer.bfloat16()(x.bfloat16()).dtype == torch.bfloat16


@QUANTIZED
def test_under_autocast_and_compiled(kind, fresh_compiler):
    layer = QuantizedLinear(nn.Linear(20, 13, bias=False), kind)
    x = torch.randn(4, 20, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    (grad,) = torch.autograd.grad(out.float().square().sum(), x)
    assert out.dtype == torch.bfloat16 and grad.dtype == torch.float32
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x))
    got, wanted = (torch.autograd.grad(f(x).square().sum(), x) for f in (compiled, layer))
    torch.testing.assert_close(got, wanted)


def test_pruning_takes_the_smallest_of_all():
    weights = [torch.randn(6, 8), 10 * torch.randn(5, 4), torch.randn(3, 3)]
    before = torch.cat([weight.flatten() for weight in weights])
    prune_smallest(weights, 0.4)
    after = torch.cat([weight.flatten() for weight in weights])
    zeroed = after == 0
    assert zeroed.sum() == round(0.4 * len(after))
    assert torch.equal(after[~zeroed], before[~zeroed])
    assert before[zeroed].abs().max() < before[~zeroed].abs().min()


def test_two_of_each_four_are_zero():
    weight = torch.randn(5, 12)
    before = weight.clone()
    prune_two_of_four(weight)
    for got, had in zip(weight.reshape(-1, 4), before.reshape(-1, 4), strict=True):
        kept = had.abs().argsort(descending=True)[:2]
        assert torch.equal(got[kept], had[kept]) and (got == 0).sum() == 2
    with pytest.raises(UsageError, match="a multiple of 4, got 6"):
        prune_two_of_four(torch.randn(3, 6))


def block_weights(backbone):
    return [
        module.weight
        for stack in backbone.stacks
        for module in stack.modules()
        if isinstance(module, nn.Linear)
    ]


@pytest.mark.parametrize("name", ["point_mae", "point_m2ae"])
@pytest.mark.parametrize(
    "fields, share", [({"sparsity": 0.3}, 0.3), ({"two_of_four": True}, 0.5), ({}, 0.0)]
)
@pytest.mark.parametrize("kind", ["float", *KINDS])
def test_backbones(small_backbone, name, fields, share, kind):
    """Zeros stay zeros when quantized; everything outside the blocks is unchanged."""
    backbone = small_backbone(name, weights=kind, **fields)
    weights = block_weights(backbone)
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    total = sum(weight.numel() for weight in weights)
    if kind == "float":
        assert zeros == round(share * total)
    else:
        assert zeros >= round(share * total)  # small values round to zero, too
    assert len(weights) == 4 * sum(map(len, backbone.stacks))
    assert any(isinstance(m, QuantizedLinear) for m in backbone.modules()) == (kind != "float")
    assert isinstance(backbone.tokenizers[0].encoder.first[0], nn.Linear)
    points = torch.randn(2, 80, 3)
    assert backbone.eval()(points).patches.isfinite().all()


def test_counts_and_bytes():
    plain = dapt.create_backbone("point_mae", depth=2)
    total = dapt.models.count_parameters(plain)
    layers = sum(weight.numel() for weight in block_weights(plain))
    rest = weight_bytes(plain) - 4 * layers
    rows = 2 * (1152 + 384 + 1536 + 384)
    for kind, layer_bytes in (
        ("int8", layers + 4 * rows),
        ("int4", layers // 2 + 4 * layers // 64),
        ("nf4", layers // 2 + 4 * layers // 64),
    ):
        backbone = dapt.create_backbone("point_mae", depth=2, weights=kind)
        assert dapt.models.count_parameters(backbone) == total
        assert weight_bytes(backbone) == rest + layer_bytes
        model = dapt.attach(backbone, dapt.Linear(), dapt.Classification(15))
        assert model.count_parameters() == (267_535, total + 267_535)


def test_a_checkpoint_is_compressed_as_it_is_loaded(small_backbone, tmp_path):
    plain = small_backbone()
    torch.save(plain.state_dict(), tmp_path / "plain.pth")
    config = {"dim": 48, "depth": 3, "num_heads": 3, "num_groups": 11, "group_size": 9}
    config |= {"encoder_dim": 48}
    backbone = dapt.create_backbone("point_mae", tmp_path / "plain.pth", weights="nf4", **config)
    wanted = quantized(plain.blocks[1].mlp.fc1.weight.detach(), "nf4")
    layer = backbone.blocks[1].mlp.fc1
    assert torch.equal(layer.codes, wanted[0]) and torch.equal(layer.scales, wanted[1])
    assert torch.equal(layer.bias, plain.blocks[1].mlp.fc1.bias)


TRAINS_NO_WEIGHTS = [name for name in FAMILY if "full" not in name]


@pytest.mark.parametrize("method", TRAINS_NO_WEIGHTS)
def test_every_method_trains_on_it(small_backbone, tmp_path, method):
    fields = {"weights": "nf4", "two_of_four": True}
    backbone = small_backbone(**fields)
    before = copy_of(backbone.state_dict())
    model = attached(backbone, method)
    train_steps(model)
    for entry, weight in model.named_parameters():
        assert model.trains(entry) == (weight.grad is not None), entry
    model.eval().save_adapter(tmp_path)
    points = torch.randn(3, 80, 3)
    again = dapt.load_adapter(tmp_path, small_backbone(**fields)).eval()
    with torch.no_grad():
        assert torch.equal(again(points), model(points))
        merged = dapt.merge(again)
        torch.testing.assert_close(merged(points), model(points), atol=1e-3, rtol=1e-3)
    assert_same_state(dapt.detach(model).state_dict(), before)


@pytest.mark.parametrize("fields", [{"weights": "int8"}, {"sparsity": 0.5}])
def test_full_fine_tuning_is_refused(small_backbone, fields):
    what = "int8" if "weights" in fields else "pruned"
    for method in (dapt.Full(), dapt.Density.on(dapt.Full())):
        with pytest.raises(
            UsageError, match=f"trains the backbone's weights, and these are {what}"
        ):
            dapt.attach(small_backbone(**fields), method, TASK)
    with pytest.raises(UsageError, match=f"pre-training trains the weights, and these are {what}"):
        dapt.create_autoencoder("point_mae_tiny", **fields)


def test_an_adapter_remembers(small_backbone, tmp_path):
    dapt.attach(small_backbone(weights="int8"), dapt.Vpt(prompts=2), TASK).save_adapter(tmp_path)
    dapt.load_adapter(tmp_path, small_backbone(weights="int8"))
    for other in ("float", "nf4"):
        with pytest.raises(
            DaptError, match=f"with weights=int8, .*{other}: create it with weights"
        ):
            dapt.load_adapter(tmp_path, small_backbone(weights=other))
    text = (tmp_path / "adapter_config.json").read_text()
    assert '"weights": "int8"' in text and "sparsity" not in text


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"weights": "int3"}, "weights must be one of float, int8, int4, nf4, got 'int3'"),
        ({"sparsity": 1.0}, "sparsity must be at least 0 and below 1, got 1.0"),
        ({"two_of_four": True, "sparsity": 0.3}, "two_of_four means a sparsity of 0.5"),
    ],
)
def test_settings_are_checked(fields, message):
    with pytest.raises(UsageError, match=message):
        dapt.create_backbone("point_mae_tiny", **fields)


@pytest.mark.parametrize("fields", [{"weights": "int8"}, {"weights": "nf4", "two_of_four": True}])
def test_weights_are_quantized_as_they_are_read(small_backbone, tmp_path, fields):
    """The result equals that of compressing a complete network."""
    plain = small_backbone("point_mae", dim=64, encoder_dim=64, num_heads=4)
    torch.save(plain.state_dict(), tmp_path / "plain.pth")
    sizes = {k: v for k, v in vars(plain.config).items() if k not in ("weights", "two_of_four")}
    read = dapt.create_backbone("point_mae", tmp_path / "plain.pth", **sizes | fields)
    plain.config = dataclasses.replace(plain.config, **fields)
    compress(plain)
    wanted, got = plain.state_dict(), read.state_dict()
    assert wanted.keys() == got.keys() and any("codes" in entry for entry in got)
    for entry, value in wanted.items():
        assert torch.equal(got[entry], value), entry
    assert len(read.load_report.loaded) + len(read.load_report.fresh) == sum(
        not entry.endswith("scales") for entry in got
    )
    assert not any(value.is_meta for value in got.values())
    points = torch.randn(2, 80, 3)
    assert torch.equal(read.eval()(points).patches, plain.eval()(points).patches)
    broken = {k: v for k, v in torch.load(tmp_path / "plain.pth").items() if "fc2" not in k}
    torch.save(broken, tmp_path / "broken.pth")
    with pytest.raises(DaptError, match="'blocks.0.mlp.fc2.weight' is missing"):
        dapt.create_backbone("point_mae", tmp_path / "broken.pth", **sizes | fields)


@pytest.mark.parametrize("method", TRAINS_NO_WEIGHTS)
def test_no_method_keeps_weights_in_float_for_the_backward(small_backbone, method):
    """Keeping them would take the memory that quantization saves."""
    kept = {}
    for kind in ("float", "int8"):
        model = attached(small_backbone(weights=kind), method).train()
        torch.manual_seed(0)
        saved = CountSaved(model)
        with saved:
            model(torch.randn(2, 80, 3, generator=torch.Generator().manual_seed(1))).sum()
        kept[kind] = saved.bytes
    a_weight = 4 * 48 * 48  # bytes of the smallest layer
    assert kept["int8"] < kept["float"] + a_weight
