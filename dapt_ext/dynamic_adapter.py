"""DAPT's adapter, fused with the ops around it in a transformer block."""

from __future__ import annotations

from functools import reduce
from operator import attrgetter
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dapt_ext import reference
from dapt_ext._autograd import register_autograd
from dapt_ext._library import ops, register_fake
from dapt_ext.autocast import product_dtype, tf32_allowed

_NO_GRADIENT_OF_PATH = "path_factor must not require a gradient: none is computed"


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
    """Apply a bottleneck whose output is scaled per token, and add the MLP's output and residual.

        z = LayerNorm(x)
        s = ReLU(scale_weight · z + scale_bias)
        a = s * (up_weight · dropout(activation(down_weight · z + down_bias)) + up_bias)
        out = residual + path_factor[b] * (mlp_out + a)
        prompt_mean = mean over tokens of GELU(a)

    Matrix products run in the dtype of x or of autocast, statistics and sums in float32 (float64
    for float64). Dropout draws one seed from torch's generator. The mask depends only on the seed,
    the token and the hidden unit, so it is the same on every device and the backward regenerates
    it.

    Args:
        x: [B, T, C], any floating dtype and strides.
        down_weight, down_bias: [r, C] and [r].
        up_weight, up_bias: [C, r] and [C].
        norm_weight, norm_bias: [C]; without them z = x.
        scale_weight, scale_bias: [1, C] and [1]; without them s = static_scale.
        static_scale: The scale of every token when none is computed.
        mlp_out, residual: [B, T, C]; left out of the sum if None.
        path_factor: [B], DropPath's factor for each cloud; it gets no gradient.
        dropout: The probability of dropping a hidden unit; only in training.
        training: Whether dropout is active.
        activation: "gelu" (erf), "relu" or "quickgelu".
        prompt: Whether to compute prompt_mean.
        eps: Added to the variance in the norm.
        memory: "default" keeps the hidden row of each token for the backward; "low" recomputes it.
            Both keep x and three numbers per token.

    Returns:
        out [B, T, C]: in the dtype to which the products, mlp_out and residual promote.
        prompt_mean [B, C] in out's dtype, or None.
    """
    if (norm_weight is None) != (norm_bias is None):
        raise ValueError("norm_weight and norm_bias must be given together")
    if (scale_weight is None) != (scale_bias is None):
        raise ValueError("scale_weight and scale_bias must be given together")
    if memory not in ("default", "low"):
        raise ValueError(f'memory must be "default" or "low", got {memory!r}')
    if path_factor is not None and path_factor.requires_grad:
        raise ValueError(_NO_GRADIENT_OF_PATH)
    parameters = (
        norm_weight, norm_bias, down_weight, down_bias,
        scale_weight, scale_bias, up_weight, up_bias,
    )  # fmt: skip
    compute = product_dtype(x)
    out_dtype = _out_dtype(compute, mlp_out, residual)
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


def dynamic_adapters(
    x: Tensor,
    adapters: Tensor,
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
    activation: str = "gelu",
    prompt: bool = True,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor | None]:
    """`dynamic_adapter` in evaluation, with one adapter per cloud from a stack of A.

    On the CPU, each cloud's result is bit for bit that of `dynamic_adapter` with its adapter alone.
    Gradients come from a formula in torch's own ops.

    Args:
        x: [B, T, C], any floating dtype and strides.
        adapters: int64 [B], the index of each cloud's adapter.
        down_weight, down_bias: [A, r, C] and [A, r].
        up_weight, up_bias: [A, C, r] and [A, C].
        norm_weight, norm_bias: [A, C]; without them z = x.
        scale_weight, scale_bias: [A, 1, C] and [A, 1]; without them s = static_scale.
        mlp_out, residual: [B, T, C]; left out of the sum if None.
        static_scale, activation, prompt, eps: As in `dynamic_adapter`.

    Returns:
        As `dynamic_adapter`.
    """
    if (norm_weight is None) != (norm_bias is None):
        raise ValueError("norm_weight and norm_bias must be given together")
    if (scale_weight is None) != (scale_bias is None):
        raise ValueError("scale_weight and scale_bias must be given together")
    compute = product_dtype(x)
    out, prompt_mean = ops.dynamic_adapters(
        x, adapters, norm_weight, norm_bias, down_weight, down_bias, scale_weight, scale_bias,
        up_weight, up_bias, mlp_out, residual, activation, static_scale, eps, compute,
        _out_dtype(compute, mlp_out, residual), prompt, tf32_allowed(),
    )  # fmt: skip
    return out, prompt_mean if prompt else None


