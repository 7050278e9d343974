"""The two searches of farthest point sampling on the CPU, plain and by buckets, compared with each
other and the reference. `buckets_pay` in csrc/cpu/fps.cpp chooses between them."""

import pytest
import torch

from dapt_ext import farthest_point_sample, reference

fps = torch.ops.dapt.fps

# (N, M): M samples search plainly, M + 1 use buckets: N * M <= 50 * N + 1000 * M.
BOUNDARIES = [(1100, 550), (2048, 97), (6000, 60), (51000, 51)]


def _crowded(name: str, N: int) -> torch.Tensor:
    """Clouds [1, N, 3] that fill few cells of their bounding box."""
    points = torch.randn(1, N, 3)
    if name == "outlier":
        points[0, N // 2] = 1e30
    elif name == "geometric":
        points = torch.exp2(-torch.rand(1, N, 3) * 200)
    elif name == "far away":
        points = 1e8 + 30 * points  # a unit in the last place is 8
    elif name == "two piles":
        points = (torch.rand(1, N, 1) < 0.5).float().expand(-1, -1, 3).contiguous()
    elif name == "flat":
        points[..., 2] = 0.25
    elif name == "widest":
        points = (2 * torch.rand(1, N, 3) - 1) * 3.4e38  # the extent overflows
    return points


CROWDED = ["outlier", "geometric", "far away", "two piles", "flat", "widest"]


@pytest.mark.parametrize("N, M", BOUNDARIES)
def test_searches_agree_where_the_choice_changes(make_cloud, on_each_isa, N, M):
    points = make_cloud(1, N)
    plain = on_each_isa(farthest_point_sample, points, M)
    buckets = on_each_isa(farthest_point_sample, points, M + 1)
    for idx in plain:
        assert torch.equal(idx, plain[0])
    for idx in buckets:
        assert torch.equal(idx, buckets[0])
    assert torch.equal(buckets[0][:, :M], plain[0])


@pytest.mark.parametrize("name", CROWDED)
# buckets of 64 points, and of 128 from 32768 points on
@pytest.mark.parametrize("N", [2049, 32767, 32768])
def test_buckets_equal_twin_on_crowded_clouds(on_each_isa, name, N):
    points = _crowded(name, N)
    expected = reference.farthest_point_sample(points, 110, start=N - 1)
    for idx in on_each_isa(farthest_point_sample, points, 110, start=N - 1):
        assert torch.equal(idx, expected)


@pytest.mark.parametrize("name", CROWDED)
def test_buckets_choose_every_point_once(on_each_isa, name):
    points = _crowded(name, 1500)
    expected = reference.farthest_point_sample(points, 1500)
    for idx in on_each_isa(farthest_point_sample, points, 1500):
        assert torch.equal(idx, expected)


def test_each_cloud_of_a_batch_takes_its_own_search(on_each_isa):
    points, lengths = torch.randn(4, 3000, 3), torch.tensor([400, 3000, 1000, 2999])
    starts = torch.tensor([399, 0, 7, 2998])
    expected = reference.farthest_point_sample(points, 400, lengths, starts)
    for idx in on_each_isa(farthest_point_sample, points, 400, lengths, starts):
        assert torch.equal(idx, expected)


@pytest.mark.parametrize("scale, start", [(1, 2000), (1e30, 5)])  # 1e30: all distances infinite
def test_points_near_the_origin_stay_out_of_buckets(on_each_isa, scale, start):
    """More samples than candidates: these in order, then the start repeatedly."""
    points = torch.randn(1, 2500, 3)
    points[0, :70] *= scale
    points[0, 70:] *= 0.001
    candidates = torch.cat([torch.tensor([start]), torch.arange(70)]).unique()
    first = candidates.tolist().index(start)
    order = farthest_point_sample(points[:, candidates], len(candidates), start=first)[0]
    expected = torch.cat([candidates[order], torch.full((120 - len(order),), start)])[None]
    for idx in on_each_isa(fps, points, 120, start=start, skip_near_origin=True):
        assert torch.equal(idx, expected)
