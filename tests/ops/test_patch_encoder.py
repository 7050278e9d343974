"""The frozen mini-PointNet compared with its reference in float64."""

import pytest
import torch
from torch import nn
from torch.testing._internal.optests import opcheck

from dapt_ext import PatchEncoderWeights, fold_batch_norm, patch_encoder, reference

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-2, torch.float64: 1e-12}


def make_weights(D=3, first=128, middle=256, last=512, C=384, seed=0):
    rng = torch.Generator().manual_seed(seed)

    def layer(out, inner):
        return torch.randn(out, inner, generator=rng, dtype=torch.float64) * (2 / inner) ** 0.5

    def bias(size):
        return 0.1 * torch.randn(size, generator=rng, dtype=torch.float64)

    return PatchEncoderWeights(
        layer(first, D), bias(first), layer(middle, first), bias(middle),
        layer(last, middle), layer(last, middle), bias(last), layer(C, last), bias(C),
    )  # fmt: skip


def cast(weights, dtype):
    return PatchEncoderWeights(*(t.to(dtype) for t in weights))


def assert_equals_twin(patches, weights, dtype):
    mine = patch_encoder(patches.to(dtype), cast(weights, dtype))
    exact = reference.patch_encoder(
        patches.to(dtype).double(), cast(cast(weights, dtype), torch.float64)
    )
    assert mine.dtype == dtype and mine.shape == exact.shape
    assert (mine.double() - exact).norm() <= TOLERANCE[dtype] * exact.norm()


@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_published_widths(dtype):
    rng = torch.Generator().manual_seed(1)
    assert_equals_twin(0.2 * torch.randn(2, 64, 32, 3, generator=rng), make_weights(), dtype)


@pytest.mark.parametrize(
    ("B", "G", "K", "widths"),
    [
        (1, 1, 1, {}),
        (3, 5, 7, {"first": 5, "middle": 9, "last": 17, "C": 3}),
        (2, 3, 200, {"first": 64, "middle": 96, "last": 130, "C": 192}),
        (2, 9, 8, {"D": 96, "first": 96, "middle": 192, "last": 192, "C": 192}),  # Point-M2AE's
        (1, 130, 16, {"D": 6, "first": 33, "middle": 64, "last": 128, "C": 100}),
    ],
)
def test_any_widths(on_each_isa, B, G, K, widths):
    weights = make_weights(**widths)
    rng = torch.Generator().manual_seed(2)
    patches = torch.randn(B, G, K, widths.get("D", 3), generator=rng)
    on_each_isa(assert_equals_twin, patches, weights, torch.float32)


def test_folding_equals_the_layers():
    """A conv and a batch norm in evaluation mode become one linear layer."""
    torch.manual_seed(0)
    conv, norm = nn.Conv1d(3, 16, 1), nn.BatchNorm1d(16)
    nn.init.uniform_(norm.running_mean, -1, 1), nn.init.uniform_(norm.running_var, 0.5, 2)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    x = torch.randn(4, 3, 9)
    expected = norm.eval()(conv(x))
    weight, bias = fold_batch_norm(
        conv.weight, conv.bias, norm.weight, norm.bias, norm.running_mean, norm.running_var
    )
    folded = (weight @ x) + bias[:, None]
    torch.testing.assert_close(folded, expected, rtol=1e-5, atol=1e-5)


def test_strides_and_empty_batch():
    weights = cast(make_weights(C=24), torch.float32)
    patches = torch.randn(4, 5, 3, 8).transpose(2, 3)
    assert torch.equal(
        patch_encoder(patches, weights), patch_encoder(patches.contiguous(), weights)
    )
    assert patch_encoder(torch.empty(0, 5, 8, 3), weights).shape == (0, 5, 24)
    assert patch_encoder(torch.empty(2, 0, 8, 3), weights).shape == (2, 0, 24)


def test_a_nan_stays_in_its_patch():
    weights = cast(make_weights(C=24), torch.float32)
    patches = torch.randn(2, 9, 8, 3)
    clean = patch_encoder(patches, weights)
    patches[1, 4, 2, 0] = torch.nan
    tokens = patch_encoder(patches, weights)
    assert tokens[1, 4].isnan().all()
    tokens[1, 4], clean[1, 4] = 0, 0
    assert torch.equal(tokens, clean)


def test_repeatable_over_threads():
    weights = cast(make_weights(), torch.float32)
    patches = torch.randn(4, 64, 32, 3)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = patch_encoder(patches, weights)
        torch.set_num_threads(2)
        two = patch_encoder(patches, weights)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(one, two)


def test_no_gradient_is_promised():
    weights = cast(make_weights(C=24), torch.float32)
    patches = torch.randn(2, 3, 8, 3, requires_grad=True)
    with pytest.raises(RuntimeError, match="must not require a gradient"):
        patch_encoder(patches, weights)
    with torch.no_grad():
        assert not patch_encoder(patches, weights).requires_grad


def test_opcheck_and_compile():
    weights = cast(make_weights(C=24), torch.float32)
    patches = torch.randn(2, 3, 8, 3)
    local = weights.conv3_local @ weights.conv2
    arguments = weights._replace(conv3_local=local)._asdict()
    del arguments["bias2"]
    opcheck(torch.ops.dapt.patch_encoder, (patches, *arguments.values(), torch.float32, False))
    compiled = torch.compile(patch_encoder, fullgraph=True)
    torch.testing.assert_close(compiled(patches, weights), patch_encoder(patches, weights))


def test_autocast():
    weights = cast(make_weights(), torch.float32)
    patches = torch.randn(2, 9, 32, 3)
    with torch.autocast("cpu", torch.bfloat16):
        tokens = patch_encoder(patches, weights)
    exact = reference.patch_encoder(patches.double(), cast(weights, torch.float64))
    assert tokens.dtype == torch.bfloat16
    assert (tokens.double() - exact).norm() <= 1e-2 * exact.norm()
