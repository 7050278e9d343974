"""DAPT's adapter with all that stands around it in a transformer block."""

from __future__ import annotations

import torch
from torch import Tensor

from dapt_ext._library import ops, register_fake
from dapt_ext.autocast import product_dtype, tf32_allowed


def dynamic_adapter(
    x: Tensor,
    down_weight: Tensor,
    down_bias: Tensor,
    up_weight: Tensor,
    up_bias: Tensor,
    *,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    scale_weight: Tensor | None = None,
    scale_bias: Tensor | None = None,
    static_scale: float = 1.0,
    mlp_out: Tensor | None = None,
    residual: Tensor | None = None,
    path_factor: Tensor | None = None,
    dropout: float = 0.0,
    training: bool = False,
    activation: str = "gelu",
    prompt: bool = True,
    eps: float = 1e-5,
    memory: str = "default",
) -> tuple[Tensor, Tensor | None]:
    """A bottleneck whose output is scaled per token, added to the MLP's and to the residual.

        z = LayerNorm(x)
        s = ReLU(scale_weight · z + scale_bias)
        a = s * (up_weight · dropout(activation(down_weight · z + down_bias)) + up_bias)
        out = residual + path_factor[b] * (mlp_out + a)
        prompt_mean = mean over tokens of GELU(a)

    Matrix products run in x's dtype, or in autocast's; statistics and sums in float32 (float64 for
    float64). Dropout draws one seed from torch's generator; the mask is a function of the seed, the
    token and the hidden unit, the same on every device, and is drawn again in the backward.

    Args:
        x: [B, T, C], any floating dtype and strides.
        down_weight, down_bias: [r, C] and [r].
        up_weight, up_bias: [C, r] and [C].
        norm_weight, norm_bias: [C]; without them z = x.
        scale_weight, scale_bias: [1, C] and [1]; without them s = static_scale.
        mlp_out, residual: [B, T, C], each left out of the sum when absent.
        path_factor: [B], DropPath's factor of each cloud; no gradient.
        dropout: probability that a hidden unit is dropped; only in training.
        activation: "gelu" (erf), "relu" or "quickgelu".
        prompt: whether prompt_mean is wanted.
        memory: "default" keeps the hidden row of each token for the backward, "low" computes it
            again. Both keep x and three numbers a token.

    Returns:
        out [B, T, C]: in the dtype to which products, mlp_out and residual promote.
        prompt_mean [B, C] in out's dtype, or None.
    """
    if (norm_weight is None) != (norm_bias is None):
        raise ValueError("norm_weight and norm_bias must be given together")
    if (scale_weight is None) != (scale_bias is None):
        raise ValueError("scale_weight and scale_bias must be given together")
    if memory not in ("default", "low"):
        raise ValueError(f'memory must be "default" or "low", got {memory!r}')
    if path_factor is not None and path_factor.requires_grad:
        raise ValueError("path_factor must not require a gradient: none is computed")
    parameters = (
        norm_weight, norm_bias, down_weight, down_bias,
        scale_weight, scale_bias, up_weight, up_bias,
    )  # fmt: skip
    compute = out_dtype = product_dtype(x)
    for term in (mlp_out, residual):
        if term is not None:
            out_dtype = torch.promote_types(out_dtype, term.dtype)
    seed = None
    if training and dropout > 0:
        seed = torch.randint(2**63 - 1, (), device=x.device)
    needs_grad = torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (x, *parameters)
    )
    out, prompt_mean, _, _ = ops.dynamic_adapter(
        x, *parameters, mlp_out, residual, path_factor, seed, activation, static_scale, dropout,
        eps, compute, out_dtype, prompt, needs_grad and memory == "default", tf32_allowed(),
    )  # fmt: skip
    return out, prompt_mean if prompt else None


