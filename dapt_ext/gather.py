"""Rows by index, with a repeatable backward."""

from __future__ import annotations

import torch
from torch import Tensor

from dapt_ext._library import check_tensors, ops, register_fake


def gather(values: Tensor, idx: Tensor) -> Tensor:
    """Take rows of each cloud's values; an index of -1 gives a row of zeros.

    The backward sums without float atomics, in a fixed order: runs repeat to the last bit.

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


def _setup_context(ctx, inputs, output):
    values, idx = inputs
    ctx.num_points = values.shape[1]
    ctx.save_for_backward(idx)


def _backward(ctx, grad):
    (idx,) = ctx.saved_tensors
    return ops.gather_backward(grad, idx, ctx.num_points), None


torch.library.register_autograd("dapt::gather", _backward, setup_context=_setup_context)


def _setup_context_backward(ctx, inputs, output):
    grad, idx, _, weights = inputs
    ctx.with_weights = weights is not None
    ctx.save_for_backward(idx, *([grad, weights] if ctx.with_weights else []))


def _double_backward(ctx, grad_values):
    idx, *weighted = ctx.saved_tensors
    rows = ops.gather(grad_values, idx)
    if not weighted:
        return rows, None, None, None
    grad, weights = weighted
    grad_weights = (rows * grad[..., None, :]).sum(-1).to(weights.dtype)
    return (rows * weights[..., None].to(rows.dtype)).sum(-2), None, None, grad_weights


torch.library.register_autograd(
    "dapt::gather_backward", _double_backward, setup_context=_setup_context_backward
)
