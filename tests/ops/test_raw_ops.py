"""`torch.ops.dapt.*` trust no input: any invalid value of any argument of any op is refused in one
sentence, and whatever is accepted stays within memory (`make sanitize` runs this under
AddressSanitizer)."""

import os
import warnings

import pytest
import raw_ops
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

TENSORS = raw_ops.arguments_of(torch.Tensor)
REAL = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
OTHER = (
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.complex64,
    torch.complex32, torch.float8_e4m3fn, torch.float8_e5m2,
)  # fmt: skip


def same(mine, theirs):
    return all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_every_op_has_a_sample():
    assert sorted(raw_ops.samples()) == raw_ops.names()


@pytest.mark.parametrize("op", raw_ops.names())
def test_samples_are_valid(op):
    for result in raw_ops.call(op, raw_ops.samples()[op]):
        assert result.is_cpu and not (result.is_floating_point() and result.isnan().any())


@pytest.mark.filterwarnings("ignore")  # torch warns about beta dtypes
@pytest.mark.parametrize("op, name", TENSORS)
def test_dtypes(op, name):
    """Floating dtypes pass where floats are expected, int64 where row numbers are."""
    sample = raw_ops.samples()[op][name]
    wanted = (torch.int64,) if sample.dtype == torch.int64 else REAL
    called = "start" if name == "starts" else name
    for dtype in (*REAL, *OTHER):
        arguments = raw_ops.samples()[op] | {name: sample.to(dtype)}
        try:
            raw_ops.call(op, arguments)
        except RuntimeError as error:
            message = str(error)
            with_others = dtype == torch.float64 and "float64 where" in message
            assert "\n" not in message and (dtype not in wanted or with_others)
            assert message.startswith(f"{called} must be ") or with_others
        else:
            assert dtype in wanted or (op, name) == ("gather", "values")


@pytest.mark.parametrize("dtype", [*REAL, *OTHER, torch.quint8], ids=str)
@pytest.mark.parametrize("op, name", raw_ops.arguments_of(torch.dtype))
def test_dtypes_as_arguments(op, name, dtype):
    """They determine the size of memory, so each one is checked."""
    arguments = raw_ops.samples()[op]
    arguments[name] = dtype
    if dtype in REAL and (op == "patch_encoder" or dtype != torch.float64):
        raw_ops.call(op, arguments)
        return
    with pytest.raises(RuntimeError) as caught:
        raw_ops.call(op, arguments)
    if dtype not in (torch.float64, torch.quint8):
        assert str(caught.value).startswith(f"{name} must be float32, float64, float16 or bfloat16")


@pytest.mark.parametrize("op, name", TENSORS)
def test_meta_among_cpu(op, name):
    """torch would call the fake kernel, whose results on the CPU are uninitialized memory."""
    arguments = raw_ops.samples()[op]
    arguments[name] = arguments[name].to("meta")
    if sum(isinstance(value, torch.Tensor) for value in arguments.values()) == 1:
        assert all(result.is_meta for result in raw_ops.call(op, arguments))
        return
    with pytest.raises(RuntimeError, match="must be on the device of"):
        raw_ops.call(op, arguments)


@pytest.mark.filterwarnings("ignore")  # torch warns about beta layouts
@pytest.mark.parametrize("op, name", TENSORS)
def test_layouts(op, name):
    flat = raw_ops.samples()[op][name].reshape(-1)
    for kind, tensor in {
        "sparse": flat.to_sparse(),
        "sparse_csr": flat[None].to_sparse_csr(),
        "nested": torch.nested.as_nested_tensor([flat, flat]),
        "mkldnn": flat.float().to_mkldnn(),
        "quantized": torch.quantize_per_tensor(flat.float(), 0.1, 0, torch.qint8),
    }.items():
        arguments = raw_ops.samples()[op] | {name: tensor}
        with pytest.raises(
            RuntimeError, match=f"^{name} must be a dense tensor, got a {kind} one$"
        ):
            raw_ops.call(op, arguments)


@pytest.mark.parametrize("op, name", TENSORS)
def test_strides(op, name):
    """Any memory layout of the same numbers gives the same bits."""
    arguments = raw_ops.samples()[op]
    tensor, expected = arguments[name], raw_ops.call(op, arguments)
    wide = torch.stack([tensor, torch.zeros_like(tensor)], dim=-1)
    views = [
        wide[..., 0],
        tensor.mT.contiguous().mT if tensor.dim() > 1 else tensor.clone(),
        torch.cat([torch.zeros_like(tensor.reshape(-1)[:1]), tensor.reshape(-1)])[1:].view_as(
            tensor
        ),
    ]
    if tensor.is_floating_point():
        views.append(torch.view_as_complex(wide).conj().real)
        views.append(torch.view_as_complex(-wide.flip(-1)).conj().imag)  # negated lazily
        assert views[-1].is_neg()
    for view in views:
        assert torch.equal(view, tensor)
        arguments[name] = view
        assert same(raw_ops.call(op, arguments), expected)


