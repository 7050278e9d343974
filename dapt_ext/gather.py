"""Rows by index, with a repeatable backward."""

from __future__ import annotations

import torch
from torch import Tensor

from dapt_ext import reference
from dapt_ext._autograd import register_autograd
from dapt_ext._library import check_tensors, ops, register_fake


def gather(values: Tensor, idx: Tensor) -> Tensor:
    """Take rows of each cloud's values; an index of -1 gives a row of zeros.

    The backward sums in a fixed order without float atomics, so runs repeat to the last bit. It
    needs no lengths: searches with lengths never return a row past a cloud's length, and an empty
    slot is -1 (pytorch3d's `knn_gather` takes lengths because its empty slots are 0).

    Args:
        values: [B, N, C], any dtype and strides.
        idx: int64 [B, ...], each -1 or a row number below N.

    Returns:
        [B, ..., C].
    """
    check_tensors(values=values, idx=idx)
    return ops.gather(values, idx)


@register_fake("dapt::gather")
def _(values, idx):
    return values.new_empty((*idx.shape, values.shape[2]))


@register_fake("dapt::gather_backward")
def _(grad, idx, num_points, weights=None):
    return grad.new_empty((grad.shape[0], num_points, grad.shape[-1]))


def _save(ctx, inputs, outputs):
    ctx.num_points = inputs.values.shape[1]
    ctx.save_for_backward(inputs.idx)


def _backward(ctx, tensors, grad):
    (idx,) = tensors
    return {"values": ops.gather_backward(grad, idx, ctx.num_points)}


register_autograd("gather", reference.gather, _save, _backward)


def _sums_formula(grad, idx, num_points, weights):
    """The op in torch's own ops, for derivatives of any order."""
    k = 1 if weights is None else idx.shape[-1]
    B, C = grad.shape[0], grad.shape[-1]
    sums = torch.float64 if grad.dtype == torch.float64 else torch.float32
    terms = grad.to(sums).reshape(B, -1, 1, C)  # [B, Q, 1, C]
    if weights is not None:
        terms = terms * weights.to(sums).reshape(B, -1, k, 1)  # [B, Q, k, C]
    rows = idx.reshape(B, -1)
    rows = torch.where(rows < 0, num_points, rows)[..., None].expand(-1, -1, C)  # [B, Q k, C]
    zeros = terms.new_zeros(B, num_points + 1, C)
    return zeros.scatter_add(1, rows, terms.flatten(1, 2))[:, :num_points].to(grad.dtype)


def _save_sums(ctx, inputs, outputs):
    ctx.weighted = inputs.weights is not None
    ctx.save_for_backward(inputs.idx, *([inputs.grad, inputs.weights] if ctx.weighted else []))


def _backward_of_sums(ctx, tensors, grad_values):
    idx, *weighted = tensors
    rows = ops.gather(grad_values, idx)
    if not weighted:
        return {"grad": rows}
    grad, weights = weighted
    return {
        "grad": (rows * weights[..., None].to(rows.dtype)).sum(-2),
        "weights": (rows * grad[..., None, :]).sum(-1).to(weights.dtype),
    }


register_autograd("gather_backward", _sums_formula, _save_sums, _backward_of_sums)
