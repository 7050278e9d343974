"""Grouping compared with its reference and its parts."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

from dapt_ext import Groups, farthest_point_sample, gather, group, knn, reference
from dapt_ext.compat.pointnet2_ops.pointnet2_utils import furthest_point_sample


@pytest.mark.parametrize("N, G, K", [(1, 1, 1), (33, 33, 33), (1000, 17, 5), (1024, 64, 32)])
def test_equals_twin(make_cloud, on_each_isa, N, G, K):
    points = make_cloud(2, N)
    expected = reference.group(points, G, K)
    for groups in on_each_isa(group, points, G, K):
        assert all(torch.equal(mine, twin) for mine, twin in zip(groups, expected, strict=True))


def test_is_fps_then_knn_then_gather_minus_center():
    points, lengths = torch.randn(3, 500, 3), torch.tensor([500, 300, 100])
    groups = group(points, 20, 16, lengths, start=3)
    assert isinstance(groups, Groups)
    center_idx = farthest_point_sample(points, 20, lengths, start=3)
    centers = gather(points, center_idx)
    patch_idx = knn(centers, points, 16, lengths)[1]
    assert torch.equal(groups.center_idx, center_idx)
    assert torch.equal(groups.centers, centers)
    assert torch.equal(groups.patch_idx, patch_idx)
    assert torch.equal(groups.patches, gather(points, patch_idx) - centers[:, :, None])


@pytest.mark.parametrize("start", [0, 7])
def test_near_the_origin_no_center_where_it_is_skipped(on_each_isa, start):
    points = torch.randn(2, 400, 3)
    points[:, ::3] *= 0.005
    near = points.square().sum(-1) <= 1e-3
    lengths = torch.tensor([400, 250])
    options = {"lengths": lengths, "start": start, "near_origin": "skip"}
    expected = reference.group(points, 100, 9, **options)
    for groups in on_each_isa(group, points, 100, 9, **options):
        assert all(torch.equal(mine, twin) for mine, twin in zip(groups, expected, strict=True))
    assert near.gather(1, groups.patch_idx.flatten(1)).any()  # but they may be neighbors
    assert not near.gather(1, groups.center_idx)[:, 1:].any()
    assert torch.equal(groups.center_idx, farthest_point_sample(points, 100, **options))
    published = furthest_point_sample(points, 100)  # pointnet2's own
    if start == 0:
        assert torch.equal(group(points, 100, 9, near_origin="skip").center_idx, published.long())
    assert near.gather(1, group(points, 300, 9).center_idx)[:, 1:].any()
    with pytest.raises(ValueError, match='near_origin must be "skip" or "keep", got \'no\''):
        group(points, 100, 9, near_origin="no")


def test_where_no_center_is_left_the_first_repeats(on_each_isa):
    points = torch.zeros(1, 50, 3)
    points[0, 7] = 1
    options = {"start": 3, "near_origin": "skip"}
    assert reference.group(points, 4, 2, **options)[3].tolist() == [[3, 7, 3, 3]]
    for groups in on_each_isa(group, points, 4, 2, **options):
        assert groups.center_idx.tolist() == [[3, 7, 3, 3]]


@pytest.mark.parametrize("start", [0, 5])
def test_centers_of_a_sampled_cloud_are_its_first_points(make_cloud, start):
    """Holds for any ties: the lower index wins, as it did in the whole cloud."""
    for points in (make_cloud(2, 300), (torch.randn(2, 300, 3) * 2).round(), torch.zeros(1, 90, 3)):
        sampled = gather(points, farthest_point_sample(points, 80, start=start))
        centers = group(sampled, 40, 8).center_idx
        assert torch.equal(centers, torch.arange(40).expand_as(centers))


def test_translation_moves_centers_only():
    points = torch.randint(-50, 50, (2, 300, 3)).float()  # integers, so that shifts are exact
    shift = torch.tensor([7.0, -3.0, 11.0])
    groups, moved = group(points, 12, 8), group(points + shift, 12, 8)
    assert torch.equal(groups.patches, moved.patches)
    assert torch.equal(groups.centers + shift, moved.centers)


def test_gradients():
    points = torch.randn(2, 20, 3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda p: group(p, 4, 5)[:2], (points,))
    assert gradgradcheck(lambda p: group(p, 4, 5)[:2], (points,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_of_the_op_against_the_twin(dtype):
    points = torch.randn(2, 200, 3).to(dtype)
    on_patches, on_centers = torch.randn(2, 16, 12, 3), torch.randn(2, 16, 3)
    grads = []
    for op in (group, reference.group):
        p = points.clone().requires_grad_()
        patches, centers, *_ = op(p, 16, 12)
        ((patches * on_patches).sum() + (centers * on_centers).sum()).backward()
        grads.append(p.grad)
    # bfloat16 rounds once, sums of up to about 20
    tolerance = 1e-5 if dtype == torch.float32 else 5e-2
    torch.testing.assert_close(*grads, rtol=tolerance, atol=tolerance)


def test_backward_repeats_bitwise():
    points = torch.randn(2, 300, 3, requires_grad=True)
    weight = torch.randn(2, 30, 32, 3)
    grads = [
        torch.autograd.grad((group(points, 30, 32).patches * weight).sum(), points)[0]
        for _ in range(3)
    ]
    assert all(torch.equal(grads[0], other) for other in grads[1:])


def test_empty_batch():
    assert group(torch.empty(0, 9, 3), 4, 5).patches.shape == (0, 4, 5, 3)


def test_opcheck():
    points = torch.randn(2, 40, 3)
    opcheck(torch.ops.dapt.group, (points.requires_grad_(), 6, 5))
    opcheck(torch.ops.dapt.group, (points.detach().half(), 6, 5, torch.tensor([40, 7])))
    opcheck(torch.ops.dapt.group, (points, 6, 5), {"skip_near_origin": True})


def test_compiles_without_graph_breaks():
    points = torch.randn(2, 100, 3, requires_grad=True)
    compiled = torch.compile(lambda p: group(p, 8, 4).patches.square().sum(), fullgraph=True)
    compiled(points).backward()
    expected = torch.autograd.grad(group(points, 8, 4).patches.square().sum(), points)[0]
    torch.testing.assert_close(points.grad, expected)
