"""Row gather and its backward."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

from dapt_ext import gather, reference


@pytest.mark.parametrize("C", [1, 3, 16, 385])
@pytest.mark.parametrize("shape", [(), (7,), (5, 4), (2, 3, 4)])
def test_equals_twin(on_each_isa, C, shape):
    values = torch.randn(3, 50, C)
    idx = torch.randint(-1, 50, (3, 11, *shape))
    expected = reference.gather(values, idx)
    for out in on_each_isa(gather, values, idx):
        assert torch.equal(out, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64])
def test_any_dtype_and_strides(dtype):
    values = (torch.randn(2, 6, 40) * 9).to(dtype).mT
    idx = torch.randint(40, (2, 9, 4))[..., ::2]
    assert torch.equal(gather(values, idx), reference.gather(values, idx))


def test_empty():
    idx = torch.zeros(2, 0, dtype=torch.long)
    assert gather(torch.randn(2, 5, 4), idx).shape == (2, 0, 4)
    assert gather(torch.randn(0, 5, 4), idx[:0]).shape == (0, 0, 4)
    assert gather(torch.randn(2, 5, 0), idx.new_zeros(2, 3)).shape == (2, 3, 0)
    assert torch.ops.dapt.gather_backward(torch.randn(2, 0, 4), idx, 5).abs().sum() == 0


def test_rows_beyond_two_to_the_31():
    values = torch.zeros(1, 2200, 2**20, dtype=torch.uint8)  # untouched pages cost no memory
    values[0, 2199, -1] = 7
    assert gather(values, torch.tensor([[2199]]))[0, 0, -1] == 7


def test_minus_one_gives_zeros_and_takes_no_gradient():
    values = torch.randn(1, 4, 3, requires_grad=True)
    out = gather(values, torch.tensor([[-1, 2, -1]]))
    assert (out[0, 0] == 0).all() and torch.equal(out[0, 1], values[0, 2])
    out.sum().backward()
    assert values.grad[0].sum(-1).tolist() == [0, 0, 3, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("B, N, Q, C", [(1, 5, 300, 3), (3, 40, 90, 65), (33, 7, 20, 4)])
def test_backward_against_float64(on_each_isa, dtype, B, N, Q, C):
    grad = torch.randn(B, Q, C).to(dtype)
    idx = torch.randint(-1, N, (B, Q))
    mine, *others = on_each_isa(torch.ops.dapt.gather_backward, grad, idx, N)
    assert all(torch.equal(mine, other) for other in others)
    exact = torch.zeros(B, N + 1, C, dtype=torch.float64)
    exact.scatter_add_(1, idx.where(idx >= 0, N)[..., None].expand(-1, -1, C), grad.double())
    # Sums are kept in float32 (or float64) and rounded once to the dtype.
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-12}.get(dtype, torch.finfo(dtype).eps)
    torch.testing.assert_close(mine.double(), exact[:, :N], rtol=tolerance, atol=1e-5)


def test_backward_does_not_depend_on_threads():
    grad, idx = torch.randn(2, 3000, 70), torch.randint(30, (2, 3000))
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            results.append(torch.ops.dapt.gather_backward(grad, idx, 30))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_gradients():
    values = torch.randn(2, 6, 4, dtype=torch.float64, requires_grad=True)
    idx = torch.randint(-1, 6, (2, 5, 3))
    assert gradcheck(lambda v: gather(v, idx), (values,))
    assert gradgradcheck(lambda v: gather(v, idx), (values,))


def test_opcheck():
    values, idx = torch.randn(2, 30, 4, requires_grad=True), torch.randint(30, (2, 6, 5))
    grad = torch.randn(2, 6, 5, 4, requires_grad=True)
    opcheck(torch.ops.dapt.gather, (values, idx))
    opcheck(torch.ops.dapt.gather_backward, (grad, idx, 30))
    weights = torch.rand(2, 6, 5, requires_grad=True)
    opcheck(torch.ops.dapt.gather_backward, (grad[:, :, 0], idx, 30, weights))