@register_fake("dapt::dynamic_adapter")
def _(
    x, norm_weight, norm_bias, down_weight, down_bias, scale_weight, scale_bias, up_weight, up_bias,
    mlp_out, residual, path_factor, seed, activation, static_scale, dropout, eps, compute,
    out_dtype, prompt, keep_hidden, tf32=False,
):  # fmt: skip
    B, T, C = x.shape
    hidden = (B, T, down_weight.shape[0]) if keep_hidden else (0,)
    return (
        x.new_empty((B, T, C), dtype=out_dtype),
        x.new_empty((B, C) if prompt else (0,), dtype=out_dtype),
        x.new_empty(hidden, dtype=compute),
        x.new_empty((B, T, 3), dtype=_sum_dtype(compute)),
    )


@register_fake("dapt::dynamic_adapter_backward")
def _(
    grad_out, grad_prompt, x, norm_weight, norm_bias, down_weight, down_bias, scale_weight,
    scale_bias, up_weight, up_bias, path_factor, seed, stats, hidden, activation, static_scale,
    dropout, compute, mlp_dtype, wanted, tf32=False,
):  # fmt: skip
    C, r = x.shape[2], down_weight.shape[0]
    shapes = [x.shape, x.shape, (C,), (C,), (r, C), (r,), (1, C), (1,), (C, r), (C,)]
    dtypes = [x.dtype, mlp_dtype] + 8 * [_sum_dtype(compute)]
    return tuple(
        x.new_empty(shape if wanted >> i & 1 else (0,), dtype=dtype)
        for i, (shape, dtype) in enumerate(zip(shapes, dtypes, strict=True))
    )


def _sum_dtype(compute: torch.dtype) -> torch.dtype:
    return torch.float64 if compute == torch.float64 else torch.float32


def _setup_context(ctx, inputs, output):
    (
        x, *parameters, mlp_out, residual, path_factor, seed,
        ctx.activation, ctx.static_scale, ctx.dropout, _, ctx.compute, _,
        ctx.prompt, ctx.keeps_hidden, ctx.tf32,
    ) = inputs  # fmt: skip
    _, _, hidden, stats = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(hidden, stats)
    ctx.mlp_dtype = mlp_out.dtype if mlp_out is not None else x.dtype
    ctx.residual_dtype = residual.dtype if residual is not None else None
    ctx.save_for_backward(
        x, *parameters, path_factor, seed, stats, hidden if ctx.keeps_hidden else None
    )


def _backward(ctx, grad_out, grad_prompt, _, __):
    x, *parameters, path_factor, seed, stats, hidden = ctx.saved_tensors
    needs = ctx.needs_input_grad
    nothing = (None,) * 9
    if not ctx.prompt:
        grad_prompt = None
    if grad_out is None and grad_prompt is None:
        return (None,) * 13 + nothing
    # Without a factor the gradient of mlp_out is that of out.
    through_path = needs[9] and path_factor is not None and grad_out is not None
    wanted = needs[0] | through_path << 1 | sum(needs[i] << i + 1 for i in range(1, 9))
    grads = [None] * 10
    if wanted:
        grads = ops.dynamic_adapter_backward(
            grad_out, grad_prompt, x, *parameters, path_factor, seed, stats, hidden, ctx.activation,
            ctx.static_scale, ctx.dropout, ctx.compute, ctx.mlp_dtype, wanted, ctx.tf32,
        )  # fmt: skip
    grad_x, grad_mlp_out, *grad_parameters = [
        grad if wanted >> i & 1 else None for i, grad in enumerate(grads)
    ]
    grad_parameters = [
        None if grad is None else grad.to(parameter.dtype)
        for grad, parameter in zip(grad_parameters, parameters, strict=True)
    ]
    if needs[9] and not through_path and grad_out is not None:
        grad_mlp_out = grad_out.to(ctx.mlp_dtype)
    grad_residual = None
    if needs[10] and grad_out is not None:
        grad_residual = grad_out.to(ctx.residual_dtype)
    return grad_x, *grad_parameters, grad_mlp_out, grad_residual, None, None, *nothing


torch.library.register_autograd("dapt::dynamic_adapter", _backward, setup_context=_setup_context)
