"""DAPT's adapter with all that stands around it in a block."""

from __future__ import annotations

from torch import Tensor


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
    from dapt_ext import reference

    return reference.dynamic_adapter(
        x, down_weight, down_bias, up_weight, up_bias,
        norm_weight=norm_weight, norm_bias=norm_bias,
        scale_weight=scale_weight, scale_bias=scale_bias, static_scale=static_scale,
        mlp_out=mlp_out, residual=residual, path_factor=path_factor,
        dropout=dropout, training=training, activation=activation, prompt=prompt, eps=eps,
    )  # fmt: skip
