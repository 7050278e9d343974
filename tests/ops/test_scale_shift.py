"""A learned scale and shift on frozen layers, compared with their references in float64."""

import pytest
import torch
from torch.testing._internal.optests import opcheck

from dapt_ext import reference, scale_shift_linear, scale_shift_norm

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-2}


def make_inputs(rows, D, C, seed=0, bias=True):
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape, mean=0.0, std=1.0):
        return mean + std * torch.randn(*shape, generator=rng, dtype=torch.float64)

    return {
        "x": normal(*rows, D),
        "weight": normal(C, D, std=D**-0.5),
        "bias": normal(C, std=0.1) if bias else None,
        "scale": normal(C, mean=1, std=0.1),
        "shift": normal(C, std=0.1),
    }


def run(function, inputs, dtype, x_dtype=None):
    tensors = {
        name: None if value is None
        else value.detach().to((x_dtype or dtype) if name == "x" else dtype, copy=True)
        for name, value in inputs.items()
    }  # fmt: skip
    for name in ("x", "scale", "shift"):
        tensors[name].requires_grad_()
    out = function(*tensors.values())
    rng = torch.Generator().manual_seed(3)
    weight = torch.randn(out.shape, generator=rng, dtype=torch.float64)
    (out.double() * weight).sum().backward()
    grads = {name: tensors[name].grad.double() for name in ("x", "scale", "shift")}
    return {"out": out.detach().double(), **grads}


def assert_close(mine, exact, tolerance):
    for name, value in exact.items():
        assert (mine[name] - value).norm() <= tolerance * value.norm(), name


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [((3, 65), 48, 144), ((140,), 384, 96), ((2, 1, 7), 192, 768)])
def test_linear_equals_twin(shape, bias):
    inputs = make_inputs(*shape, bias=bias)
    single = {n: None if v is None else v.float().double() for n, v in inputs.items()}
    exact = run(reference.scale_shift_linear, single, torch.float64)
    assert_close(run(scale_shift_linear, inputs, torch.float32), exact, 1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_linear_in_half_precision(dtype):
    inputs = make_inputs((4, 65), 96, 192)
    inputs["x"] = inputs["x"].to(dtype).double()
    exact = run(reference.scale_shift_linear, inputs, torch.float64)
    mine = run(scale_shift_linear, inputs, torch.float32, x_dtype=dtype)
    assert_close(mine, exact, TOLERANCE[dtype])


@pytest.mark.parametrize("tiny", [0.0, 1e-30, -1e-6, 9e-3])
def test_a_tiny_scale_keeps_its_gradient(tiny):
    inputs = make_inputs((3, 65), 48, 144)
    inputs["scale"][::5] = tiny
    exact = run(
        reference.scale_shift_linear,
        {n: v.float().double() for n, v in inputs.items()},
        torch.float64,
    )
    assert_close(run(scale_shift_linear, inputs, torch.float32), exact, 1e-5)


def kept_bytes(function, inputs):
    """Does not count the parameters, x and the output, which are kept anyway."""
    tensors = [t.float() for t in inputs.values()]
    for t in (tensors[0], tensors[3], tensors[4]):
        t.requires_grad_()
    kept = {}

    def pack(t):
        kept[t.data_ptr()] = t.numel() * t.element_size()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = function(*tensors)
    known = {t.data_ptr() for t in (*tensors[1:], out)}
    return {"x": tensors[0].data_ptr() in kept}, sum(
        size for where, size in kept.items() if where not in known | {tensors[0].data_ptr()}
    )


def test_linear_keeps_nothing_but_its_output():
    inputs = make_inputs((3, 65), 48, 144)
    assert kept_bytes(scale_shift_linear, inputs) == ({"x": False}, 0)
    inputs["scale"][7] = 1e-4
    assert kept_bytes(scale_shift_linear, inputs) == ({"x": True}, 0)


def test_norm_equals_twin():
    inputs = make_inputs((3, 65), 96, 96)
    inputs["weight"] = 1 + 0.1 * inputs["weight"][:, 0]
    exact = run(
        reference.scale_shift_norm,
        {n: v.float().double() for n, v in inputs.items()},
        torch.float64,
    )
    assert_close(run(scale_shift_norm, inputs, torch.float32), exact, 1e-5)


def test_each_instruction_set(on_each_isa):
    inputs = make_inputs((3, 65), 48, 100)
    exact = run(
        reference.scale_shift_linear,
        {n: v.float().double() for n, v in inputs.items()},
        torch.float64,
    )
    for mine in on_each_isa(run, scale_shift_linear, inputs, torch.float32):
        assert_close(mine, exact, 1e-5)


@pytest.mark.parametrize("frozen", ["x", "scale", "shift"])
def test_frozen_inputs_get_no_gradient(frozen):
    tensors = {n: v.float() for n, v in make_inputs((4, 9), 16, 24).items()}
    for name in {"x", "scale", "shift"} - {frozen}:
        tensors[name].requires_grad_()
    scale_shift_linear(*tensors.values()).square().sum().backward()
    assert tensors[frozen].grad is None
    assert all(tensors[n].grad is not None for n in {"x", "scale", "shift"} - {frozen})


def test_gradcheck():
    inputs = make_inputs((2, 3), 5, 4)
    inputs["scale"][1] = 1e-3
    weight, bias = inputs["weight"], inputs["bias"]
    free = [inputs[name].requires_grad_() for name in ("x", "scale", "shift")]
    torch.autograd.gradcheck(
        lambda x, scale, shift: scale_shift_linear(x, weight, bias, scale, shift), free
    )
    norm = 1 + 0.1 * torch.arange(5, dtype=torch.float64)
    free = [torch.randn(2, 3, 5).double().requires_grad_()]
    free += [torch.randn(5).double().requires_grad_() for _ in range(2)]
    torch.autograd.gradcheck(
        lambda x, scale, shift: scale_shift_norm(x, norm, norm, scale, shift), free
    )


def test_repeatable_strides_and_empty_batch():
    tensors = {n: v.float() for n, v in make_inputs((8, 65), 48, 96).items()}
    x = tensors["x"].transpose(0, 1)
    once = scale_shift_linear(x, *list(tensors.values())[1:])
    again = scale_shift_linear(x.contiguous(), *list(tensors.values())[1:])
    assert torch.equal(once, again)
    empty = run(scale_shift_linear, make_inputs((0, 5), 48, 96), torch.float32)
    assert empty["out"].shape == (0, 5, 96) and not empty["scale"].any()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7,), (5, 1), (33, 48), (3, 0), (0, 4)])
