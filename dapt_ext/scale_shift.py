"""TFTS: a learned scale and shift per channel after a frozen layer, without an extra pass."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from dapt_ext._autograd import has_tangent, register_autograd, without_autograd
from dapt_ext._library import check_tensors, ops, register_fake
from dapt_ext.autocast import no_autocast, product_dtype

# Below this scale (the usual is about one), the output no longer determines the input.
TINY_SCALE = 1e-2


def scale_shift_linear(
    x: Tensor,
    weight: Tensor | Callable[[], Tensor],
    bias: Tensor | None,
    scale: Tensor,
    shift: Tensor,
) -> Tensor:
    """scale * (x · weight + bias) + shift, as one matrix product with folded weights.

    The gradient of the scale comes from the output, which the next layer keeps anyway. Where a
    scale is below 1e-2, the output does not determine it well enough, so x is kept too and the
    product is recomputed. This is checked on the CPU only; on CUDA and under torch.compile, such a
    scale gets the gradient of a scale of 1e-2.

    Args:
        x: [..., D], any floating dtype; follows autocast as a linear layer does.
        weight, bias: [C, D] and [C], frozen. For a weight stored in another form, pass a function
            that returns it: the backward calls it again, so the weight is not kept.
        scale, shift: [C].

    Returns:
        [..., C].
    """
    make_weight = None if isinstance(weight, Tensor) else weight
    if make_weight is not None:
        weight = make_weight()
    check_tensors(x=x, weight=weight, scale=scale, shift=shift)
    _check_frozen(weight, bias)
    if weight.dim() != 2 or x.dim() == 0 or x.shape[-1] != weight.shape[1]:
        raise RuntimeError(
            f"weight must be [C, D] for x [..., D], got {list(weight.shape)} for {list(x.shape)}"
        )
    _check_vectors(weight.shape[0], x=x, bias=bias, scale=scale, shift=shift)
    compute = product_dtype(x)
    if has_tangent(x, scale, shift) or (
        not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()
    ):
        return F.linear(x.to(compute), *_fold(weight, bias, scale, shift, compute))
    return _ScaleShiftLinear.apply(x, weight, bias, scale, shift, compute, make_weight)


def scale_shift_norm(
    x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor, eps: float = 1e-5
) -> Tensor:
    """scale * LayerNorm(x) + shift, with the scale and shift folded into the norm.

    Args:
        x: [..., C], any floating dtype.
        weight, bias: [C], those of the frozen norm.
        scale, shift: [C].
        eps: Added to the variance in the norm.
    """
    check_tensors(x=x, weight=weight, bias=bias, scale=scale, shift=shift)
    _check_frozen(weight, bias)
    if x.dim() == 0:
        raise RuntimeError("x must be [..., C], got []")
    _check_vectors(x.shape[-1], x=x, weight=weight, bias=bias, scale=scale, shift=shift)
    return F.layer_norm(
        x,
        x.shape[-1:],
        *_fold(weight, bias, scale, shift, torch.promote_types(weight.dtype, scale.dtype)),
        eps,
    )


def _check_frozen(weight: Tensor, bias: Tensor | None) -> None:
    if weight.requires_grad or (bias is not None and bias.requires_grad):
        raise ValueError("weight and bias must be frozen (requires_grad=False): they get no grad")


def _check_vectors(size: int, x: Tensor, **vectors: Tensor | None) -> None:
    for name, vector in {"x": x, **vectors}.items():
        if vector is not None and not vector.is_floating_point():
            raise RuntimeError(f"{name} must be of a floating dtype, got {vector.dtype}")
    for name, vector in vectors.items():
        if vector is not None and vector.shape != (size,):
            raise RuntimeError(f"{name} must be [{size}], got {list(vector.shape)}")


def _fold(
    weight: Tensor, bias: Tensor | None, scale: Tensor, shift: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Weight and bias of the layer with its scale and shift folded in."""
    if (weight.dtype == torch.float64) != (dtype == torch.float64):
        weight = weight.to(dtype)
    return ops.scale_shift_fold(weight, bias, scale, shift, dtype)


