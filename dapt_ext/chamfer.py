"""Nearest squared distances between two clouds."""

from __future__ import annotations

import torch
from torch import Tensor

from dapt_ext._autograd import register_autograd
from dapt_ext._library import check_tensors, ops, register_fake
from dapt_ext.gather import gather


def chamfer(
    a: Tensor, b: Tensor, a_lengths: Tensor | None = None, b_lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The squared distance from each point to the nearest point of the other cloud, both ways.

    The Chamfer L2 loss is `sq_ab.mean() + sq_ba.mean()`; with lengths, the mean over a cloud is
    `sq_ab.sum(1) / a_lengths`.

    Args:
        a: [B, N, 3], any floating dtype and strides.
        b: [B, M, 3], on the same device.
        a_lengths, b_lengths: int64 [B], each at least 1. A point past its cloud's length is never a
            nearest point; its own distance is 0, without a gradient.

    Returns:
        sq_ab [B, N] and sq_ba [B, M], with repeatable gradients to both inputs; float32, or float64
        if both inputs are float64.
    """
    check_tensors(a=a, b=b, a_lengths=a_lengths, b_lengths=b_lengths)
    sq_ab, idx_ab, sq_ba, idx_ba = ops.chamfer(a, b, a_lengths, b_lengths)
    if a.dtype == b.dtype == torch.float64:
        sq_ab = _difference(a, b, idx_ab).square().sum(-1)
        sq_ba = _difference(b, a, idx_ba).square().sum(-1)
    return sq_ab, sq_ba


@register_fake("dapt::chamfer")
def _(a, b, a_lengths=None, b_lengths=None):
    def nearest(of):
        return of.new_empty(of.shape[:2], dtype=torch.float32), of.new_empty(
            of.shape[:2], dtype=torch.long
        )

    return *nearest(a), *nearest(b)


def _formula(a, b, a_lengths, b_lengths):
    _, idx_ab, _, idx_ba = ops.chamfer(a.detach(), b.detach(), a_lengths, b_lengths)
    sq_ab = _difference(a.float(), b.float(), idx_ab).square().sum(-1)
    sq_ba = _difference(b.float(), a.float(), idx_ba).square().sum(-1)
    return sq_ab, idx_ab, sq_ba, idx_ba


def _save(ctx, inputs, outputs):
    _, idx_ab, _, idx_ba = outputs
    ctx.mark_non_differentiable(idx_ab, idx_ba)
    ctx.save_for_backward(inputs.a, inputs.b, idx_ab, idx_ba)


def _backward(ctx, tensors, grad_ab, _, grad_ba, __):
    a, b, idx_ab, idx_ba = tensors
    slope_ab = 2 * grad_ab[..., None] * _difference(a.float(), b.float(), idx_ab)  # [B, N, 3]
    slope_ba = 2 * grad_ba[..., None] * _difference(b.float(), a.float(), idx_ba)  # [B, M, 3]
    grads = {}
    if "a" in ctx.needs:
        grads["a"] = (slope_ab - ops.gather_backward(slope_ba, idx_ba, a.shape[1])).to(a.dtype)
    if "b" in ctx.needs:
        grads["b"] = (slope_ba - ops.gather_backward(slope_ab, idx_ab, b.shape[1])).to(b.dtype)
    return grads


def _difference(of: Tensor, to: Tensor, idx: Tensor) -> Tensor:
    """The difference to the nearest point; zero for a point without one."""
    return (of - gather(to, idx)).masked_fill((idx < 0)[..., None], 0)  # [B, N, 3]


register_autograd("chamfer", _formula, _save, _backward)
