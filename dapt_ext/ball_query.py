"""Neighbors within a radius."""

from __future__ import annotations

import torch
from torch import Tensor

from dapt_ext._library import check_tensors, ops, register_fake


def ball_query(
    queries: Tensor,
    points: Tensor,
    radius: float,
    max_neighbors: int,
    lengths: Tensor | None = None,
) -> Tensor:
    """Find points closer to a query than `radius`, the first `max_neighbors` in index order.

    A row with fewer hits is padded with its first hit, as in pointnet2. A row without a hit is all
    -1, which `gather` turns into zeros.

    Args:
        queries: [B, M, 3], any floating dtype and strides; computed in float32.
        points: [B, N, 3], on the same device.
        radius: The radius of the ball; a point at exactly this distance is outside.
        max_neighbors: K.
        lengths: int64 [B]; points past a cloud's length are never found.

    Returns:
        int64 [B, M, max_neighbors].
    """
    check_tensors(queries=queries, points=points, lengths=lengths)
    return ops.ball_query(queries, points, radius, max_neighbors, lengths)


@register_fake("dapt::ball_query")
def _(queries, points, radius, max_neighbors, lengths=None):
    return queries.new_empty((*queries.shape[:2], max_neighbors), dtype=torch.long)