class _ScaleShiftLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, scale, shift, compute, make_weight):
        ctx.compute, ctx.make_weight = compute, make_weight
        with without_autograd():
            folded, offset = _fold(weight, bias, scale, shift, compute)
            y = F.linear(x.to(compute), folded, offset)  # compute is autocast's dtype, if it is on
            keep_x = (
                ctx.needs_input_grad[3]
                and not torch.compiler.is_compiling()
                and x.is_cpu
                and bool((scale.abs() < TINY_SCALE).any())
            )
        needs_y = ctx.needs_input_grad[3] or ctx.needs_input_grad[4]
        kept_weight = weight if make_weight is None else None
        ctx.save_for_backward(
            kept_weight, bias, scale, shift, y if needs_y else None, x if keep_x else None
        )
        return y

    @staticmethod
    def backward(ctx, grad):
        weight, bias, scale, shift, y, x = ctx.saved_tensors
        if weight is None:
            weight = ctx.make_weight()
        grad_x = grad_scale = grad_shift = None
        with without_autograd(), no_autocast(grad.device.type):
            if ctx.needs_input_grad[0]:
                folded, _ = _fold(weight, None, scale, shift, ctx.compute)
                grad_x = grad @ folded
            if y is not None:
                grad_scale, grad_shift = ops.scale_shift_grad(grad, y, scale, shift, TINY_SCALE)
                if x is not None:
                    tiny = (scale.abs() < TINY_SCALE).nonzero()[:, 0]  # channels
                    z = F.linear(
                        x.to(ctx.compute),
                        weight[tiny].to(ctx.compute),
                        None if bias is None else bias[tiny].to(ctx.compute),
                    )
                    exact = (grad[..., tiny] * z).to(grad_scale.dtype).flatten(0, -2).sum(0)
                    grad_scale[tiny] = exact
        if not ctx.needs_input_grad[3]:
            grad_scale = None
        if not ctx.needs_input_grad[4]:
            grad_shift = None
        return grad_x, None, None, grad_scale, grad_shift, None, None


@register_fake("dapt::scale_shift_fold")
def _(weight, bias, scale, shift, dtype):
    return weight.new_empty(weight.shape, dtype=dtype), weight.new_empty(len(weight), dtype=dtype)


def _fold_formula(weight, bias, scale, shift, dtype):
    sums = _sum_dtype(weight)
    scale, offset = scale.to(sums), shift.to(sums)
    if bias is not None:
        offset = torch.addcmul(offset, scale, bias.to(sums))
    return (_by_row(scale, weight) * weight.to(sums)).to(dtype), offset.to(dtype)


def _save_layer(ctx, inputs, outputs):
    ctx.save_for_backward(inputs.weight, inputs.bias, inputs.scale)


def _fold_backward(ctx, tensors, grad_folded, grad_offset):
    weight, bias, scale = tensors
    grads = {"shift": grad_offset}
    if "scale" in ctx.needs:
        grads["scale"] = ops.scale_shift_fold_grad(grad_folded, grad_offset, weight, bias)
    if "weight" in ctx.needs:
        grads["weight"] = _by_row(scale, weight) * grad_folded
    if "bias" in ctx.needs:
        grads["bias"] = scale * grad_offset
    return grads


@register_fake("dapt::scale_shift_fold_grad")
def _(grad_folded, grad_offset, weight, bias):
    return weight.new_empty(len(weight), dtype=_sum_dtype(weight))


def _fold_grad_formula(grad_folded, grad_offset, weight, bias):
    sums = _sum_dtype(weight)
    products = grad_folded.to(sums) * weight.to(sums)
    grad_scale = products.reshape(len(weight), -1).sum(1)
    if bias is None:
        return grad_scale
    return torch.addcmul(grad_scale, grad_offset.to(sums), bias.to(sums))


def _by_row(vector: Tensor, weight: Tensor) -> Tensor:
    """[C] as [C, 1] for a weight [C, D]; unchanged for a weight [C]."""
    return vector.reshape(-1, *[1] * (weight.dim() - 1))


def _sum_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


@register_fake("dapt::scale_shift_grad")
def _(grad, output, scale, shift, least_scale=0.0):
    dtype = _sum_dtype(grad)
    return scale.new_empty(scale.shape, dtype=dtype), shift.new_empty(shift.shape, dtype=dtype)


def _grad_formula(grad, output, scale, shift, least_scale=0.0):
    sums = _sum_dtype(grad)
    scale = scale.to(sums)
    least = torch.full_like(scale, least_scale).copysign(scale)
    z = (output.to(sums) - shift.to(sums)) / torch.where(scale.abs() < least_scale, least, scale)
    grad = grad.to(sums)
    return (grad * z).flatten(0, -2).sum(0), grad.flatten(0, -2).sum(0)


register_autograd("scale_shift_fold", _fold_formula, _save_layer, _fold_backward)
register_autograd("scale_shift_fold_grad", _fold_grad_formula)
register_autograd("scale_shift_grad", _grad_formula)