def test_fold_equals_twin(shape, bias, on_each_isa):
    def run(weight, bias, scale, shift, free):
        given = [weight, bias if free else None, scale, shift]
        given = [None if t is None else t.clone().requires_grad_() for t in given]
        folded, offset = torch.ops.dapt.scale_shift_fold(*given, weight.dtype)
        (folded.square().sum() + offset.pow(3).sum()).backward()
        return folded.detach(), offset.detach(), *(t.grad for t in given if t is not None)

    weight, vectors = torch.randn(shape), torch.randn(3, shape[0])
    exact = run(weight.double(), *vectors.double(), bias)
    rows = vectors[1].double().reshape(-1, *[1] * (len(shape) - 1))
    assert torch.equal(exact[0], rows * weight.double())
    for mine in on_each_isa(run, weight, *vectors, bias):
        for value, expected in zip(mine, exact, strict=True):
            torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-5)


def test_fold_rounds_once():
    weight, (bias, scale, shift) = torch.randn(9, 17), torch.randn(3, 9)
    folded, _ = torch.ops.dapt.scale_shift_fold(weight, bias, scale, shift, torch.bfloat16)
    assert torch.equal(folded, (scale[:, None] * weight).bfloat16())


def test_opcheck():
    grad, output = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    opcheck(torch.ops.dapt.scale_shift_grad, (grad, output, torch.rand(8) + 0.5, torch.rand(8)))
    weight, (bias, scale, shift) = torch.randn(8, 5), torch.randn(3, 8)
    scale.requires_grad_(), shift.requires_grad_()
    opcheck(torch.ops.dapt.scale_shift_fold, (weight, bias, scale, shift, torch.bfloat16))
    opcheck(torch.ops.dapt.scale_shift_fold_grad, (torch.randn(8, 5), torch.randn(8), weight, bias))


def test_compiles_without_graph_breaks():
    inputs = make_inputs((3, 17), 48, 96)
    for function in (scale_shift_linear, scale_shift_norm):
        if function is scale_shift_norm:
            inputs = make_inputs((3, 17), 48, 48)
            inputs["weight"] = 1 + 0.1 * inputs["weight"][:, 0]
        compiled = torch.compile(function, fullgraph=True)
        eager = run(function, inputs, torch.float32)
        assert_close(run(compiled, inputs, torch.float32), eager, 1e-5)


def test_autocast():
    tensors = {n: v.float() for n, v in make_inputs((3, 17), 48, 96).items()}
    tensors["x"].requires_grad_(), tensors["scale"].requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = scale_shift_linear(*tensors.values())
    out.float().square().sum().backward()
    assert out.dtype == torch.bfloat16
    assert tensors["x"].grad.dtype == tensors["scale"].grad.dtype == torch.float32
    exact = reference.scale_shift_linear(*(t.detach().double() for t in tensors.values()))
    assert (out.double() - exact).norm() <= 1e-2 * exact.norm()