def _out_dtype(compute: torch.dtype, *terms: Tensor | None) -> torch.dtype:
    """The dtype to which the products and the terms added to them promote."""
    given = [term.dtype for term in terms if term is not None]
    return reduce(torch.promote_types, given, compute)


@register_fake("dapt::dynamic_adapters")
def _(
    x, adapters, norm_weight, norm_bias, down_weight, down_bias, scale_weight, scale_bias,
    up_weight, up_bias, mlp_out, residual, activation, static_scale, eps, compute, out_dtype,
    prompt, tf32=False,
):  # fmt: skip
    B, T, C = x.shape
    return (
        x.new_empty((B, T, C), dtype=out_dtype),
        x.new_empty((B, C) if prompt else (0,), dtype=out_dtype),
    )


class Gradients(NamedTuple):
    """The outputs of the backward op. Gradients that were not requested are empty.

    Args:
        x, mlp_out: [B, T, C].
        norm_weight, norm_bias: [C].
        down_weight: [r, C].
        down_bias: [r].
        scale_weight: [1, C].
        scale_bias: [1].
        up_weight: [C, r].
        up_bias: [C].
    """

    x: Any  # [B, T, C]
    mlp_out: Any  # [B, T, C]
    norm_weight: Any  # [C]
    norm_bias: Any  # [C]
    down_weight: Any  # [r, C]
    down_bias: Any  # [r]
    scale_weight: Any  # [1, C]
    scale_bias: Any  # [1]
    up_weight: Any  # [C, r]
    up_bias: Any  # [C]


@register_fake("dapt::dynamic_adapter_backward")
def _(
    grad_out, grad_prompt, x, norm_weight, norm_bias, down_weight, down_bias, scale_weight,
    scale_bias, up_weight, up_bias, path_factor, seed, stats, hidden, activation, static_scale,
    dropout, eps, compute, mlp_dtype, wanted, tf32=False,
):  # fmt: skip
    C, r = x.shape[2], down_weight.shape[0]
    shapes = Gradients(
        x=x.shape, mlp_out=x.shape, norm_weight=(C,), norm_bias=(C,), down_weight=(r, C),
        down_bias=(r,), scale_weight=(1, C), scale_bias=(1,), up_weight=(C, r), up_bias=(C,),
    )  # fmt: skip
    dtypes = dict.fromkeys(Gradients._fields, _sum_dtype(compute))
    dtypes |= {"x": x.dtype, "mlp_out": mlp_dtype}
    return tuple(
        x.new_empty(shape if name in wanted else (0,), dtype=dtypes[name])
        for name, shape in shapes._asdict().items()
    )


def _sum_dtype(compute: torch.dtype) -> torch.dtype:
    return torch.float64 if compute == torch.float64 else torch.float32


_PARAMETERS = (
    "norm_weight", "norm_bias", "down_weight", "down_bias", "scale_weight", "scale_bias",
    "up_weight", "up_bias",
)  # fmt: skip
_TENSORS = ("x", *_PARAMETERS, "path_factor", "seed")  # also read by the backward
_tensors = attrgetter(*_TENSORS)
_NO_TENSORS = dict.fromkeys((*_TENSORS, "mlp_out", "residual"))


def _save(ctx, inputs, outputs):
    if inputs.path_factor is not None and inputs.path_factor.requires_grad:
        raise RuntimeError(_NO_GRADIENT_OF_PATH)
    _, _, hidden, stats = outputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(hidden, stats)
    ctx.mlp_dtype = (inputs.x if inputs.mlp_out is None else inputs.mlp_out).dtype
    # without the tensors, which would live as long as the graph
    ctx.inputs = inputs._replace(**_NO_TENSORS)
    ctx.save_for_backward(*_tensors(inputs), stats, hidden if inputs.keep_hidden else None)


