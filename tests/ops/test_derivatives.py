"""Every op and every kind of derivative: reverse, forward, second ones by both, torch.func. Each is
either right or an error that says that it does not exist."""

import pytest
import raw_ops
import torch
from torch.autograd import gradcheck, gradgradcheck

from dapt_ext import (
    attention,
    chamfer,
    dynamic_adapter,
    gather,
    group,
    interpolate,
    knn,
    scale_shift_linear,
    scale_shift_norm,
    submanifold_conv,
)

ops = torch.ops.dapt
B, N, M, C, R = 2, 6, 3, 4, 3


def normal(*shape):
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def adapter(names, **options):
    """The adapter as a function of the named tensors."""

    def function(*values):
        torch.manual_seed(3)  # the same dropout in every call
        given = options | dict(zip(names, values, strict=True))
        out, prompt = dynamic_adapter(given.pop("x"), **given)
        return out if prompt is None else (out, prompt)

    return function


def adapter_case(names="", **options):
    shapes = {
        "x": (B, M, C), "down_weight": (R, C), "down_bias": (R,), "up_weight": (C, R),
        "up_bias": (C,), "norm_weight": (C,), "norm_bias": (C,), "scale_weight": (1, C),
        "scale_bias": (1,), "mlp_out": (B, M, C), "residual": (B, M, C),
    }  # fmt: skip
    names = "x down_weight down_bias up_weight up_bias ".split() + names.split()
    return adapter(names, **options), [normal(*shapes[name]) for name in names]


def cases():
    """Functions of float64 tensors, by the name of the op and the variant."""
    idx = torch.randint(-1, N, (B, M, 2))
    lengths = torch.tensor([N, N - 2])
    everything = "norm_weight norm_bias scale_weight scale_bias mlp_out residual"
    frozen = torch.randn(5, C, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    factor = torch.tensor([0.5, 2.0], dtype=torch.float64)
    cells = torch.tensor([[0, 0, 0], [0, 1, 1], [2, 1, 0], [2, 2, 1]])
    neighbors = ops.neighbor_map(cells)
    return {
        "knn": (lambda q, p: knn(q, p, 2)[0], [normal(B, M, 3), normal(B, N, 3)]),
        "knn, lengths": (
            lambda q, p: knn(q, p, 2, lengths)[0],
            [normal(B, M, 3), normal(B, N, 3)],
        ),
        "group": (lambda p: group(p, 2, 3)[:2], [normal(B, N, 3)]),
        "gather": (lambda v: gather(v, idx), [normal(B, N, C)]),
        "gather_backward": (lambda g: ops.gather_backward(g, idx, N), [normal(B, M, 2, C)]),
        "interpolate": (interpolate, [normal(B, M, 3), normal(B, N, 3), normal(B, N, C)]),
        "chamfer": (chamfer, [normal(B, M, 3), normal(B, N, 3)]),
        "attention": (lambda x: attention(x, 2), [normal(B, M, 3 * C)]),
        "dynamic_adapter, bare": adapter_case(prompt=False, static_scale=0.7),
        "dynamic_adapter": adapter_case(everything, path_factor=factor, training=True, dropout=0.3),
        "dynamic_adapter, low": adapter_case(everything, memory="low", activation="quickgelu"),
        "submanifold_conv": (
            lambda x, w, b: submanifold_conv(x, w, b, neighbors),
            [normal(4, 2), normal(1, 3, 3, 3, 2), normal(1)],
        ),
        "scale_shift_linear": (
            lambda x, a, b: scale_shift_linear(x, *frozen, a, b),
            [normal(M, C), normal(5), normal(5)],
        ),
        "scale_shift_linear, scale 0": (
            lambda x, a, b: scale_shift_linear(x, frozen[0], None, torch.cat([a, 0 * a[:1]]), b),
            [normal(M, C), normal(4), normal(5)],
        ),
        "scale_shift_norm": (
            lambda x, a, b: scale_shift_norm(x, frozen[0][0], frozen[0][1], a, b),
            [normal(M, C), normal(C), normal(C)],
        ),
        "scale_shift_grad": (
            ops.scale_shift_grad,
            [normal(M, C), normal(M, C), normal(C), normal(C)],
        ),
    }


NAMES = list(cases())


@pytest.fixture
def case(request):
    return cases()[request.param]


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("case", NAMES, indirect=True)
def test_first(case):
    assert gradcheck(*case, check_forward_ad=True)


@pytest.mark.parametrize("case", NAMES, indirect=True)
def test_second(case):
    """Second derivatives by reverse and by forward mode."""
    assert gradgradcheck(*case, check_fwd_over_rev=True, atol=1e-4)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("case", NAMES, indirect=True)
def test_torch_func(case):
    function, inputs = case
    inputs = [t.detach() for t in inputs]
    places = tuple(range(len(inputs)))

    def loss(*inputs):
        outputs = function(*inputs)
        return sum(t.square().sum() for t in (outputs if isinstance(outputs, tuple) else [outputs]))

    grads = torch.func.grad(loss, places)(*inputs)
    leaves = [t.clone().requires_grad_() for t in inputs]
    expected = torch.autograd.grad(loss(*leaves), leaves)
    torch.testing.assert_close(grads, expected)
    toward = [torch.randn_like(t) for t in inputs]
    _, slope = torch.func.jvp(loss, tuple(inputs), tuple(toward))
    inner = sum((g * t).sum() for g, t in zip(expected, toward, strict=True))
    torch.testing.assert_close(slope, inner)


def differentiable():
    """All ops except those that return integers and the frozen patch encoder."""
    whole = {"fps", "ball_query", "grid_cells", "unique_cells", "neighbor_map", "curve_codes"}
    return [op for op in raw_ops.names() if op not in whole | {"patch_encoder"}]


@pytest.mark.parametrize("op", differentiable())
def test_raw_ops_in_float32(op):
    """Forward mode, which runs no kernel, must be the transpose of the kernels' reverse mode, with
    the same results along the way."""
    arguments = raw_ops.samples()[op]
    if op == "attention_backward":  # the other arguments follow from these two
        names = ["grad", "qkv"]
        arguments["out"], arguments["log_sum"] = ops.attention(arguments["qkv"], 2)
    elif op == "dynamic_adapter_backward":
        names = ["grad_out", "x", "down_weight", "scale_bias"]
        forward = {n: arguments.get(n) for n in raw_ops.samples()["dynamic_adapter"]}
        forward |= dict(out_dtype=torch.float32, prompt=True, keep_hidden=True)
        _, _, arguments["hidden"], arguments["stats"] = ops.dynamic_adapter(**forward)
    else:
        names = [n for n, t in arguments.items() if torch.is_tensor(t) and t.is_floating_point()]
    names = [name for name in names if name != "path_factor"]
    inputs = tuple(arguments[name] for name in names)

    def function(*values):
        results = raw_ops.call(op, arguments | dict(zip(names, values, strict=True)))
        return [t for t in results if t.is_floating_point()]

    toward = tuple(torch.randn_like(t) for t in inputs)
    outputs, tangents = torch.func.jvp(function, inputs, toward)
    torch.testing.assert_close(outputs, function(*inputs), rtol=1e-4, atol=1e-5)

    leaves = [t.clone().requires_grad_() for t in inputs]
    reached = [(o, t) for o, t in zip(function(*leaves), tangents, strict=True) if o.requires_grad]
    weights = [torch.randn_like(o) for o, _ in reached]
    grads = torch.autograd.grad([o for o, _ in reached], leaves, weights, allow_unused=True)
    forward = sum((t * w).sum() for (_, t), w in zip(reached, weights, strict=True))
    terms = [(g * t).sum() for g, t in zip(grads, toward, strict=True) if g is not None]
    # Relative to the terms, which may cancel out.
    size = torch.stack(terms).abs().sum()
    assert (forward - sum(terms)).abs() <= 1e-4 * size and size > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["attention", "dynamic_adapter", "scale_shift_linear", "knn"])
