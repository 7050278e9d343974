"""Bad input gives one sentence that names the argument, and never crashes the process."""

import os

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dapt_ext import (
    PatchEncoderWeights,
    attention,
    ball_query,
    chamfer,
    curve_codes,
    dynamic_adapter,
    farthest_point_sample,
    gather,
    grid_sample,
    group,
    interpolate,
    knn,
    neighbor_map,
    patch_encoder,
    scale_shift_linear,
    scale_shift_norm,
    submanifold_conv,
    unique_cells,
)

POINTS = torch.randn(2, 10, 3)
ROWS = torch.randn(2, 5, 6)  # activations
ADAPTER = (torch.randn(4, 6), torch.randn(4), torch.randn(6, 4), torch.randn(6))
LAYERS = PatchEncoderWeights(
    *(torch.randn(shape) for shape in ((4, 3), 4, (5, 4), 5, (6, 5), (6, 5), 6, (7, 6), 7))
)
VECTOR = torch.randn(6)


def with_value(value):
    points = POINTS.clone()
    points[1, 7, 2] = value
    return points


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: farthest_point_sample(POINTS[0], 2), r"points must be \[B, N, 3\], got \[10, 3\]"),
        (
            lambda: farthest_point_sample(POINTS[..., :2], 2),
            r"points must be \[B, N, 3\], got \[2, 10, 2\]",
        ),
        (lambda: farthest_point_sample(POINTS.long(), 2), "points must be float32.*got int64"),
        (lambda: farthest_point_sample(POINTS.numpy(), 2), "points must be a torch.Tensor"),
        (lambda: farthest_point_sample(POINTS, 0), "num_samples must be at least 1, got 0"),
        (lambda: farthest_point_sample(POINTS, -3), "num_samples must be at least 1, got -3"),
        (lambda: farthest_point_sample(POINTS, 11), "num_samples must be at most the 10 .* got 11"),
        (
            lambda: farthest_point_sample(POINTS, 4, torch.tensor([10, 3])),
            "num_samples must be at most .* got 4 for cloud 1 of length 3",
        ),
        (
            lambda: farthest_point_sample(POINTS, 1, torch.tensor([10, -1])),
            r"lengths must lie in \[0, 10\], got -1 for cloud 1",
        ),
        (
            lambda: farthest_point_sample(POINTS, 1, torch.tensor([11, 3])),
            r"lengths must lie in \[0, 10\], got 11 for cloud 0",
        ),
        (
            lambda: farthest_point_sample(POINTS, 1, torch.tensor([1, 2, 3])),
            r"lengths must be \[2\], one value per cloud, got \[3\]",
        ),
        (
            lambda: farthest_point_sample(POINTS, 1, torch.tensor([1.0, 2.0])),
            "lengths must be int64, got float32",
        ),
        (
            lambda: farthest_point_sample(POINTS, 2, start=10),
            r"start must lie in \[0, 10\), got 10 for cloud 0",
        ),
        (lambda: farthest_point_sample(POINTS, 2, start=-1), "start must lie in .* got -1"),
        (
            lambda: farthest_point_sample(POINTS, 2, torch.tensor([9, 4]), torch.tensor([0, 4])),
            r"start must lie in \[0, 4\), got 4 for cloud 1",
        ),
        (lambda: farthest_point_sample(POINTS, 2, start="last"), "start must be an int, "),
        (lambda: farthest_point_sample(POINTS[0], 2, start="random"), "points must be"),
        (
            lambda: farthest_point_sample(with_value(torch.nan), 2),
            r"points must be finite, got .*nan.* in cloud 1, point 7",
        ),
        (
            lambda: group(with_value(torch.inf), 2, 2),
            r"points must be finite, got .*inf.* in cloud 1, point 7",
        ),
        (lambda: knn(POINTS, POINTS, 0), "k must be at least 1, got 0"),
        (lambda: knn(POINTS, POINTS, 11), "k must be at most the 10 points .* got 11"),
        (
            lambda: knn(POINTS, POINTS, 5, torch.tensor([5, 4])),
            "k must be at most .* got 5 for cloud 1 of length 4",
        ),
        (lambda: knn(POINTS[:1], POINTS, 2), r"points must have the batch size of queries \(1\)"),
        (lambda: knn(POINTS, POINTS.to("meta"), 2), "points must be on the device of queries"),
        (lambda: knn(with_value(torch.nan), POINTS, 2), "queries must be finite"),
        (lambda: knn(POINTS, POINTS[0], 2), r"points must be \[B, N, D\]"),
        (
            lambda: knn(POINTS, POINTS[..., :2], 2),
            r"points must have the 3 coordinates of queries, got \[2, 10, 2\]",
        ),
        (
            lambda: knn(POINTS[..., :0], POINTS[..., :0], 2),
            r"queries must be \[B, N, D\] with at least one coordinate, got \[2, 10, 0\]",
        ),
        (
            lambda: knn(with_value(torch.nan).repeat(1, 1, 2), POINTS.repeat(1, 1, 2), 2),
            "queries must be finite, got nan at coordinate 2 in cloud 1, point 7",
        ),
        (lambda: group(POINTS, 11, 2), "num_groups must be at most the 10"),
        (lambda: group(POINTS, 2, 11), "group_size must be at most the 10"),
        (lambda: group(POINTS, 2, 0), "group_size must be at least 1"),
        (lambda: ball_query(POINTS, POINTS, 0.0, 2), "radius must be positive, got 0"),
        (lambda: ball_query(POINTS, POINTS, torch.nan, 2), "radius must be positive, got nan"),
        (lambda: ball_query(POINTS, POINTS, 1.0, 0), "max_neighbors must be at least 1, got 0"),
        (lambda: gather(POINTS, torch.full((2, 1), 10)), r"idx must lie in \[-1, 10\), got 10"),
        (lambda: gather(POINTS, torch.tensor([[0], [-2]])), "idx .* got -2 for cloud 1"),
        (lambda: gather(POINTS, torch.zeros(2, 1)), "idx must be int64, got float32"),
        (lambda: gather(POINTS[0], torch.zeros(2, 1).long()), r"values must be \[B, N, C\]"),
        (lambda: gather(POINTS, torch.zeros(2).long()), r"idx must be \[B, ...\], got \[2\]"),
        (lambda: gather(POINTS, torch.zeros(3, 1).long()), "idx must have the batch size of"),
        (lambda: interpolate(POINTS, POINTS[:, :2], POINTS[:, :2]), "k must be at most the 2"),
        (lambda: interpolate(POINTS, POINTS, POINTS[:, :4]), "values must be .* one row per point"),
        (lambda: chamfer(POINTS, POINTS[:, :0]), "a and b must hold at least one point"),
        (lambda: chamfer(POINTS, POINTS[:1]), "b must have the batch size of a"),
        (lambda: dynamic_adapter(ROWS[0], *ADAPTER), r"x must be \[B, T, C\], got \[5, 6\]"),
        (lambda: dynamic_adapter(ROWS[..., :5], *ADAPTER), r"down_weight must be \[4, 5\], got"),
        (lambda: dynamic_adapter(ROWS, *ADAPTER[:3], VECTOR[:5]), r"up_bias must be \[6\], got"),
        (lambda: dynamic_adapter(ROWS.long(), *ADAPTER), "x must be float32.*got int64"),
        (
            lambda: dynamic_adapter(ROWS, *ADAPTER, norm_weight=VECTOR),
            "norm_weight and norm_bias must be given together",
        ),
        (
            lambda: dynamic_adapter(ROWS, *ADAPTER, scale_weight=VECTOR[None]),
            "scale_weight and scale_bias must be given together",
        ),
        (
            lambda: dynamic_adapter(ROWS, *ADAPTER, mlp_out=ROWS[:1]),
            r"mlp_out must be \[2, 5, 6\], got \[1, 5, 6\]",
        ),
        (
            lambda: dynamic_adapter(ROWS, *ADAPTER, activation="tanh"),
            'activation must be "gelu", "relu" or "quickgelu", got "tanh"',
        ),
        (
            lambda: dynamic_adapter(ROWS, *ADAPTER, memory="none"),
            'memory must be "default" or "low", got \'none\'',
        ),
        (
            lambda: dynamic_adapter(ROWS, *ADAPTER, dropout=1.5, training=True),
            r"dropout must lie in \[0, 1\], got 1.5",
        ),
        (
            lambda: patch_encoder(POINTS, LAYERS),
            r"patches must be \[B, G, K, D\] .*got \[2, 10, 3\]",
        ),
        (
            lambda: patch_encoder(POINTS[:, :, None, :2], LAYERS),
            r"conv1 must be \[4, 2\], got \[4, 3\]",
        ),
        (
            lambda: patch_encoder(POINTS[:, :, None], LAYERS._replace(conv4=torch.randn(7, 5))),
            r"conv4 must be \[7, 6\], got \[7, 5\]",
        ),
        (
            lambda: scale_shift_linear(ROWS, torch.randn(4, 6), None, VECTOR, VECTOR[:4]),
            r"scale must be \[4\], got \[6\]",
        ),
        (
            lambda: scale_shift_linear(
                ROWS, torch.randn(4, 6, requires_grad=True), None, VECTOR[:4], VECTOR[:4]
            ),
            "weight and bias must be frozen",
        ),
        (
            lambda: scale_shift_norm(ROWS, VECTOR, VECTOR, VECTOR[:3], VECTOR),
            r"scale must be \[6\], got \[3\]",
        ),
    ],
)
def test_message(call, message):
    with pytest.raises((RuntimeError, TypeError, ValueError), match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_unknown_instruction_set(monkeypatch):
    monkeypatch.setenv("DAPT_CPU_ISA", "sse9")
    with pytest.raises(RuntimeError, match="DAPT_CPU_ISA must be one of .*, got sse9"):
        farthest_point_sample(POINTS, 2)


def test_a_bad_cloud_does_not_reach_the_result():
    """The error comes before any work, so other clouds are unaffected."""
    with pytest.raises(RuntimeError):
        knn(with_value(torch.nan), POINTS, 3)
    assert torch.equal(knn(POINTS, POINTS, 1)[1][..., 0], torch.arange(10).expand(2, -1))


shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)
dtypes = st.sampled_from(
    [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool]
)


