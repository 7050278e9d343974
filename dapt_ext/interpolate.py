"""Interpolation of point values at other positions."""

from __future__ import annotations

import torch
from torch import Tensor

from dapt_ext._autograd import register_autograd
from dapt_ext._library import check_tensors, ops, register_fake
from dapt_ext.gather import gather
from dapt_ext.knn import knn

_EPSILON = 1e-8  # keeps the weight of a coincident point finite


def interpolate(
    queries: Tensor,
    points: Tensor,
    values: Tensor,
    k: int = 3,
    epsilon: float = _EPSILON,
    lengths: Tensor | None = None,
) -> Tensor:
    """Average the values of each query's k nearest points by inverse squared distance.

    The weight of a neighbor at squared distance d is 1 / (d + epsilon), normalized to sum to one.
    Neighbors that are all farther than float32 can square (1.8e19) have equal weights.

    Args:
        queries: [B, M, 3], any floating dtype and strides.
        points: [B, N, 3], the positions of the values.
        values: [B, N, C], any floating dtype; sums are kept in float32 (float64 for float64).
        k: The number of neighbors, at most the length of each cloud.
        epsilon: Added to each squared distance.
        lengths: int64 [B]; points past a cloud's length are ignored.

    Returns:
        [B, M, C] in the dtype of `values`, with repeatable gradients to all three inputs.
    """
    check_tensors(queries=queries, points=points, values=values, lengths=lengths)
    sq_dist, idx = knn(queries, points, k, lengths)
    if values.dim() != 3 or values.shape[:2] != points.shape[:2]:
        raise RuntimeError(
            f"values must be [B, N, C] with one row per point ({list(points.shape[:2])}), "
            f"got {list(values.shape)}"
        )
    weights = 1 / (sq_dist + epsilon)
    total = weights.sum(-1, keepdim=True)
    near = total > 0
    weights = torch.where(near, weights / torch.where(near, total, 1), 1 / k)  # [B, M, k]
    if values.dtype == torch.float64:
        return (gather(values, idx) * weights[..., None]).sum(2)
    return ops.interpolate(values, idx, weights).to(values.dtype)


@register_fake("dapt::interpolate")
def _(values, idx, weights):
    return values.new_empty((*idx.shape[:2], values.shape[2]), dtype=torch.float32)


def _formula(values, idx, weights):
    rows = ops.gather(values.float(), idx)  # [B, M, k, C]
    return (rows * weights.float()[..., None]).sum(2)


def _save(ctx, inputs, outputs):
    values, weights = inputs.values, inputs.weights
    ctx.num_points, ctx.dtype = values.shape[1], values.dtype
    # Only the gradient of the weights, and so of the coordinates, needs the values.
    ctx.save_for_backward(inputs.idx, weights, *([values] if weights.requires_grad else []))


def _backward(ctx, tensors, grad):
    idx, weights, *values = tensors
    grads = {}
    if "values" in ctx.needs:
        grads["values"] = ops.gather_backward(grad, idx, ctx.num_points, weights).to(ctx.dtype)
    if "weights" in ctx.needs:
        rows = ops.gather(values[0].float(), idx)  # [B, M, k, C]
        grads["weights"] = (rows * grad[:, :, None]).sum(-1).to(weights.dtype)
    return grads


register_autograd("interpolate", _formula, _save, _backward)