def test_second_derivatives_in_half_precision(name, dtype):
    """They equal those in float32 up to the rounding of intermediate results."""
    function, inputs = cases()[name]
    results = []
    for kind in (dtype, torch.float32):
        # The same numbers, which half precision can represent.
        leaves = [t.detach().to(dtype).to(kind).requires_grad_() for t in inputs]
        torch.manual_seed(0)
        outputs = function(*leaves)
        first = outputs[0] if isinstance(outputs, tuple) else outputs
        loss = 1e-2 * first.float().square().sum()  # small enough for float16
        (grad,) = torch.autograd.grad(loss, leaves[:1], create_graph=True)
        results.append(torch.autograd.grad(grad.float().square().sum(), leaves[0])[0].float())
    assert (results[0] - results[1]).norm() <= 0.05 * results[1].norm()


def test_torchs_attention_says_that_it_has_no_second_ones():
    """torch's attention is called when there is a mask."""
    mask = torch.ones(B, 1, M, M, dtype=torch.bool)
    qkv = normal(B, M, 3 * C)
    (grad,) = torch.autograd.grad(attention(qkv, 2, mask).sum(), qkv, create_graph=True)
    with pytest.raises(RuntimeError, match="derivative for .* is not implemented"):
        grad.sum().backward()
    with pytest.raises(NotImplementedError, match="forward AD"):
        torch.func.jvp(lambda x: attention(x, 2, mask), (qkv.detach(),), (qkv.detach(),))


def test_the_patch_encoder_says_that_it_has_none():
    arguments = raw_ops.samples()["patch_encoder"]
    for name in ("patches", "conv1", "bias4"):
        changed = arguments | {name: arguments[name].clone().requires_grad_()}
        with pytest.raises(RuntimeError, match="patches and weights must not require a gradient"):
            raw_ops.call("patch_encoder", changed)
        with torch.no_grad():
            raw_ops.call("patch_encoder", changed)

    def of_patches(patches):
        return raw_ops.call("patch_encoder", arguments | {"patches": patches})[0]

    patches = arguments["patches"]
    with pytest.raises(RuntimeError, match="patches and weights must not require a gradient"):
        torch.func.jvp(of_patches, (patches,), (patches,))


def test_the_factor_of_the_path_has_none():
    arguments = raw_ops.samples()["dynamic_adapter"]
    arguments["path_factor"].requires_grad_()
    with pytest.raises(RuntimeError, match="path_factor must not require a gradient"):
        raw_ops.call("dynamic_adapter", arguments)