def _backward(ctx, tensors, grad_out, grad_prompt, _, __):
    path_factor = tensors[_TENSORS.index("path_factor")]
    inputs, needs = ctx.inputs, ctx.needs
    if not inputs.prompt:
        grad_prompt = None
    grads = {}
    if grad_out is not None:
        # The gradients of terms that are only added are grad_out itself, up to the path factor.
        if "residual" in needs:
            grads["residual"] = grad_out
        if "mlp_out" in needs and path_factor is None:
            grads["mlp_out"] = grad_out
    wanted = [name for name in Gradients._fields if name in needs and name not in grads]
    if grad_out is None and "mlp_out" in wanted:
        wanted.remove("mlp_out")
    if wanted and (grad_out is not None or grad_prompt is not None):
        found = Gradients(*ops.dynamic_adapter_backward(
            grad_out, grad_prompt, *tensors, inputs.activation, inputs.static_scale,
            inputs.dropout, inputs.eps, inputs.compute, ctx.mlp_dtype, wanted, inputs.tf32,
        ))  # fmt: skip
        grads |= {name: getattr(found, name) for name in wanted}
    return grads


def _formula(*arguments):
    """The reference with the op's signature, for derivatives of any order."""
    a = _named("dynamic_adapter", arguments)
    detached = [t.detach() if isinstance(t, Tensor) else t for t in arguments]
    _, _, hidden, stats = ops.dynamic_adapter(*detached)
    names = ("x", *_PARAMETERS, "mlp_out", "residual", "path_factor")
    out, prompt_mean = reference.dynamic_adapter(
        **_in_sums(a, names), static_scale=a.static_scale, dropout=a.dropout,
        training=a.seed is not None, seed=a.seed, activation=a.activation, prompt=a.prompt,
        eps=a.eps,
    )  # fmt: skip
    if prompt_mean is None:
        prompt_mean = out.new_empty(0)
    return out.to(a.out_dtype), prompt_mean.to(a.out_dtype), hidden, stats


def _backward_formula(*arguments):
    """A function of the gradients, x and the parameters; everything else follows from these."""
    a = _named("dynamic_adapter_backward", arguments)
    kept = 1.0
    if a.seed is not None:
        shape = torch.Size((*a.x.shape[:2], a.down_weight.shape[0]))
        kept = reference.dropout_factors(a.seed, shape, a.dropout).to(_sum_dtype(a.compute))
    names = ("grad_out", "grad_prompt", "x", *_PARAMETERS, "path_factor")
    found = reference.dynamic_adapter_backward(
        **_in_sums(a, names), kept=kept, activation=a.activation, static_scale=a.static_scale,
        eps=a.eps,
    )  # fmt: skip
    dtypes = {"x": a.x.dtype, "mlp_out": a.mlp_dtype}
    return tuple(
        found[name].to(dtypes.get(name, found[name].dtype))
        if name in a.wanted
        else a.x.new_empty(0, dtype=dtypes.get(name, _sum_dtype(a.compute)))
        for name in Gradients._fields
    )


def _formula_of_many(*arguments):
    a = _named("dynamic_adapters", arguments)
    names = ("x", *_PARAMETERS, "mlp_out", "residual")
    out, prompt_mean = reference.dynamic_adapters(
        **_in_sums(a, names), adapters=a.adapters, static_scale=a.static_scale,
        activation=a.activation, prompt=a.prompt, eps=a.eps,
    )  # fmt: skip
    if prompt_mean is None:
        prompt_mean = out.new_empty(0)
    return out.to(a.out_dtype), prompt_mean.to(a.out_dtype)


def _named(op: str, arguments: tuple) -> SimpleNamespace:
    schema = getattr(ops, op).default._schema.arguments
    return SimpleNamespace(
        **{argument.name: value for argument, value in zip(schema, arguments, strict=True)}
    )


def _in_sums(a: SimpleNamespace, names: tuple[str, ...]) -> dict[str, Tensor | None]:
    """Tensors by name, in the dtype in which the kernels sum."""
    dtype = _sum_dtype(a.compute)
    tensors = {name: getattr(a, name) for name in names}
    return {name: None if t is None else t.to(dtype) for name, t in tensors.items()}


register_autograd("dynamic_adapter", _formula, _save, _backward)
register_autograd("dynamic_adapters", _formula_of_many)
register_autograd("dynamic_adapter_backward", _backward_formula)
