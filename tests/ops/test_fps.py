"""Farthest point sampling compared with its reference, and its own properties."""

import pytest
import torch
from torch.library import opcheck

from dapt_ext import farthest_point_sample, reference

SIZES = [1, 2, 31, 33, 1000, 1024, 1025, 2048, 8192]


@pytest.mark.parametrize("N", SIZES)
def test_equals_twin(make_cloud, on_each_isa, N):
    points = make_cloud(2, N)
    M = min(N, 70)
    expected = reference.farthest_point_sample(points, M)
    for idx in on_each_isa(farthest_point_sample, points, M):
        assert torch.equal(idx, expected)


@pytest.mark.parametrize("N", [1, 2, 33, 1000, 3000])
def test_chooses_every_point_once(make_cloud, on_each_isa, N):
    points = make_cloud(1, N)
    expected = reference.farthest_point_sample(points, N)
    assert torch.equal(expected.sort().values, torch.arange(N)[None])
    for idx in on_each_isa(farthest_point_sample, points, N):
        assert torch.equal(idx, expected)


def test_real_scans(scans, on_each_isa):
    for points in scans.values():
        expected = reference.farthest_point_sample(points, 100)
        for idx in on_each_isa(farthest_point_sample, points, 100):
            assert torch.equal(idx, expected)


def test_coincident_points_come_last_in_index_order():
    points = torch.tensor([[[0.0, 0, 0]] * 3 + [[1.0, 0, 0]] * 2 + [[0.0, 2, 0]]])
    assert farthest_point_sample(points, 6).tolist() == [[0, 5, 3, 1, 2, 4]]


def test_each_sample_is_the_farthest():
    points = torch.randn(3, 500, 3, dtype=torch.float64).float()
    idx = farthest_point_sample(points, 40)
    chosen = points.gather(1, idx[..., None].expand(-1, -1, 3)).double()
    distance = torch.cdist(points.double(), chosen)  # [B, N, M]
    for m in range(1, 40):
        nearest = distance[..., :m].amin(-1)
        taken = nearest.gather(1, idx[:, m : m + 1])[:, 0]
        # The kernel computes in float32, so rounding may make it miss the float64 maximum.
        assert (taken >= nearest.amax(-1) * (1 - 1e-6)).all()


def test_samples_do_not_depend_on_the_order_of_points():
    points = torch.randn(1, 700, 3)
    order = torch.cat([torch.zeros(1, dtype=torch.long), 1 + torch.randperm(699)])
    idx, shuffled = farthest_point_sample(points, 50), farthest_point_sample(points[:, order], 50)
    assert torch.equal(order[shuffled], idx)


def test_lengths(on_each_isa):
    points = torch.randn(5, 900, 3)
    lengths = torch.tensor([900, 64, 65, 130, 899])
    expected = reference.farthest_point_sample(points, 64, lengths)
    for idx in on_each_isa(farthest_point_sample, points, 64, lengths):
        assert torch.equal(idx, expected)
    for b, length in enumerate(lengths):
        assert torch.equal(idx[b], farthest_point_sample(points[b : b + 1, :length], 64)[0])


def test_start():
    points = torch.randn(4, 100, 3)
    starts = torch.tensor([0, 99, 7, 50])
    idx = farthest_point_sample(points, 20, start=starts)
    assert torch.equal(idx, reference.farthest_point_sample(points, 20, start=starts))
    assert torch.equal(farthest_point_sample(points, 20, start=7)[2], idx[2])


def test_random_start_is_seeded_and_within_each_cloud():
    points, lengths = torch.randn(1000, 10, 3), torch.full((1000,), 4)
    torch.manual_seed(3)
    first = farthest_point_sample(points, 2, lengths, start="random")[:, 0]
    torch.manual_seed(3)
    assert torch.equal(first, farthest_point_sample(points, 2, lengths, start="random")[:, 0])
    assert first.unique().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_are_computed_in_float32(dtype):
    points = torch.randn(2, 300, 3).to(dtype)
    assert torch.equal(farthest_point_sample(points, 30), farthest_point_sample(points.float(), 30))


def test_any_strides():
    base = torch.randn(3, 4, 200)
    for points in (
        base[:, 1:].transpose(1, 2),
        base[:, :3, ::2].mT,
        base[0, :3].T.expand(5, -1, -1),
    ):
        assert not points.is_contiguous()
        expected = farthest_point_sample(points.contiguous(), 20)
        assert torch.equal(farthest_point_sample(points, 20), expected)


@pytest.mark.parametrize("shape", [(0, 10, 3), (0, 0, 3)])
def test_empty_batch(shape):
    assert farthest_point_sample(torch.empty(shape), 5).shape == (0, 5)


def test_batch_of_33_on_two_threads():
    points = torch.randn(33, 257, 3)
    assert torch.equal(
        farthest_point_sample(points, 31), reference.farthest_point_sample(points, 31)
    )


def test_skip_near_origin_follows_pointnet2(on_each_isa):
    points = torch.randn(2, 400, 3)
    points[:, ::3] *= 0.01  # squared norms below 1e-3
    hidden = points.square().sum(-1) <= 1e-3
    idx, *others = on_each_isa(torch.ops.dapt.fps, points, 100, skip_near_origin=True)
    assert all(torch.equal(idx, other) for other in others)
    assert not hidden.gather(1, idx)[:, 1:].any()
    for b in range(2):
        kept = torch.cat([torch.zeros(1, dtype=torch.long), (~hidden[b]).nonzero()[:, 0]])
        expected = kept[farthest_point_sample(points[b : b + 1, kept], 100)[0]]
        assert torch.equal(idx[b], expected)


def test_skip_near_origin_repeats_the_start_when_nothing_is_left(on_each_isa):
    points = torch.zeros(1, 50, 3)
    points[0, 7] = 1
    for idx in on_each_isa(torch.ops.dapt.fps, points, 4, skip_near_origin=True):
        assert idx.tolist() == [[0, 7, 0, 0]]


def test_opcheck():
    points = torch.randn(3, 60, 3)
    for args in (
        (points, 8),
        (points.half(), 8, torch.tensor([60, 8, 30])),
        (points.mT.contiguous().mT, 8, None, torch.tensor([1, 2, 3])),
        (points[:0], 8),
    ):
        opcheck(torch.ops.dapt.fps, args)


def test_compiles_without_graph_breaks():
    compiled = torch.compile(
        lambda p: farthest_point_sample(p, 9, start="random") + 1, fullgraph=True, dynamic=True
    )
    for N in (50, 77):
        assert compiled(torch.randn(2, N, 3)).shape == (2, 9)
