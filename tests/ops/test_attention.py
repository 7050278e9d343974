"""Attention on the CPU, compared with its reference in float64 and with torch's own."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing._internal.optests import opcheck

from dapt_ext import attention, reference

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float16: 1e-3}
SIZES = [  # B, T, heads, C of a head: tiles of 96 queries, vectors of 16
    (2, 13, 3, 16), (2, 130, 6, 64), (1, 1, 1, 5), (2, 97, 2, 17), (1, 300, 3, 32), (3, 96, 1, 1),
]  # fmt: skip


def run(function, qkv, heads, dtype=None):
    qkv = qkv.to(dtype or qkv.dtype).detach().requires_grad_()
    out = function(qkv, heads)
    rng = torch.Generator().manual_seed(3)
    weight = torch.randn(out.shape, generator=rng, dtype=torch.float64)
    (out.double() * weight).sum().backward()
    return out.detach().double(), qkv.grad.double()


def assert_close(mine, exact, tolerance):
    for a, b in zip(mine, exact, strict=True):
        assert (a - b).norm() <= tolerance * b.norm() + 1e-12


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("B, T, H, D", SIZES)
def test_equals_twin(B, T, H, D, dtype):
    qkv = torch.randn(B, T, 3 * H * D).to(dtype)
    exact = run(reference.attention, qkv, H, torch.float64)
    assert_close(run(attention, qkv, H), exact, TOLERANCE[dtype])


def test_equals_torch():
    qkv = torch.randn(2, 65, 3 * 48, dtype=torch.float64)
    q, k, v = qkv.unflatten(2, (3, 3, 16)).permute(2, 0, 3, 1, 4)
    exact = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attention(qkv, 3), exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [30.0, 1e4])
def test_large_scores(size):
    """One key takes all the attention, and nothing overflows."""
    qkv = torch.randn(2, 40, 3 * 32)
    qkv[..., :64] *= size
    exact = run(reference.attention, qkv, 2, torch.float64)
    out, grad = run(attention, qkv, 2)
    assert out.isfinite().all() and grad.isfinite().all()
    # The rounding error of a score is relative, so the error of a probability grows with size².
    if size < 100:
        assert_close((out, grad), exact, size**2 * 1e-6)


def test_each_instruction_set(on_each_isa):
    qkv = torch.randn(2, 110, 3 * 40)
    exact = run(reference.attention, qkv, 2, torch.float64)
    for mine in on_each_isa(run, attention, qkv, 2):
        assert_close(mine, exact, 2e-6)


def test_gradcheck():
    qkv = torch.randn(2, 5, 18, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda x: attention(x, 3), qkv)


def test_clouds_do_not_mix_and_results_repeat():
    qkv = torch.randn(4, 70, 96)
    out, grad = run(attention, qkv, 2)
    alone = run(attention, qkv[2:3], 2)[0]
    assert torch.equal(out[2:3], alone)
    assert all(torch.equal(a, b) for a, b in zip(run(attention, qkv, 2), (out, grad), strict=True))
    strided = qkv.transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(attention(strided, 2), attention(qkv, 2))


def test_nan_stays_in_its_cloud_and_is_seen():
    qkv = torch.randn(2, 20, 48)
    qkv[0, 3, 5] = torch.nan  # in a query
    out = attention(qkv, 2)
    assert out[0, 3, :8].isnan().all() and out[1].isfinite().all()


def test_empty():
    for shape in [(0, 5, 12), (2, 0, 12), (2, 5, 0)]:
        out, grad = run(attention, torch.randn(shape), 1)
        assert out.shape == (*shape[:2], shape[2] // 3) and grad.shape == shape


def test_mask():
    qkv = torch.randn(2, 9, 36, dtype=torch.float64)
    mask = torch.rand(2, 1, 9, 9) < 0.5
    mask[..., 0] = True
    out = attention(qkv, 2, mask)
    changed = qkv.clone()
    changed[0, 4, 12:] += 1  # key and value of token 4
    moved = (attention(changed, 2, mask) != out).any(-1)
    assert torch.equal(moved[0], mask[0, 0, :, 4]) and not moved[1].any()


def test_opcheck():
    qkv = torch.randn(2, 7, 24, requires_grad=True)
    opcheck(torch.ops.dapt.attention, (qkv, 2))


def test_compiles_without_graph_breaks():
    qkv = torch.randn(2, 17, 48)
    compiled = torch.compile(attention, fullgraph=True)
    assert_close(run(compiled, qkv, 2), run(attention, qkv, 2), 1e-6)


def test_memory_is_that_of_the_result():
    """No [T, T] matrix is kept: only the output and one number per query and head."""
    qkv = torch.randn(2, 200, 96, requires_grad=True)
    kept = {}

    def pack(t):
        kept[t.data_ptr()] = t.numel() * t.element_size()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        attention(qkv, 2)
    assert sum(kept.values()) == 4 * (2 * 200 * 96 + 2 * 200 * 32 + 2 * 2 * 200)