@pytest.mark.parametrize("op, name", TENSORS)
def test_shapes(op, name):
    """A changed number of dimensions or an empty tensor is refused or gives a valid result."""
    tensor = raw_ops.samples()[op][name]
    for changed in (
        tensor.reshape(-1)[:0],
        tensor.reshape(-1)[0],
        tensor[None],
        tensor[..., None],
        tensor[..., :-1] if tensor.dim() else tensor[None][:0],
        tensor[1:] if tensor.dim() else tensor[None].expand(2),
        tensor.reshape(-1)[:0].reshape(0, 0, 0),
    ):
        arguments = raw_ops.samples()[op] | {name: changed}
        refused_or_finished(op, arguments)


@pytest.mark.parametrize("op, name", raw_ops.arguments_of(int))
def test_counts(op, name):
    for value in (-(2**62), -(2**31), -1, 0, 10**4, 2**62):
        refused_or_finished(op, raw_ops.samples()[op] | {name: value})


@pytest.mark.parametrize("op, name", raw_ops.arguments_of(float))
def test_numbers(op, name):
    for value in (float("nan"), float("inf"), -float("inf"), -1.0, 0.0, 1e300, 5e-324):
        refused_or_finished(op, raw_ops.samples()[op] | {name: value})


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"norm_bias": None}, "norm_weight and norm_bias must be given together"),
        ({"scale_weight": None}, "scale_weight and scale_bias must be given together"),
        ({"seed": torch.zeros(0, dtype=torch.int64)}, r"seed must be one number, got \[0\]"),
        ({"eps": -1.0}, "eps must be at least 0, got -1"),
        ({"dropout": float("nan")}, r"dropout must lie in \[0, 1\], got nan"),
    ],
)
@pytest.mark.parametrize("op", ["dynamic_adapter", "dynamic_adapter_backward"])
def test_adapter(op, changes, message):
    with pytest.raises(RuntimeError, match=message):
        raw_ops.call(op, raw_ops.samples()[op] | changes)


@pytest.mark.parametrize(
    "changes, name",
    [
        ({"wanted": ["x", "y"]}, "y"),
        ({"wanted": ["x", "x", "x"]}, None),
        ({"norm_weight": None, "norm_bias": None}, "norm_weight"),
        ({"scale_weight": None, "scale_bias": None}, "scale_weight"),
        ({"grad_out": None}, "mlp_out"),
    ],
)
def test_gradients_of_what_is_not_there(changes, name):
    arguments = raw_ops.samples()["dynamic_adapter_backward"] | changes
    if name is None:
        raw_ops.call("dynamic_adapter_backward", arguments)
        return
    with pytest.raises(RuntimeError, match=f"wanted must name only gradients .* got {name}"):
        raw_ops.call("dynamic_adapter_backward", arguments)


def refused_or_finished(op, arguments):
    """Tensors or a RuntimeError in one sentence are fine; anything else fails the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            results = raw_ops.call(op, arguments)
        except (RuntimeError, NotImplementedError) as error:
            assert str(error)
            return
    for result in results:
        assert isinstance(result, torch.Tensor) and result.numel() >= 0


SAMPLES = raw_ops.samples()
DTYPES = st.sampled_from([*REAL, *OTHER])
OTHERS = st.sampled_from([SAMPLES[op][name] for op, name in TENSORS])
NUMBERS = st.sampled_from([-1, 0, 1, 2, 3, 9, 10, 2**31, 2**62, -(2**62)])


@st.composite
def replaced(draw, value):
    """A replacement for an argument, often of the right kind."""
    match value:
        case torch.Tensor():
            views = st.sampled_from([
                value, value[..., None], value.reshape(-1)[: draw(st.integers(0, 9))],
                value.T if value.dim() == 2 else value,
            ])  # fmt: skip
            tensor = draw(st.one_of(views, OTHERS, st.none()))
            return tensor if tensor is None or draw(st.booleans()) else tensor.to(draw(DTYPES))
        case torch.dtype():
            return draw(DTYPES)
        case bool():
            return draw(st.booleans())
        case int():
            return draw(NUMBERS)
        case float():
            return draw(st.floats())
        case str():
            return draw(st.sampled_from(["gelu", "relu", "quickgelu", "", "tanh"]))
        case list():
            return draw(st.lists(st.sampled_from([*value, "y"]), max_size=12))


@st.composite
def calls(draw):
    """An op and its arguments, up to three of which are replaced."""
    op = draw(st.sampled_from(raw_ops.names()))
    arguments = dict(SAMPLES[op])
    for name in draw(st.lists(st.sampled_from(sorted(arguments)), max_size=3)):
        arguments[name] = draw(replaced(SAMPLES[op][name]))
    # Valid values that would need too much memory.
    for name in ("max_neighbors", "num_points"):
        if name in arguments:
            arguments[name] = min(arguments[name], 1000)
    return op, arguments


# The same examples in every run, so that no change fails by chance; DAPT_FUZZ=20000 searches more.
searched = int(os.environ.get("DAPT_FUZZ", "0"))


@settings(
    max_examples=searched or 300,
    derandomize=not searched,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(calls())
def test_fuzz(call):
    refused_or_finished(*call)
