"""Submanifold convolution and its gradients."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

from dapt_ext import neighbor_map, reference, submanifold_conv, unique_cells

ops = torch.ops.dapt


def make(M, C, D, side=9, dtype=torch.float32):
    """x, weight, bias and neighbors of about M cells, which fill half of a cube of `side`."""
    cells = torch.randint(side, (M, 3))
    neighbors = neighbor_map(cells[unique_cells(cells)[0]])
    x, bias = torch.randn(len(neighbors), C), torch.randn(D)
    weight = torch.randn(D, 3, 3, 3, C) / (27 * C) ** 0.5
    return x.to(dtype), weight.to(dtype), bias.to(dtype), neighbors


@pytest.fixture
def gathered(monkeypatch):
    """Neighborhoods are gathered and multiplied by torch, as wide ones are on CUDA."""
    monkeypatch.setenv("DAPT_GATHER_FROM", "1")


@pytest.fixture(params=["our kernel", "gathered"])
def either_way(request):
    if request.param == "gathered":
        request.getfixturevalue("gathered")


def in_float64(x, weight, bias, neighbors):
    """out, and the gradients of x and weight for the incoming gradient out.cos()."""
    x, weight = x.double().requires_grad_(), weight.double().requires_grad_()
    out = reference.submanifold_conv(x, weight, None if bias is None else bias.double(), neighbors)
    return out.detach(), *torch.autograd.grad(out, (x, weight), out.detach().cos())


SIZES = [
    (1, 3, 5), (40, 1, 1), (90, 16, 16), (150, 24, 192), (300, 18, 33), (500, 17, 48), (700, 40, 7),
    (2000, 48, 64),
]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("M, C, D", SIZES)
def test_against_float64(on_each_isa, dtype, M, C, D):
    x, weight, bias, neighbors = make(M, C, D, dtype=dtype)
    out, grad_x, grad_weight = in_float64(x, weight, bias, neighbors)
    grad = out.cos().to(dtype)
    # sums of up to 27 C or M products, each of them rounded
    close = (
        {"rtol": 1e-12, "atol": 1e-11} if dtype == torch.float64 else {"rtol": 1e-5, "atol": 4e-5}
    )
    for mine in on_each_isa(ops.submanifold_conv, x, weight, bias, neighbors):
        torch.testing.assert_close(mine.double(), out, **close)
    for mine in on_each_isa(ops.submanifold_conv_input_grad, grad, weight, neighbors):
        torch.testing.assert_close(mine.double(), grad_x, **close)
    for mine in on_each_isa(ops.submanifold_conv_weight_grad, grad, x, neighbors):
        torch.testing.assert_close(mine.double(), grad_weight, **close)


# The widest are gathered in two parts: of the rows for the output or the gradient of x, of the taps
# for that of the weight.
@pytest.mark.parametrize("M, C, D", [*SIZES, (3300, 520, 2), (3300, 2, 520)])
def test_gathered_against_float64(gathered, M, C, D):
    x, weight, bias, neighbors = make(M, C, D, side=9 if M < 3300 else 20, dtype=torch.float64)
    assert M < 3300 or 27 * 520 * 8 * len(neighbors) > 2**28
    out, grad_x, grad_weight = in_float64(x, weight, bias, neighbors)
    grad = out.cos()
    close = {"rtol": 1e-12, "atol": 1e-11}  # as above
    mine = ops.submanifold_conv(x, weight, bias, neighbors)
    torch.testing.assert_close(mine, out, **close)
    mine = ops.submanifold_conv_input_grad(grad, weight, neighbors)
    torch.testing.assert_close(mine, grad_x, **close)
    mine = ops.submanifold_conv_weight_grad(grad, x, neighbors)
    torch.testing.assert_close(mine, grad_weight, **close)


def test_gathered_where_no_cell_has_neighbors(gathered):
    x, weight, bias, _ = make(40, 4, 6)
    neighbors = torch.full((len(x), 27), -1)
    assert torch.equal(submanifold_conv(x, weight, bias, neighbors), bias.expand(len(x), 6))
    assert (submanifold_conv(x, weight, None, neighbors) == 0).all()
    grad = torch.randn(len(x), 6)
    assert (ops.submanifold_conv_input_grad(grad, weight, neighbors) == 0).all()
    assert (ops.submanifold_conv_weight_grad(grad, x, neighbors) == 0).all()


@pytest.mark.parametrize("M, C, D, side", [(40_000, 4, 5, 40), (6000, 48, 64, 22)])
def test_many_rows(M, C, D, side):
    """The sums of a weight's gradient are split into parts: by rows, and the wider by taps, too."""
    x, weight, _, neighbors = make(M, C, D, side)
    assert len(neighbors) > 4096
    out, grad_x, grad_weight = in_float64(x, weight, None, neighbors)
    mine = submanifold_conv(x, weight, None, neighbors)
    torch.testing.assert_close(mine.double(), out, rtol=1e-5, atol=1e-5)
    grad = out.cos().float()
    mine = ops.submanifold_conv_weight_grad(grad, x, neighbors)
    torch.testing.assert_close(mine.double(), grad_weight, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_summed_in_float32(either_way, dtype):
    x, weight, bias, neighbors = make(300, 20, 12, dtype=dtype)
    out, _, grad_weight = in_float64(x, weight, bias, neighbors)
    mine = submanifold_conv(x, weight, bias, neighbors)
    assert mine.dtype == dtype
    eps = torch.finfo(dtype).eps  # the result is rounded once
    torch.testing.assert_close(mine.double(), out, rtol=eps, atol=1e-5)
    grad = out.cos().to(dtype)
    mine = ops.submanifold_conv_weight_grad(grad, x, neighbors)
    torch.testing.assert_close(mine.double(), grad_weight, rtol=4 * eps, atol=20 * eps)


def test_strides_and_no_bias(either_way):
    x, weight, bias, neighbors = make(200, 6, 8)
    plain = submanifold_conv(x, weight, bias, neighbors)
    strided = submanifold_conv(
        x.mT.contiguous().mT, weight.transpose(0, 4).contiguous().transpose(0, 4), bias,
        neighbors.mT.contiguous().mT,
    )  # fmt: skip
    assert torch.equal(plain, strided)
    without = submanifold_conv(x, weight, None, neighbors)
    torch.testing.assert_close(plain, without + bias)


def test_one_cell_sees_only_the_center_of_the_kernel(either_way):
    x, weight = torch.randn(1, 5), torch.randn(7, 3, 3, 3, 5)
    neighbors = neighbor_map(torch.tensor([[3, 4, 5]]))
    out = submanifold_conv(x, weight, None, neighbors)
    torch.testing.assert_close(out, x @ weight[:, 1, 1, 1].T)


def test_equals_a_dense_convolution(either_way):
    cells = torch.cartesian_prod(*[torch.arange(5)] * 3)
    x, weight, bias = torch.randn(125, 3), torch.randn(4, 3, 3, 3, 3), torch.randn(4)
    mine = submanifold_conv(x, weight, bias, neighbor_map(cells))
    grid = x.T.view(1, 3, 5, 5, 5)
    dense = torch.nn.functional.conv3d(grid, weight.permute(0, 4, 1, 2, 3), bias, padding=1)
    torch.testing.assert_close(mine, dense[0].flatten(1).T, rtol=1e-5, atol=1e-5)


def test_a_nan_reaches_its_neighbors_alone(either_way):
    x, weight, bias, neighbors = make(300, 6, 8)
    x[7, 2] = torch.nan
    out = submanifold_conv(x, weight, bias, neighbors)
    assert torch.equal(out.isnan().any(1), (neighbors == 7).any(1))


def test_results_do_not_depend_on_threads():
    x, weight, _, neighbors = make(9000, 8, 40, side=22)
    grad = torch.randn(len(x), 40)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            results.append((
                ops.submanifold_conv(x, weight, None, neighbors),
                ops.submanifold_conv_input_grad(grad, weight, neighbors),
                ops.submanifold_conv_weight_grad(grad, x, neighbors),
            ))  # fmt: skip
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


def test_gradients(either_way):
    x, weight, bias, neighbors = make(25, 2, 3, side=4, dtype=torch.float64)
    inputs = [tensor.requires_grad_() for tensor in (x, weight, bias)]
    assert gradcheck(lambda *inputs: submanifold_conv(*inputs, neighbors), inputs)
    assert gradgradcheck(lambda *inputs: submanifold_conv(*inputs, neighbors), inputs)


def test_a_frozen_convolution_keeps_no_input():
    x, weight, bias, neighbors = make(60, 4, 4)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        out = submanifold_conv(x.requires_grad_(), weight, bias, neighbors)
    out.sum().backward()
    assert x.shape not in kept and x.grad is not None


def test_autocast(either_way):
    x, weight, bias, neighbors = make(60, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        out = submanifold_conv(x, weight, bias, neighbors)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(
        out.float(), submanifold_conv(x, weight, bias, neighbors), atol=0.05, rtol=0.05
    )
    plain = ops.submanifold_conv(x, weight, bias, neighbors)
    with torch.autocast("cpu", torch.bfloat16):  # which the op leaves to its caller
        assert torch.equal(ops.submanifold_conv(x, weight, bias, neighbors), plain)


def test_empty(either_way):
    weight, neighbors = torch.randn(5, 3, 3, 3, 4), torch.zeros(0, 27).long()
    assert submanifold_conv(torch.randn(0, 4), weight, None, neighbors).shape == (0, 5)
    grad = ops.submanifold_conv_weight_grad(torch.randn(0, 5), torch.randn(0, 4), neighbors)
    assert grad.shape == weight.shape and (grad == 0).all()
    _, _, _, neighbors = make(30, 1, 1)
    no_channels = torch.randn(len(neighbors), 0)
    bias = torch.randn(5)
    out = submanifold_conv(no_channels, torch.randn(5, 3, 3, 3, 0), bias, neighbors)
    assert torch.equal(out, bias.expand(len(neighbors), 5))


def test_opcheck_and_compile(either_way, fresh_compiler):
    x, weight, bias, neighbors = make(40, 4, 6)
    grad = torch.randn(len(x), 6, requires_grad=True)
    x, weight, bias = (tensor.requires_grad_() for tensor in (x, weight, bias))
    opcheck(ops.submanifold_conv, (x, weight, bias, neighbors))
    opcheck(ops.submanifold_conv_input_grad, (grad, weight, neighbors))
    opcheck(ops.submanifold_conv_weight_grad, (grad, x, neighbors))
    compiled = torch.compile(submanifold_conv, fullgraph=True)
    out = compiled(x, weight, bias, neighbors)
    assert torch.equal(out, submanifold_conv(x, weight, bias, neighbors))
    out.sum().backward()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"x": torch.randn(3)}, r"x must be \[M, C\], got \[3\]"),
        ({"x": torch.zeros(2, 4).long()}, "x must be float32.*got int64"),
        ({"weight": torch.randn(6, 3, 3, 4)}, r"weight must be \[D, 3, 3, 3, C\] with 4 channels"),
        ({"weight": torch.randn(6, 3, 3, 3, 5)}, r"channels in, those of x, got \[6, 3, 3, 3, 5\]"),
        ({"bias": torch.randn(5)}, r"bias must be \[6\], got \[5\]"),
        ({"neighbors": torch.zeros(2, 9).long()}, r"neighbors must be \[2, 27\], got \[2, 9\]"),
        ({"neighbors": torch.full((2, 27), 2)}, r"neighbors must lie in \[-1, 2\), got 2"),
        ({"neighbors": torch.zeros(2, 27)}, "neighbors must be int64"),
    ],
)
def test_bad_input(change, message):
    arguments = {
        "x": torch.randn(2, 4),
        "weight": torch.randn(6, 3, 3, 3, 4),
        "bias": torch.randn(6),
        "neighbors": torch.full((2, 27), -1),
    }
    with pytest.raises(RuntimeError, match=message):
        submanifold_conv(**arguments | change)
