"""Attention between the tokens of a cloud."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from dapt_ext import reference
from dapt_ext._autograd import register_autograd
from dapt_ext._library import check_tensors, ops, register_fake


def attention(
    qkv: Tensor, num_heads: int, mask: Tensor | None = None, causal: bool = False
) -> Tensor:
    """softmax(q · kᵀ / √D) · v per head, computed from the output of the qkv layer.

    On the CPU without a mask, this runs a kernel written for the few hundred tokens of a cloud,
    whereas torch's is tuned for longer sequences. Otherwise it calls torch's
    scaled_dot_product_attention.

    Args:
        qkv: [B, T, 3 C], any floating dtype: queries, keys and values.
        num_heads: H, which divides C.
        mask: Bool, broadcastable to [B, 1, T, T]: which key (last) a query attends to.
        causal: Whether a query attends only to keys up to its own position; combined with `mask` if
            both are given.

    Returns:
        [B, T, C].
    """
    check_tensors(qkv=qkv)
    if (
        qkv.dim() != 3
        or not 1 <= num_heads <= max(qkv.shape[2], 1)
        or qkv.shape[2] % (3 * num_heads)
    ):
        raise RuntimeError(
            "num_heads must be at least 1 and divide C of qkv [B, T, 3 C], "
            f"got {num_heads} for {list(qkv.shape)}"
        )
    if qkv.is_cpu and mask is None and not causal:
        return ops.attention(qkv, num_heads)[0]
    q, k, v = qkv.unflatten(2, (3, num_heads, -1)).permute(2, 0, 3, 1, 4)
    if causal and mask is not None:
        mask, causal = mask & mask.new_ones(q.shape[2], q.shape[2]).tril(), False
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)  # [B, H, T, D]
    return out.transpose(1, 2).flatten(2)


@register_fake("dapt::attention")
def _(qkv, num_heads):
    B, T, width = qkv.shape
    sums = torch.float64 if qkv.dtype == torch.float64 else torch.float32
    return qkv.new_empty(B, T, width // 3), qkv.new_empty(B, num_heads, T, dtype=sums)


@register_fake("dapt::attention_backward")
def _(grad, qkv, out, log_sum, num_heads):
    return torch.empty_like(qkv, memory_format=torch.contiguous_format)


def _formula(qkv, num_heads):
    """`log_sum` is not differentiable: it only saves work in the backward."""
    _, log_sum = ops.attention(qkv.detach(), num_heads)
    return reference.attention(_in_sums(qkv), num_heads).to(qkv.dtype), log_sum


def _save(ctx, inputs, outputs):
    out, log_sum = outputs
    ctx.num_heads = inputs.num_heads
    ctx.mark_non_differentiable(log_sum)
    ctx.save_for_backward(inputs.qkv, out, log_sum)


def _backward(ctx, tensors, grad, _):
    return {"qkv": ops.attention_backward(grad, *tensors, ctx.num_heads)}


register_autograd("attention", _formula, _save, _backward)


def _backward_formula(grad, qkv, out, log_sum, num_heads):
    """A function of `grad` and `qkv` only, since `out` and `log_sum` follow from `qkv`."""
    grad_qkv = reference.attention_backward(_in_sums(grad), _in_sums(qkv), num_heads)
    return grad_qkv.to(qkv.dtype)


def _in_sums(t: Tensor) -> Tensor:
    return t if t.dtype == torch.float64 else t.float()


register_autograd("attention_backward", _backward_formula)


@register_flop_formula(ops.attention)
def _(qkv_shape, num_heads, *_, **__) -> int:
    B, T, width = qkv_shape
    return 2 * 2 * B * T * T * (width // 3)


@register_flop_formula(ops.attention_backward)
def _(grad_shape, qkv_shape, *_, **__) -> int:
    B, T, width = qkv_shape
    return 5 * 2 * B * T * T * (width // 3)
