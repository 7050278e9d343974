"""The static bottleneck that several methods add beside, after or between frozen layers."""

import math

from torch import Tensor, nn

import dapt_ext


class Bottleneck(nn.Module):
    """scale * up(dropout(activation(down(x)))), where x may be normalized first.

    The up-projection starts at zero, so a new bottleneck changes nothing.

    Args:
        dim: C, of x and of the output.
        rank: Hidden units.
        scale: The scale of the output.
        dropout: The dropout rate, on the hidden units.
        activation: "gelu", "relu" or "quickgelu".
        normalize: Whether a LayerNorm comes first.
    """

    def __init__(
        self,
        dim: int,
        rank: int,
        *,
        scale: float = 1.0,
        dropout: float = 0.0,
        activation: str = "gelu",
        normalize: bool = False,
    ):
        super().__init__()
        self.scale = scale
        self.dropout = dropout
        self.activation = activation
        self.norm = nn.LayerNorm(dim) if normalize else None
        self.down = nn.Linear(dim, rank)
        self.up = nn.Linear(rank, dim)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.bias)

    def forward(
        self,
        x: Tensor,  # [B, T, C]
        mlp_out: Tensor | None = None,
        residual: Tensor | None = None,
        path_factor: Tensor | None = None,
    ) -> Tensor:
        """residual + path_factor * (mlp_out + bottleneck(x)), as far as they are given"""
        out, _ = dapt_ext.dynamic_adapter(
            x,
            self.down.weight,
            self.down.bias,
            self.up.weight,
            self.up.bias,
            norm_weight=None if self.norm is None else self.norm.weight,
            norm_bias=None if self.norm is None else self.norm.bias,
            static_scale=self.scale,
            mlp_out=mlp_out,
            residual=residual,
            path_factor=path_factor,
            dropout=self.dropout,
            training=self.training,
            activation=self.activation,
            prompt=False,
        )
        return out
