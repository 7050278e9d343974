"""k nearest neighbors."""

from __future__ import annotations

import torch
from torch import Tensor

from dapt_ext._autograd import register_autograd
from dapt_ext._library import check_tensors, ops, register_fake
from dapt_ext.gather import gather


def knn(
    queries: Tensor, points: Tensor, k: int, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Find the k nearest points of each query, nearest first, ties to the lowest index.

    Args:
        queries: [B, M, D], any floating dtype and strides; any dimension, optimized for three.
        points: [B, N, D], on the same device.
        k: Any number from 1 to the length of each cloud.
        lengths: int64 [B]; points past a cloud's length are never found.

    Returns:
        sq_dist [B, M, k]: squared distances, ascending, with gradients to both inputs; float32, or
            float64 if both inputs are float64.
        idx [B, M, k]: int64. Neighbors are always chosen in float32.
    """
    check_tensors(queries=queries, points=points, lengths=lengths)
    sq_dist, idx = ops.knn(queries, points, k, lengths)
    if queries.dtype == points.dtype == torch.float64:
        sq_dist = (queries[:, :, None] - gather(points, idx)).square().sum(-1)
    return sq_dist, idx


@register_fake("dapt::knn")
def _(queries, points, k, lengths=None):
    shape = (queries.shape[0], queries.shape[1], k)
    return queries.new_empty(shape, dtype=torch.float32), queries.new_empty(shape, dtype=torch.long)


def _formula(queries, points, k, lengths):
    idx = ops.knn(queries.detach(), points.detach(), k, lengths)[1]
    return _difference(queries, points, idx).square().sum(-1), idx


def _save(ctx, inputs, outputs):
    _, idx = outputs
    ctx.mark_non_differentiable(idx)
    ctx.save_for_backward(inputs.queries, inputs.points, idx)


def _backward(ctx, tensors, grad, _):
    queries, points, idx = tensors
    # d |q - p|^2 = 2 (q - p) (dq - dp)
    slope = 2 * grad[..., None] * _difference(queries, points, idx)  # [B, M, k, 3]
    grads = {}
    if "queries" in ctx.needs:
        grads["queries"] = slope.sum(2).to(queries.dtype)
    if "points" in ctx.needs:
        grads["points"] = ops.gather_backward(-slope, idx, points.shape[1]).to(points.dtype)
    return grads


def _difference(queries: Tensor, points: Tensor, idx: Tensor) -> Tensor:
    return queries[:, :, None].float() - ops.gather(points.float(), idx)  # [B, M, k, 3]


register_autograd("knn", _formula, _save, _backward)
