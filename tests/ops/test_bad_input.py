"""Bad input gives one sentence that names the argument, and never brings the process down."""

import os

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dapt_ext import (
    ball_query,
    chamfer,
    farthest_point_sample,
    gather,
    group,
    interpolate,
    knn,
)

POINTS = torch.randn(2, 10, 3)


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
        (lambda: knn(POINTS, POINTS[0], 2), r"points must be \[B, N, 3\]"),
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
    """The error comes before any work, so the inputs of the other clouds are still usable."""
    with pytest.raises(RuntimeError):
        knn(with_value(torch.nan), POINTS, 3)
    assert torch.equal(knn(POINTS, POINTS, 1)[1][..., 0], torch.arange(10).expand(2, -1))


shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)
dtypes = st.sampled_from(
    [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool]
)


@st.composite
def tensors(draw, integers=False):
    """Tensors of any shape, dtype and strides; half of them close to what the ops want."""
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
    """Either a result or one of the errors a caller may expect; anything else fails the test."""
    try:
        function(*args)
    except (RuntimeError, TypeError, ValueError) as error:
        assert str(error)


# The same examples every time, so that no change fails by another's luck; DAPT_FUZZ=20000 searches.
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
    # A row of 2^31 neighbours is a valid wish that needs too much memory.
    call_safely(ball_query, queries, points, radius, min(max_neighbors, 1000))


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
