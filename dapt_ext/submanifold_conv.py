"""Convolution on the occupied cells of a grid."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from dapt_ext._autograd import register_autograd
from dapt_ext._library import check_tensors, ops, register_fake
from dapt_ext.autocast import product_dtype, tf32_allowed


def submanifold_conv(x: Tensor, weight: Tensor, bias: Tensor | None, neighbors: Tensor) -> Tensor:
    """A 3 x 3 x 3 convolution whose output has the cells of its input (Graham 2018).

        out[m] = bias + sum over a, b, c of weight[:, a, b, c] · x[cell m + (a - 1, b - 1, c - 1)]

    Empty cells count as zeros. The order of all sums is fixed, forward and backward, so runs repeat
    to the last bit, whatever the number of threads. On CUDA, torch multiplies gathered
    neighborhoods if there are many channels, in or out; those products repeat, and follow torch's
    tf32 setting at the time, as a linear layer's do.

    Args:
        x: [M, C], any floating dtype and strides; follows autocast as a linear layer does.
        weight: [D, 3, 3, 3, C], spconv's layout.
        bias: [D], or None.
        neighbors: int64 [M, 27], from `neighbor_map`; the gradient of x relies on its symmetry: it
            finds each pair of neighbors both ways.

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


def _formula(x, weight, bias, neighbors, tf32):
    out = torch.einsum("mkc,dkc->md", _around(x, neighbors), _taps(weight))
    return (out if bias is None else out + bias.to(out.dtype)).to(x.dtype)


def _save(ctx, inputs, outputs):
    ctx.tf32 = inputs.tf32
    # x is needed only for the gradient of the weight, and the weight only for that of x.
    x = inputs.x if "weight" in ctx.needs else None
    weight = inputs.weight if "x" in ctx.needs else None
    ctx.save_for_backward(x, weight, inputs.neighbors)


def _backward(ctx, tensors, grad):
    x, weight, neighbors = tensors
    grads = {}
    if "x" in ctx.needs:
        grads["x"] = ops.submanifold_conv_input_grad(grad, weight, neighbors, ctx.tf32)
    if "weight" in ctx.needs:
        grads["weight"] = ops.submanifold_conv_weight_grad(grad, x, neighbors, ctx.tf32)
    if "bias" in ctx.needs:
        grads["bias"] = grad.sum(0)
    return grads


def _input_grad_formula(grad, weight, neighbors, tf32):
    out = torch.einsum("mkd,dkc->mc", _around(grad, neighbors), _taps(weight).flip(1))
    return out.to(grad.dtype)


def _save_input_grad(ctx, inputs, outputs):
    ctx.tf32 = inputs.tf32
    ctx.save_for_backward(inputs.grad, inputs.weight, inputs.neighbors)


def _backward_of_input_grad(ctx, tensors, grad_x):
    grad, weight, neighbors = tensors
    return {
        "grad": ops.submanifold_conv(grad_x, weight, None, neighbors, ctx.tf32),
        "weight": ops.submanifold_conv_weight_grad(grad, grad_x, neighbors, ctx.tf32),
    }


def _weight_grad_formula(grad, x, neighbors, tf32):
    out = torch.einsum("md,mkc->dkc", _in_sums(grad), _around(x, neighbors))
    return out.unflatten(1, (3, 3, 3)).to(grad.dtype)


def _save_weight_grad(ctx, inputs, outputs):
    ctx.tf32 = inputs.tf32
    ctx.save_for_backward(inputs.grad, inputs.x, inputs.neighbors)


def _backward_of_weight_grad(ctx, tensors, grad_weight):
    grad, x, neighbors = tensors
    return {
        "grad": ops.submanifold_conv(x, grad_weight, None, neighbors, ctx.tf32),
        "x": ops.submanifold_conv_input_grad(grad, grad_weight, neighbors, ctx.tf32),
    }


def _in_sums(t: Tensor) -> Tensor:
    return t if t.dtype == torch.float64 else t.float()


def _taps(weight: Tensor) -> Tensor:
    return _in_sums(weight).flatten(1, 3)  # [D, 27, C]


def _around(x: Tensor, neighbors: Tensor) -> Tensor:
    return ops.gather(_in_sums(x)[None], neighbors[None])[0]  # [M, 27, C]


register_autograd("submanifold_conv", _formula, _save, _backward)
register_autograd(
    "submanifold_conv_input_grad", _input_grad_formula, _save_input_grad, _backward_of_input_grad
)
register_autograd(
    "submanifold_conv_weight_grad",
    _weight_grad_formula,
    _save_weight_grad,
    _backward_of_weight_grad,
)


@register_flop_formula(ops.submanifold_conv)
def _(x_shape, weight_shape, *_, **__) -> int:
    """Counts all 27 taps, since shapes do not tell how many cells have each neighbor."""
    return 2 * x_shape[0] * weight_shape.numel()


@register_flop_formula(ops.submanifold_conv_input_grad)
def _(grad_shape, weight_shape, *_, **__) -> int:
    return 2 * grad_shape[0] * weight_shape.numel()


@register_flop_formula(ops.submanifold_conv_weight_grad)
def _(grad_shape, x_shape, *_, **__) -> int:
    return 2 * 27 * grad_shape[0] * grad_shape[1] * x_shape[1]
