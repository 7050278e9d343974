"""The functions and modules of pointnet2_ops under their own names: features are [B, C, N],
indices int32, distances Euclidean."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import dapt_ext
from dapt_ext._library import check_tensors, ops


def furthest_point_sample(xyz: Tensor, npoint: int, near_origin: str = "skip") -> Tensor:
    """Farthest point sampling from point 0, int32 [B, npoint].

    Args:
        xyz: [B, N, 3].
        npoint: The number of samples.
        near_origin: "skip" is pointnet2's rule: no point whose squared norm is at most 1e-3 is
            chosen, except as the first one. "keep" treats all points alike.
    """
    check_tensors(xyz=xyz)
    return dapt_ext.farthest_point_sample(xyz, npoint, near_origin=near_origin).int()


def gather_operation(features: Tensor, idx: Tensor) -> Tensor:
    """Columns of features, [B, C, npoint].

    Args:
        features: [B, C, N].
        idx: int32 [B, npoint].
    """
    return dapt_ext.gather(features.transpose(1, 2), idx.long()).transpose(1, 2).contiguous()


def grouping_operation(features: Tensor, idx: Tensor) -> Tensor:
    """Columns of features, [B, C, npoint, nsample].

    Args:
        features: [B, C, N].
        idx: int32 [B, npoint, nsample].
    """
    rows = dapt_ext.gather(features.transpose(1, 2), idx.long())  # [B, npoint, nsample, C]
    return rows.permute(0, 3, 1, 2).contiguous()


def ball_query(radius: float, nsample: int, xyz: Tensor, new_xyz: Tensor) -> Tensor:
    """Points near centers, int32 [B, npoint, nsample]. A row without a hit is all zeros.

    Args:
        radius: The radius of the balls.
        nsample: The maximum number of points per ball.
        xyz: [B, N, 3], the points.
        new_xyz: [B, npoint, 3], the centers.
    """
    return dapt_ext.ball_query(new_xyz, xyz, radius, nsample).clamp_(min=0).int()


def three_nn(unknown: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Distances and int32 indices [B, n, 3] of the three nearest points.

    Args:
        unknown: [B, n, 3], the queries.
        known: [B, m, 3], the points that are searched.
    """
    sq_dist, idx = dapt_ext.knn(unknown.detach(), known.detach(), 3)
    return sq_dist.sqrt(), idx.int()


def three_interpolate(features: Tensor, idx: Tensor, weight: Tensor) -> Tensor:
    """Weighted sums of features, [B, c, n].

    Args:
        features: [B, c, m].
        idx: int32 [B, n, 3].
        weight: [B, n, 3].
    """
    check_tensors(features=features, idx=idx, weight=weight)
    out = ops.interpolate(features.transpose(1, 2), idx.long(), weight)  # [B, n, c]
    return out.transpose(1, 2).contiguous().to(features.dtype)


class QueryAndGroup(nn.Module):
    """Groups the points in a ball around each center, as coordinates relative to the center.

    Args:
        radius: The radius of the balls.
        nsample: The number of points per group.
        use_xyz: Whether the coordinates come before the features.
    """

    def __init__(self, radius: float, nsample: int, use_xyz: bool = True) -> None:
        super().__init__()
        self.radius, self.nsample, self.use_xyz = radius, nsample, use_xyz

    def forward(self, xyz: Tensor, new_xyz: Tensor, features: Tensor | None = None) -> Tensor:
        """xyz [B, N, 3], new_xyz [B, npoint, 3], features [B, C, N] ->
        [B, 3 + C, npoint, nsample]."""
        idx = ball_query(self.radius, self.nsample, xyz, new_xyz)
        grouped_xyz = grouping_operation(xyz.transpose(1, 2), idx)  # [B, 3, npoint, nsample]
        grouped_xyz = grouped_xyz - new_xyz.transpose(1, 2)[..., None]
        return _join(grouped_xyz, features, self.use_xyz, lambda f: grouping_operation(f, idx))


class GroupAll(nn.Module):
    """One group that holds the whole cloud.

    Args:
        use_xyz: Whether the coordinates come before the features.
    """

    def __init__(self, use_xyz: bool = True) -> None:
        super().__init__()
        self.use_xyz = use_xyz

    def forward(self, xyz: Tensor, new_xyz: Tensor, features: Tensor | None = None) -> Tensor:
        """xyz [B, N, 3], features [B, C, N] -> [B, 3 + C, 1, N]; new_xyz is not used."""
        grouped_xyz = xyz.transpose(1, 2)[:, :, None]
        return _join(grouped_xyz, features, self.use_xyz, lambda f: f[:, :, None])


def _join(grouped_xyz: Tensor, features: Tensor | None, use_xyz: bool, take) -> Tensor:
    if features is None:
        if not use_xyz:
            raise ValueError("features must be given when use_xyz is False, got None")
        return grouped_xyz
    grouped = take(features)
    return torch.cat([grouped_xyz, grouped], dim=1) if use_xyz else grouped