@st.composite
def tensors(draw, integers=False):
    """Tensors of any shape, dtype and strides; half of them close to what the ops accept."""
    shape = draw(st.one_of(shapes, st.tuples(st.integers(0, 3), st.integers(0, 6), st.just(3))))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    dtype = draw(st.one_of(st.just(torch.int64 if integers else torch.float32), dtypes))
    tensor = torch.from_numpy(rng.normal(scale=4, size=shape)).to(dtype)
    if tensor.dim() >= 2 and draw(st.booleans()):
        tensor = tensor.transpose(0, -1)
    if tensor.numel() and tensor.is_floating_point() and draw(st.integers(0, 9)) == 0:
        tensor.reshape(-1)[0] = draw(st.sampled_from([torch.nan, torch.inf, 1e38]))
    return tensor


counts = st.one_of(st.integers(-2, 7), st.sampled_from([2**31, -(2**31), 2**62]))
per_cloud = st.one_of(
    st.none(), tensors(integers=True), st.lists(st.integers(-1, 6), max_size=3).map(torch.tensor)
)


def call_safely(function, *args):
    """The result or an expected error is fine; anything else fails the test."""
    try:
        function(*args)
    except (RuntimeError, TypeError, ValueError) as error:
        assert str(error)


sizes = st.integers(0, 4)

