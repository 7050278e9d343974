"""Convolution on the occupied cells of a grid."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from dapt_ext._library import check_tensors, ops, register_fake
from dapt_ext.autocast import product_dtype, tf32_allowed


def submanifold_conv(x: Tensor, weight: Tensor, bias: Tensor | None, neighbors: Tensor) -> Tensor:
    """A convolution of 3 x 3 x 3 cells whose output has the cells of its input (Graham 2018).

        out[m] = bias + sum over a, b, c of weight[:, a, b, c] · x[cell m + (a - 1, b - 1, c - 1)]

    Empty cells count as zeros. All sums are made in a fixed order, forward and backward, so runs
    repeat to the last bit, whatever the number of threads.

    Args:
        x: [M, C], any floating dtype and strides; takes part in autocast as a linear layer does.
        weight: [D, 3, 3, 3, C], as spconv keeps it.
        bias: [D], or None.
        neighbors: int64 [M, 27] of `neighbor_map`, which finds each pair of neighbors both ways;
            the gradient of x relies on that.

    Returns:
        [M, D].
    """
    check_tensors(x=x, weight=weight, bias=bias, neighbors=neighbors)
    compute = product_dtype(x)
    bias = None if bias is None else bias.to(compute)
    return ops.submanifold_conv(x.to(compute), weight.to(compute), bias, neighbors, tf32_allowed())


@register_fake("dapt::submanifold_conv")
def _(x, weight, bias, neighbors, tf32=False):
    return x.new_empty(len(x), len(weight))


@register_fake("dapt::submanifold_conv_input_grad")
def _(grad, weight, neighbors, tf32=False):
    return grad.new_empty(len(grad), weight.shape[4])


@register_fake("dapt::submanifold_conv_weight_grad")
def _(grad, x, neighbors, tf32=False):
    return grad.new_empty(grad.shape[1], 3, 3, 3, x.shape[1])


def _setup_context(ctx, inputs, output):
    x, weight, bias, neighbors, ctx.tf32 = inputs
    needs_x, needs_weight, *_ = ctx.needs_input_grad
    ctx.bias_dtype = None if bias is None else bias.dtype
    # a frozen weight's gradient alone would need x
    ctx.save_for_backward(x if needs_weight else None, weight if needs_x else None, neighbors)


def _backward(ctx, grad):
    x, weight, neighbors = ctx.saved_tensors
    grad_x = grad_weight = grad_bias = None
    if weight is not None:
        grad_x = ops.submanifold_conv_input_grad(grad, weight, neighbors, ctx.tf32)
    if x is not None:
        grad_weight = ops.submanifold_conv_weight_grad(grad, x, neighbors, ctx.tf32)
    if ctx.bias_dtype is not None and ctx.needs_input_grad[2]:
        grad_bias = grad.sum(0)
    return grad_x, grad_weight, grad_bias, None, None


torch.library.register_autograd("dapt::submanifold_conv", _backward, setup_context=_setup_context)


def _setup_context_of_both(ctx, inputs, output):
    *factors, neighbors, ctx.tf32 = inputs
    ctx.save_for_backward(*factors, neighbors)


def _backward_of_input_grad(ctx, grad_x):
    grad, weight, neighbors = ctx.saved_tensors
    of_grad = ops.submanifold_conv(grad_x, weight, None, neighbors, ctx.tf32)
    of_weight = ops.submanifold_conv_weight_grad(grad, grad_x, neighbors, ctx.tf32)
    return of_grad, of_weight, None, None


torch.library.register_autograd(
    "dapt::submanifold_conv_input_grad",
    _backward_of_input_grad,
    setup_context=_setup_context_of_both,
)


def _backward_of_weight_grad(ctx, grad_weight):
    grad, x, neighbors = ctx.saved_tensors
    of_grad = ops.submanifold_conv(x, grad_weight, None, neighbors, ctx.tf32)
    of_x = ops.submanifold_conv_input_grad(grad, grad_weight, neighbors, ctx.tf32)
    return of_grad, of_x, None, None


torch.library.register_autograd(
    "dapt::submanifold_conv_weight_grad",
    _backward_of_weight_grad,
    setup_context=_setup_context_of_both,
)


@register_flop_formula(ops.submanifold_conv)
def _(x_shape, weight_shape, *_, **__) -> int:
    """Of all 27 taps: how many cells have each neighbor is not known from shapes."""
    return 2 * x_shape[0] * weight_shape.numel()


@register_flop_formula(ops.submanifold_conv_input_grad)
def _(grad_shape, weight_shape, *_, **__) -> int:
    return 2 * grad_shape[0] * weight_shape.numel()


@register_flop_formula(ops.submanifold_conv_weight_grad)
def _(grad_shape, x_shape, *_, **__) -> int:
    return 2 * 27 * grad_shape[0] * grad_shape[1] * x_shape[1]
