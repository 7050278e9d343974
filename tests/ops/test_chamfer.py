"""Chamfer distances compared with the reference, float64 and gradcheck."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

from dapt_ext import chamfer, reference


@pytest.mark.parametrize("N, M", [(1, 1), (2, 31), (33, 1000), (1025, 100), (700, 2048)])
def test_equals_twin(make_cloud, on_each_isa, N, M):
    a, b = make_cloud(2, N), make_cloud(2, M)
    expected = reference.chamfer(a, b)
    for distances in on_each_isa(chamfer, a, b):
        assert all(torch.equal(mine, twin) for mine, twin in zip(distances, expected, strict=True))


def test_crowds_in_one_place(on_each_isa):
    a, b = torch.randn(1, 5000, 3), torch.randn(1, 6000, 3)
    a[:, ::2], b[:, 1::2] = a[:, :1], a[:, :1]
    expected = reference.chamfer(a, b)
    for distances in on_each_isa(chamfer, a, b):
        assert all(torch.equal(mine, twin) for mine, twin in zip(distances, expected, strict=True))
    many = torch.ones(1, 200_000, 3)  # brute force would take minutes
    assert all(not distances.any() for distances in chamfer(many, many))


@pytest.mark.parametrize("N, M", [(40, 70), (30, 5000)])
def test_lengths(on_each_isa, N, M):
    a, b = torch.randn(3, N, 3), torch.randn(3, M, 3)
    lengths = torch.tensor([N, 1, N // 2]), torch.tensor([1, M // 3, M])
    expected = reference.chamfer(a, b, *lengths)
    for distances in on_each_isa(chamfer, a, b, *lengths):
        assert all(torch.equal(mine, twin) for mine, twin in zip(distances, expected, strict=True))
    for i, (n, m) in enumerate(zip(*lengths, strict=True)):  # the same as each cloud on its own
        alone = chamfer(a[i : i + 1, :n], b[i : i + 1, :m])
        assert torch.equal(alone[0][0], expected[0][i, :n])
        assert torch.equal(alone[1][0], expected[1][i, :m])
    only_a, all_of_b = chamfer(a, b, lengths[0])
    assert torch.equal(only_a, reference.chamfer(a, b, lengths[0])[0])
    assert torch.equal(all_of_b, reference.chamfer(a, b, lengths[0])[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_lies_past_the_length_gets_no_gradient(dtype):
    a = torch.randn(2, 9, 3, dtype=dtype, requires_grad=True)
    b = torch.randn(2, 7, 3, dtype=dtype, requires_grad=True)
    sq_ab, sq_ba = chamfer(a, b, torch.tensor([9, 4]), torch.tensor([3, 7]))
    (sq_ab.sum() + sq_ba.sum()).backward()
    assert not a.grad[1, 4:].any() and not b.grad[0, 3:].any()
    assert a.grad[0].any(-1).all() and b.grad[1].any(-1).all()


def test_ties_go_to_the_lowest_index(on_each_isa):
    a, b = torch.zeros(1, 40, 3), torch.ones(1, 50, 3)
    for _, idx_ab, _, idx_ba in on_each_isa(torch.ops.dapt.chamfer, a, b):
        assert (idx_ab == 0).all() and (idx_ba == 0).all()


def test_against_float64(scans):
    a, b = scans["scannet_room"][:, ::20], scans["scannet_room"][:, 7::23]
    exact = torch.cdist(a.double(), b.double()).square()
    sq_ab, sq_ba = chamfer(a, b)
    torch.testing.assert_close(sq_ab.double(), exact.amin(2), rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(sq_ba.double(), exact.amin(1), rtol=1e-5, atol=1e-9)


def test_gradients():
    torch.manual_seed(0)
    a = torch.randn(2, 7, 3, dtype=torch.float64, requires_grad=True)
    b = torch.randn(2, 9, 3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(chamfer, (a, b))
    assert gradgradcheck(chamfer, (a, b))
    lengths = torch.tensor([7, 3]), torch.tensor([2, 9])
    assert gradcheck(lambda a, b: chamfer(a, b, *lengths), (a, b))


def test_float32_gradients_against_float64():
    a, b = torch.randn(2, 300, 3), torch.randn(2, 200, 3)
    weight_ab, weight_ba = torch.randn(2, 300), torch.randn(2, 200)
    grads = []
    for dtype in (torch.float32, torch.float64):
        inputs = [t.detach().to(dtype, copy=True).requires_grad_() for t in (a, b)]
        sq_ab, sq_ba = chamfer(*inputs)
        ((sq_ab * weight_ab.to(dtype)).sum() + (sq_ba * weight_ba.to(dtype)).sum()).backward()
        grads.append([t.grad.double() for t in inputs])
    for mine, exact in zip(*grads, strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half(dtype):
    a, b = torch.randn(2, 20, 3).to(dtype).requires_grad_(), torch.randn(2, 30, 3).to(dtype)
    sq_ab, _ = chamfer(a, b)
    assert torch.equal(sq_ab, chamfer(a.float(), b.float())[0])
    sq_ab.sum().backward()
    assert a.grad.dtype == dtype


def test_empty_batch():
    assert chamfer(torch.empty(0, 4, 3), torch.empty(0, 9, 3))[1].shape == (0, 9)


def test_opcheck():
    a, b = torch.randn(2, 6, 3, requires_grad=True), torch.randn(2, 8, 3, requires_grad=True)
    opcheck(torch.ops.dapt.chamfer, (a, b))
    opcheck(torch.ops.dapt.chamfer, (a, b, torch.tensor([6, 1]), torch.tensor([2, 8])))


def test_compiles_without_graph_breaks():
    a = torch.randn(2, 20, 3, requires_grad=True)
    compiled = torch.compile(lambda a, b: sum(t.mean() for t in chamfer(a, b)), fullgraph=True)
    compiled(a, torch.randn(2, 30, 3)).backward()
    assert a.grad.abs().sum() > 0
