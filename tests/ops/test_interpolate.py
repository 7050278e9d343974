"""Inverse-distance interpolation compared with its reference and gradcheck."""

import pytest
import torch
from torch.autograd import gradcheck
from torch.library import opcheck

from dapt_ext import interpolate, reference


@pytest.mark.parametrize("k, epsilon", [(1, 1e-8), (3, 1e-8), (8, 1e-8), (8, 0.3)])
@pytest.mark.parametrize("C", [1, 5, 64, 1152])
def test_equals_twin(on_each_isa, k, epsilon, C):
    queries, points, values = torch.randn(2, 50, 3), torch.randn(2, 30, 3), torch.randn(2, 30, C)
    exact = [tensor.double() for tensor in (queries, points, values)]
    exact = reference.interpolate(*exact, k, epsilon).float()
    mine, *others = on_each_isa(interpolate, queries, points, values, k, epsilon)
    assert all(torch.equal(mine, other) for other in others)
    # Sums of k products with weights below one: a few roundings.
    torch.testing.assert_close(mine, exact, rtol=1e-4, atol=1e-5)


def test_lengths():
    queries, points, values = torch.randn(2, 9, 3), torch.randn(2, 30, 3), torch.randn(2, 30, 5)
    mine = interpolate(queries, points, values, lengths=torch.tensor([30, 4]))
    assert torch.equal(mine[:1], interpolate(queries[:1], points[:1], values[:1]))
    assert torch.equal(mine[1:], interpolate(queries[1:], points[1:, :4], values[1:, :4]))
    twin = reference.interpolate(queries, points, values, lengths=torch.tensor([30, 4]))
    torch.testing.assert_close(mine, twin)


def test_a_coincident_point_gives_its_own_value():
    points, values = torch.randn(1, 20, 3) * 10, torch.randn(1, 20, 4)
    torch.testing.assert_close(interpolate(points, points, values), values, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_coordinates_whose_squares_overflow(dtype):
    """If all neighbors are infinitely far they count equally; otherwise only the others count."""
    points = torch.zeros(1, 4, 3, dtype=dtype)
    points[0, :, 0] = torch.tensor([0, 1e25, -2e30, 3e38], dtype=dtype)
    queries = torch.tensor([[[1e22, 1e22, 0], [-1e38, 0, 0], [0, 0, 0]]], dtype=dtype)
    values = torch.randn(1, 4, 2, dtype=dtype)
    leaves = [t.requires_grad_() for t in (queries, points, values)]
    out = interpolate(*leaves, 3)
    assert out.isfinite().all()
    torch.testing.assert_close(out[:, 2], values[:, 0])
    if dtype == torch.float32:
        torch.testing.assert_close(out, reference.interpolate(*leaves, 3))
        torch.testing.assert_close(out[:, 1], values[:, :3].mean(1))
    out.square().sum().backward()
    assert all(leaf.grad.isfinite().all() for leaf in leaves)


def test_constant_values_stay_constant(make_cloud):
    points = make_cloud(2, 40)
    out = interpolate(torch.randn(2, 9, 3), points, torch.full((2, 40, 3), 2.5))
    torch.testing.assert_close(out, torch.full_like(out, 2.5))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_values(dtype):
    queries, points = torch.randn(2, 9, 3), torch.randn(2, 30, 3)
    values = torch.randn(2, 30, 5).to(dtype)
    out = interpolate(queries, points, values)
    assert out.dtype == dtype
    assert torch.equal(out, interpolate(queries, points, values.float()).to(dtype))


def test_gradients():
    torch.manual_seed(0)
    queries = torch.randn(2, 6, 3, dtype=torch.float64, requires_grad=True)
    points = torch.randn(2, 15, 3, dtype=torch.float64, requires_grad=True)
    values = torch.randn(2, 15, 4, dtype=torch.float64, requires_grad=True)
    assert gradcheck(interpolate, (queries, points, values))


def test_float32_gradients_against_float64():
    queries, points, values = torch.randn(2, 200, 3), torch.randn(2, 40, 3), torch.randn(2, 40, 33)
    weight = torch.randn(2, 200, 33)
    grads = []
    for dtype in (torch.float32, torch.float64):
        inputs = [
            t.detach().to(dtype, copy=True).requires_grad_() for t in (queries, points, values)
        ]
        (interpolate(*inputs) * weight.to(dtype)).sum().backward()
        grads.append([t.grad.double() for t in inputs])
    for mine, exact in zip(*grads, strict=True):
        # Weights grow without bound near a point, so errors are compared by norm.
        assert (mine - exact).norm() <= 1e-4 * exact.norm()


def test_empty_batch():
    out = interpolate(torch.empty(0, 4, 3), torch.empty(0, 9, 3), torch.empty(0, 9, 5))
    assert out.shape == (0, 4, 5)


def test_no_neighbors_sum_to_zero():
    idx = torch.zeros(2, 5, 0, dtype=torch.int64)
    out = torch.ops.dapt.interpolate(torch.randn(2, 9, 4), idx, torch.zeros(2, 5, 0))
    assert torch.equal(out, torch.zeros(2, 5, 4))


def test_opcheck():
    values, weights = torch.randn(2, 30, 4), torch.rand(2, 6, 3)
    idx = torch.randint(30, (2, 6, 3))
    opcheck(torch.ops.dapt.interpolate, (values.requires_grad_(), idx, weights.requires_grad_()))
    opcheck(torch.ops.dapt.interpolate, (values.detach(), idx, weights.detach()))


def test_compiles_without_graph_breaks():
    values = torch.randn(2, 30, 4, requires_grad=True)
    compiled = torch.compile(lambda q, p, v: interpolate(q, p, v).sum(), fullgraph=True)
    compiled(torch.randn(2, 9, 3), torch.randn(2, 30, 3), values).backward()
    torch.testing.assert_close(values.grad.sum(), torch.tensor(72.0), rtol=1e-5, atol=0)
