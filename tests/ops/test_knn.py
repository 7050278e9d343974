"""k nearest neighbors compared with the reference, brute force and gradcheck."""

import time

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

from dapt_ext import knn, reference


@pytest.fixture
def assert_equals_twin(on_each_isa):
    def check(queries, points, k, lengths=None):
        expected_dist, expected_idx = reference.knn(queries, points, k, lengths)
        for sq_dist, idx in on_each_isa(knn, queries, points, k, lengths):
            assert torch.equal(idx, expected_idx)
            assert torch.equal(sq_dist, expected_dist)

    return check


@pytest.mark.parametrize("N", [1, 2, 31, 33, 1000, 1024, 1025, 2048, 8192])
def test_equals_twin(make_cloud, assert_equals_twin, N):
    points = make_cloud(2, N)
    queries = torch.cat([points[:, :: max(1, N // 20)][:, :20], make_cloud(2, 5)], dim=1)
    for k in {1, min(3, N), min(32, N), min(65, N)}:
        assert_equals_twin(queries, points, k)


@pytest.mark.parametrize("k", [1, 5, 32, 33, 64, 127, 512, 513, 700])
def test_any_k(make_cloud, assert_equals_twin, k):
    points = make_cloud(1, 700)
    assert_equals_twin(points[:, :9], points, k)


@pytest.mark.parametrize("D", [1, 2, 4, 5, 16, 64])
@pytest.mark.parametrize("N, k", [(1, 1), (70, 70), (5000, 9)])
def test_any_dimension(assert_equals_twin, D, N, k):
    points = torch.randn(2, N, D)
    points[:, N // 2 :] = points[:, : N - N // 2].clone()  # every distance occurs twice
    assert_equals_twin(torch.cat([points[:, :4], torch.randn(2, 3, D)], dim=1), points, k)
    lengths = torch.tensor([k, N])
    assert_equals_twin(points[:, :3], points, k, lengths)


@pytest.mark.parametrize("D", [1, 2, 4, 5, 16, 64])
def test_any_dimension_against_brute_force(D):
    points = torch.randint(-9, 9, (2, 3000, D)).float()  # integers, so that distances are exact
    queries = torch.randint(-9, 9, (2, 40, D)).float()
    exact = (queries[:, :, None].double() - points[:, None].double()).square().sum(-1)
    expected_dist, expected_idx = exact.sort(stable=True)
    sq_dist, idx = knn(queries, points, 50)
    assert torch.equal(idx, expected_idx[..., :50])
    assert torch.equal(sq_dist.double(), expected_dist[..., :50])


def test_overflow_in_any_dimension(assert_equals_twin):
    points = torch.randn(1, 100, 7) * 10.0 ** torch.randint(-30, 30, (1, 100, 1))
    assert_equals_twin(points[:, :20], points, 100)


def test_gradients_in_any_dimension():
    queries = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    points = torch.randn(2, 8, 5, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda q, p: knn(q, p, 2)[0], (queries, points))
    # float32 inputs use a different formula.
    small, large = queries.detach().float().requires_grad_(), points.detach().float()
    knn(small, large.requires_grad_(), 2)[0].square().sum().backward()
    knn(queries, points, 2)[0].square().sum().backward()
    torch.testing.assert_close(small.grad, queries.grad.float(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(large.grad, points.grad.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("k", [1, 3, 32])
def test_all_points_of_a_scene(assert_equals_twin, k):
    """Each query starts from the result of the one before: dense and sparse parts, far jumps."""
    scale = 10.0 ** torch.randint(-20, 4, (1, 24, 1, 1))
    places = scale * torch.randint(-3, 4, (1, 24, 1, 3))
    points = (places + scale * torch.randn(1, 24, 180, 3)).flatten(1, 2)
    points[:, 3800:4100] = points[:, 500:501]
    assert_equals_twin(points, points, k)
    assert_equals_twin(points.flip(1)[:, ::7] * 1.5, points, k, torch.tensor([4200]))


@pytest.mark.parametrize("k", [1, 9, 600])
def test_crowds_in_one_place(assert_equals_twin, k):
    """Only the first k points of a crowd can be neighbors, so no more of them are searched."""
    points = torch.randn(1, 9000, 3)
    points[:, :3000] = points[:, :1]  # one crowd, which others coincide with
    points[:, 3000:6000:2] = points[:, 1:2]
    points[:, 3001:6000:2] *= 1e-3
    points = points[:, torch.randperm(9000)]
    assert_equals_twin(points[:, :40], points, k)
    assert_equals_twin(points[:, :9], points, k, torch.tensor([5000]))


def test_points_in_one_place_cost_no_more_than_others():
    """Searching all of them for each query would take hundreds of times as long."""

    def seconds(points):
        best = []
        for _ in range(3):
            begin = time.process_time()
            knn(points[:, :2000], points, 16)
            best.append(time.process_time() - begin)
        return min(best)

    apart = torch.randn(1, 50_000, 3)
    for points in (apart[:, :1].repeat(1, 50_000, 1), apart[:, torch.arange(50_000) % 20]):
        assert seconds(points) < 4 * seconds(apart)


def test_real_scans(scans, assert_equals_twin):
    for points in scans.values():
        for k in (3, 32):
            assert_equals_twin(points[:, ::499].contiguous(), points, k)


def test_many_queries_of_a_large_cloud_agree_with_few(scans):
    """A large job may be pruned spatially, a small one not."""
    points = scans["scannet_room"]
    sq_dist, idx = knn(points, points, 16)
    few = slice(100, 40000, 977)
    few_dist, few_idx = knn(points[:, few], points, 16)
    assert torch.equal(idx[:, few], few_idx) and torch.equal(sq_dist[:, few], few_dist)


def test_nearest_first_against_float64():
    queries, points = torch.randn(2, 50, 3), torch.randn(2, 400, 3)
    sq_dist, idx = knn(queries, points, 20)
    exact = torch.cdist(queries.double(), points.double()).square()
    assert (sq_dist.diff(dim=-1) >= 0).all()
    # Differences are squared in float32, so the relative error is a few roundings.
    torch.testing.assert_close(sq_dist.double(), exact.gather(-1, idx), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(
        sq_dist.double(), exact.sort(-1).values[..., :20], rtol=1e-6, atol=1e-9
    )


def test_lengths(make_cloud, assert_equals_twin):
    points, lengths = make_cloud(4, 300), torch.tensor([300, 40, 41, 150])
    queries = make_cloud(4, 11)
    assert_equals_twin(queries, points, 40, lengths)
    idx = knn(queries, points, 40, lengths)[1]
    assert (idx < lengths[:, None, None]).all()


def test_overflowing_distances_stay_within_lengths(on_each_isa):
    """Points past the length must not win over valid points at infinite distance."""
    points = torch.full((1, 40, 3), 1e30)
    points[0, 20:] = 0
    for _, idx in on_each_isa(knn, torch.zeros(1, 1, 3), points, 20, torch.tensor([20])):
        assert torch.equal(idx[0, 0], torch.arange(20))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_is_computed_in_float32(dtype):
    queries, points = torch.randn(2, 5, 3).to(dtype), torch.randn(2, 60, 3).to(dtype)
    sq_dist, idx = knn(queries, points, 7)
    expected_dist, expected_idx = knn(queries.float(), points.float(), 7)
    assert sq_dist.dtype == torch.float32
    assert torch.equal(idx, expected_idx) and torch.equal(sq_dist, expected_dist)


def test_any_strides(assert_equals_twin):
    points, queries = torch.randn(3, 3, 80).mT, torch.randn(1, 9, 6)[..., ::2].expand(3, -1, -1)
    assert not points.is_contiguous() and not queries.is_contiguous()
    assert_equals_twin(queries, points, 5)


def test_empty():
    assert knn(torch.empty(0, 4, 3), torch.empty(0, 9, 3), 2)[1].shape == (0, 4, 2)
    assert knn(torch.empty(2, 0, 3), torch.randn(2, 9, 3), 2)[1].shape == (2, 0, 2)


def test_gradients():
    torch.manual_seed(0)
    queries = torch.randn(2, 6, 3, dtype=torch.float64, requires_grad=True)
    points = torch.randn(2, 20, 3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda q, p: knn(q, p, 4)[0], (queries, points))
    assert gradgradcheck(lambda q, p: knn(q, p, 4)[0], (queries, points))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_gradients_of_the_op_against_the_twin(dtype):
    queries, points = torch.randn(2, 30, 3).to(dtype), torch.randn(2, 90, 3).to(dtype)
    weight = torch.randn(2, 30, 8)
    grads = []
    for op in (knn, reference.knn):
        q, p = queries.clone().requires_grad_(), points.clone().requires_grad_()
        (op(q, p, 8)[0] * weight).sum().backward()
        grads.append((q.grad, p.grad))
    # half precision rounds once, sums of up to about 30
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for mine, twin in zip(*grads, strict=True):
        assert mine.dtype == dtype
        torch.testing.assert_close(mine, twin, rtol=tolerance, atol=tolerance)


def test_backward_repeats_bitwise():
    queries, points = torch.randn(2, 500, 3), torch.randn(2, 40, 3, requires_grad=True)
    weight = torch.randn(2, 500, 16)
    grads = [
        torch.autograd.grad((knn(queries, points, 16)[0] * weight).sum(), points)[0]
        for _ in range(3)
    ]
    assert all(torch.equal(grads[0], other) for other in grads[1:])


def test_opcheck():
    queries, points = torch.randn(2, 6, 3), torch.randn(2, 40, 3)
    opcheck(torch.ops.dapt.knn, (queries.requires_grad_(), points.requires_grad_(), 5))
    opcheck(torch.ops.dapt.knn, (queries.detach(), points.detach().mT.contiguous().mT, 5))
    opcheck(torch.ops.dapt.knn, (queries.detach(), points.detach(), 5, torch.tensor([5, 40])))


def test_compiles_without_graph_breaks():
    compiled = torch.compile(lambda q, p: knn(q, p, 3)[0].sum(), fullgraph=True)
    queries, points = torch.randn(2, 6, 3, requires_grad=True), torch.randn(2, 40, 3)
    total = compiled(queries, points)
    torch.testing.assert_close(total, knn(queries, points, 3)[0].sum())
    total.backward()
    assert queries.grad.abs().sum() > 0