# The same examples in every run, so that no change fails by chance; DAPT_FUZZ=20000 searches more.
searched = int(os.environ.get("DAPT_FUZZ", "0"))
fuzz = settings(
    max_examples=searched or 300,
    derandomize=not searched,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@fuzz
@given(tensors(), counts, per_cloud, st.one_of(counts, st.just("random"), per_cloud))
def test_fuzz_fps(points, num_samples, lengths, start):
    call_safely(farthest_point_sample, points, num_samples, lengths, start)


@fuzz
@given(tensors(), tensors(), counts, per_cloud)
def test_fuzz_knn(queries, points, k, lengths):
    call_safely(knn, queries, points, k, lengths)


@fuzz
@given(tensors(), counts, counts, per_cloud, counts)
def test_fuzz_group(points, num_groups, group_size, lengths, start):
    call_safely(group, points, num_groups, group_size, lengths, start)


@fuzz
@given(tensors(), tensors(), st.floats(), counts)
def test_fuzz_ball_query(queries, points, radius, max_neighbors):
    # A row of 2^31 neighbors is a valid request that needs too much memory.
    call_safely(ball_query, queries, points, radius, min(max_neighbors, 1000))


@fuzz
@given(tensors(), st.floats(), per_cloud)
def test_fuzz_grid_sample(points, size, lengths):
    call_safely(grid_sample, points, size, lengths)


@fuzz
@given(tensors(integers=True), st.one_of(st.none(), tensors(integers=True)), counts, per_cloud)
def test_fuzz_cells(cells, scenes, depth, depths):
    call_safely(unique_cells, cells, scenes)
    call_safely(neighbor_map, cells, scenes)
    for given_depth in (depth, depths):
        call_safely(curve_codes, cells, given_depth, scenes)


@fuzz
@given(st.tuples(*3 * [tensors()]), tensors(integers=True), sizes, sizes, sizes)
def test_fuzz_submanifold_conv(values, neighbors, M, C, D):
    x, weight, bias = values
    call_safely(submanifold_conv, x, weight, bias, neighbors)
    x, weight = torch.randn(M, C), torch.randn(D, 3, 3, 3, C)
    call_safely(submanifold_conv, x, weight, bias, neighbors)
    neighbors = torch.randint(-1, M, (M, 27)) if M else torch.zeros(0, 27).long()
    out = submanifold_conv(x.requires_grad_(), weight.requires_grad_(), None, neighbors)
    out.sum().backward()


@fuzz
@given(tensors(), tensors(integers=True))
def test_fuzz_gather(values, idx):
    call_safely(gather, values, idx)


@fuzz
@given(tensors(), tensors(integers=True), counts, st.one_of(st.none(), tensors()))
def test_fuzz_gather_backward(grad, idx, num_points, weights):
    call_safely(torch.ops.dapt.gather_backward, grad, idx, min(num_points, 1000), weights)


@fuzz
@given(tensors(), tensors(), tensors(), counts)
def test_fuzz_interpolate(queries, points, values, k):
    call_safely(interpolate, queries, points, values, k)


@fuzz
@given(tensors(), tensors(integers=True), tensors())
def test_fuzz_interpolate_op(values, idx, weights):
    call_safely(torch.ops.dapt.interpolate, values, idx, weights)


@fuzz
@given(tensors(), tensors())
def test_fuzz_chamfer(a, b):
    call_safely(chamfer, a, b)


some_tensor = st.one_of(st.none(), tensors())


@fuzz
@given(st.tuples(*5 * [tensors()]), st.tuples(*7 * [some_tensor]), st.floats(), st.booleans())
def test_fuzz_dynamic_adapter(required, optional, dropout, training):
    names = "norm_weight norm_bias scale_weight scale_bias mlp_out residual path_factor".split()
    options = dict(zip(names, optional, strict=True))
    call_safely(lambda: dynamic_adapter(*required, **options, dropout=dropout, training=training))


@fuzz
@given(sizes, sizes, sizes, sizes, st.booleans(), st.sampled_from(["default", "low"]))
def test_any_sizes_of_the_adapter(B, T, C, r, norm, memory):
    """If the shapes agree, even with zeros, it either runs both ways or says why not."""
    x = torch.randn(B, T, C, requires_grad=True)
    parameters = [torch.randn(r, C), torch.randn(r), torch.randn(C, r), torch.randn(C)]
    options = {"norm_weight": torch.ones(C), "norm_bias": torch.ones(C)} if norm else {}
    for parameter in parameters:
        parameter.requires_grad_()

    def both_ways():
        out, prompt = dynamic_adapter(x, *parameters, **options, memory=memory)
        (out.sum() + prompt.sum()).backward()

    call_safely(both_ways)


@fuzz
@given(tensors(), st.lists(sizes, min_size=4, max_size=4), sizes, sizes, sizes)
def test_any_sizes_of_the_patch_encoder(bias, widths, B, G, K):
    D, first, middle, last = widths
    shapes = [(first, D), first, (middle, first), middle, (last, middle), (last, middle), last]
    weights = [torch.randn(shape) for shape in (*shapes, (3, last), 3)]
    call_safely(lambda: patch_encoder(torch.randn(B, G, K, D), PatchEncoderWeights(*weights)))
    weights[1] = bias
    call_safely(lambda: patch_encoder(torch.randn(B, G, K, D), PatchEncoderWeights(*weights)))


@fuzz
@given(st.tuples(*5 * [tensors()]))
def test_fuzz_scale_shift(values):
    call_safely(scale_shift_linear, *values)
    call_safely(scale_shift_norm, *values)


@fuzz
@given(st.tuples(*4 * [tensors()]))
def test_fuzz_scale_shift_grad(values):
    call_safely(torch.ops.dapt.scale_shift_grad, *values)
    call_safely(torch.ops.dapt.scale_shift_fold_grad, *values)
    call_safely(torch.ops.dapt.scale_shift_fold, *values, torch.float32)


@fuzz
@given(tensors(), counts)
def test_fuzz_attention(qkv, num_heads):
    call_safely(attention, qkv, num_heads)
    call_safely(torch.ops.dapt.attention, qkv, num_heads)


@fuzz
@given(st.tuples(*4 * [tensors()]), counts)
def test_fuzz_attention_backward(values, num_heads):
    call_safely(torch.ops.dapt.attention_backward, *values, num_heads)
