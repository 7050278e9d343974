"""Points to patches: the first step of every point transformer."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dapt_ext._autograd import register_autograd
from dapt_ext._library import ops, register_fake
from dapt_ext.fps import resolve_start, skips_near_origin
from dapt_ext.gather import gather


class Groups(NamedTuple):
    """The patches of clouds.

    Args:
        patches: [B, G, K, 3], points minus their center.
        centers: [B, G, 3].
        patch_idx: int64 [B, G, K], the indices of the points in the patches.
        center_idx: int64 [B, G], the indices of the group centers.
    """

    patches: Tensor  # [B, G, K, 3], points minus their center
    centers: Tensor  # [B, G, 3]
    patch_idx: Tensor  # int64 [B, G, K]
    center_idx: Tensor  # int64 [B, G]


def group(
    points: Tensor,
    num_groups: int,
    group_size: int,
    lengths: Tensor | None = None,
    start: int | str | Tensor = 0,
    near_origin: str = "keep",
) -> Groups:
    """Cut clouds into patches around centers from farthest point sampling.

    A patch holds the points nearest to its center, minus the center.

    Args:
        points: [B, N, 3], any floating dtype and strides.
        num_groups: G, at most the length of each cloud.
        group_size: K, at most the length of each cloud.
        lengths: int64 [B]; points past a cloud's length are never used.
        start: The first center, as in `farthest_point_sample`.
        near_origin: Applies to the centers, as in `farthest_point_sample`; patches may hold any
            point.

    Returns:
        `Groups`, with a repeatable gradient to `points`. Coordinates are float32, or float64 if the
        points are; centers and neighbors are always chosen in float32.
    """
    starts, index = resolve_start(points, lengths, start)
    skip = skips_near_origin(near_origin)
    groups = Groups(*ops.group(points, num_groups, group_size, lengths, starts, index, skip))
    if points.dtype == torch.float64:
        centers = gather(points, groups.center_idx)
        patches = gather(points, groups.patch_idx) - centers[:, :, None]
        groups = groups._replace(patches=patches, centers=centers)
    return groups


@register_fake("dapt::group")
def _(points, num_groups, group_size, lengths=None, starts=None, start=0, skip_near_origin=False):
    B, G, K = points.shape[0], num_groups, group_size
    return (
        points.new_empty((B, G, K, 3), dtype=torch.float32),
        points.new_empty((B, G, 3), dtype=torch.float32),
        points.new_empty((B, G, K), dtype=torch.long),
        points.new_empty((B, G), dtype=torch.long),
    )


def _formula(points, num_groups, group_size, lengths, starts, start, skip_near_origin):
    patch_idx, center_idx = ops.group(
        points.detach(), num_groups, group_size, lengths, starts, start, skip_near_origin
    )[2:]
    centers = ops.gather(points.float(), center_idx)  # [B, G, 3]
    patches = ops.gather(points.float(), patch_idx) - centers[:, :, None]  # [B, G, K, 3]
    return patches, centers, patch_idx, center_idx


def _save(ctx, inputs, outputs):
    _, _, patch_idx, center_idx = outputs
    ctx.mark_non_differentiable(patch_idx, center_idx)
    ctx.num_points, ctx.dtype = inputs.points.shape[1], inputs.points.dtype
    ctx.save_for_backward(patch_idx, center_idx)


def _backward(ctx, tensors, grad_patches, grad_centers, *_):
    patch_idx, center_idx = tensors
    grad_centers = grad_centers - grad_patches.sum(2)  # a center is subtracted from all its points
    grad = ops.gather_backward(grad_patches, patch_idx, ctx.num_points)
    grad = grad + ops.gather_backward(grad_centers, center_idx, ctx.num_points)
    return {"points": grad.to(ctx.dtype)}


register_autograd("group", _formula, _save, _backward)
