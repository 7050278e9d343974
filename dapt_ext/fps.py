"""Farthest point sampling."""

from __future__ import annotations

import torch
from torch import Tensor

from dapt_ext._library import check_tensors, ops, register_fake


def farthest_point_sample(
    points: Tensor,
    num_samples: int,
    lengths: Tensor | None = None,
    start: int | str | Tensor = 0,
    near_origin: str = "keep",
) -> Tensor:
    """Choose points that cover a cloud: each is the farthest from those chosen before it.

    Ties go to the lowest index. No point is chosen twice while another is left, so coincident
    points come last, in index order.

    Args:
        points: [B, N, 3], any floating dtype and strides; computed in float32.
        num_samples: M, at most the length of each cloud.
        lengths: int64 [B]; points past a cloud's length are never chosen.
        start: The index of the first sample of every cloud, `"random"`, or int64 [B].
        near_origin: "skip" follows pointnet2: after the first sample, it chooses no point whose
            squared distance from the origin is at most 1e-3; if none is left, it repeats the first
            one.

    Returns:
        int64 [B, M].
    """
    starts, index = resolve_start(points, lengths, start)
    skip = skips_near_origin(near_origin)
    return ops.fps(points, num_samples, lengths, starts, index, skip)


def skips_near_origin(near_origin: str) -> bool:
    """Whether pointnet2's rule applies, as the ops' `skip_near_origin`.

    Args:
        near_origin: "keep" or "skip".
    """
    if near_origin not in ("keep", "skip"):
        raise ValueError(f'near_origin must be "skip" or "keep", got {near_origin!r}')
    return near_origin == "skip"


def resolve_start(
    points: Tensor, lengths: Tensor | None, start: int | str | Tensor
) -> tuple[Tensor | None, int]:
    """The start as the ops take it: (starts [B] or None, index for all clouds).

    Args:
        points: [B, N, 3].
        lengths: [B]; None if all clouds have N points.
        start: An index, "random", or indices [B].
    """
    check_tensors(points=points)
    if isinstance(start, Tensor):
        return start, 0
    if not isinstance(start, str):
        return None, start
    if start != "random":
        raise ValueError(f'start must be an int, "random" or an int64 tensor [B], got {start!r}')
    if points.dim() != 3:
        raise RuntimeError(f"points must be [B, N, 3], got {list(points.shape)}")
    draw = torch.rand(points.shape[0], device=points.device, dtype=torch.float64)
    sizes = points.shape[1] if lengths is None else lengths
    return (draw * sizes).long(), 0


@register_fake("dapt::fps")
def _(points, num_samples, lengths=None, starts=None, start=0, skip_near_origin=False):
    return points.new_empty((points.shape[0], num_samples), dtype=torch.long)
