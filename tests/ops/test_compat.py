"""The drop-in modules compared with plain PyTorch versions of the originals."""

import pytest
import torch

from dapt_ext.compat.knn_cuda import KNN
from dapt_ext.compat.pointnet2_ops import pointnet2_utils as utils


def test_furthest_point_sample_hides_points_near_the_origin():
    xyz = torch.randn(2, 200, 3)
    xyz[:, 1::2] *= 0.005
    idx = utils.furthest_point_sample(xyz, 60)
    assert idx.dtype == torch.int32 and idx.shape == (2, 60)
    assert (idx[:, 1:] % 2 == 0).all()
    kept = utils.furthest_point_sample(xyz, 120, near_origin="keep")
    assert (kept % 2 == 1).any()
    with pytest.raises(ValueError, match="near_origin must be"):
        utils.furthest_point_sample(xyz, 60, near_origin="no")


def test_furthest_point_sample_is_pointnet2s_greedy_choice():
    xyz = torch.randn(1, 150, 3)
    expected, nearest = [0], torch.full((150,), 1e10)
    for _ in range(29):
        nearest = torch.minimum(nearest, (xyz[0] - xyz[0, expected[-1]]).square().sum(-1))
        nearest[xyz[0].square().sum(-1) <= 1e-3] = -1
        expected.append(int(nearest.argmax()))
    assert utils.furthest_point_sample(xyz, 30)[0].tolist() == expected


def test_gather_and_grouping():
    features = torch.randn(2, 5, 40, requires_grad=True)
    idx = torch.randint(40, (2, 7), dtype=torch.int32)
    out = utils.gather_operation(features, idx)
    expected = features.gather(2, idx.long()[:, None].expand(-1, 5, -1))
    assert torch.equal(out, expected)

    groups = torch.randint(40, (2, 7, 3), dtype=torch.int32)
    out = utils.grouping_operation(features, groups)
    wide = groups.long().view(2, 1, 21).expand(-1, 5, -1)
    expected = features.gather(2, wide).view(2, 5, 7, 3)
    assert torch.equal(out, expected)
    weight = torch.randn_like(out)
    mine = torch.autograd.grad((out * weight).sum(), features)[0]
    torch.testing.assert_close(mine, torch.autograd.grad((expected * weight).sum(), features)[0])


def test_ball_query_fills_empty_rows_with_zero():
    xyz = torch.randn(2, 60, 3)
    new_xyz = torch.cat([xyz[:, :5], torch.full((2, 1, 3), 50.0)], dim=1)
    idx = utils.ball_query(0.8, 6, xyz, new_xyz)
    assert idx.dtype == torch.int32 and (idx[:, 5] == 0).all()
    for b in range(2):
        for m in range(5):
            inside = (xyz[b] - new_xyz[b, m]).square().sum(-1) < 0.8**2
            hits = inside.nonzero()[:, 0][:6].tolist()
            assert idx[b, m].tolist() == hits + [hits[0]] * (6 - len(hits))


def test_three_nn_and_interpolate():
    unknown, known = torch.randn(2, 30, 3), torch.randn(2, 12, 3)
    dist, idx = utils.three_nn(unknown, known)
    expected, order = torch.cdist(unknown, known).topk(3, largest=False)
    assert idx.dtype == torch.int32 and torch.equal(idx.long(), order)
    # cdist expands the square, so it is less exact
    torch.testing.assert_close(dist, expected, rtol=1e-4, atol=1e-5)

    features = torch.randn(2, 4, 12, requires_grad=True)
    weight = torch.rand(2, 30, 3, requires_grad=True)
    out = utils.three_interpolate(features, idx, weight)
    rows = features.transpose(1, 2)[torch.arange(2)[:, None, None], order]  # [B, n, 3, c]
    expected = (rows * weight[..., None]).sum(2).transpose(1, 2)
    torch.testing.assert_close(out, expected)
    toward = torch.randn_like(out)
    mine = torch.autograd.grad((out * toward).sum(), (features, weight))
    theirs = torch.autograd.grad((expected * toward).sum(), (features, weight))
    torch.testing.assert_close(mine, theirs)


def test_query_and_group():
    xyz, features = torch.randn(2, 50, 3), torch.randn(2, 4, 50)
    new_xyz = xyz[:, :6].contiguous()
    idx = utils.ball_query(0.9, 8, xyz, new_xyz).long()
    relative = xyz[torch.arange(2)[:, None, None], idx] - new_xyz[:, :, None]
    out = utils.QueryAndGroup(0.9, 8)(xyz, new_xyz, features)
    assert out.shape == (2, 7, 6, 8)
    assert torch.equal(out[:, :3], relative.permute(0, 3, 1, 2))
    assert torch.equal(out[:, 3:], utils.grouping_operation(features, idx.int()))
    assert utils.QueryAndGroup(0.9, 8)(xyz, new_xyz).shape == (2, 3, 6, 8)
    alone = utils.QueryAndGroup(0.9, 8, use_xyz=False)
    assert torch.equal(alone(xyz, new_xyz, features), out[:, 3:])
    with pytest.raises(ValueError, match="features must be given"):
        alone(xyz, new_xyz)


def test_group_all():
    xyz, features = torch.randn(2, 50, 3), torch.randn(2, 4, 50)
    out = utils.GroupAll()(xyz, None, features)
    assert torch.equal(out, torch.cat([xyz.mT, features], dim=1)[:, :, None])
    assert utils.GroupAll(use_xyz=False)(xyz, None, features).shape == (2, 4, 1, 50)


@pytest.mark.parametrize("D", [3, 5])
def test_knn_in_both_layouts(D):
    ref, query = torch.randn(2, 40, D), torch.randn(2, 9, D)
    expected, order = torch.cdist(query, ref).topk(5, largest=False)
    dist, idx = KNN(5, transpose_mode=True)(ref, query)
    assert idx.dtype == torch.int64 and torch.equal(idx, order)
    # cdist expands the square, so it is less exact
    torch.testing.assert_close(dist, expected, rtol=1e-4, atol=1e-5)
    flat_dist, flat_idx = KNN(5)(ref.mT.contiguous(), query.mT.contiguous())
    assert flat_dist.is_contiguous()
    assert torch.equal(flat_dist, dist.mT) and torch.equal(flat_idx, idx.mT)
