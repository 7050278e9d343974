"""TFTS: a learned scale and shift per channel after a frozen layer."""

import torch
from torch import Tensor, nn

import dapt_ext
from dapt.methods.replacements import Replacements
from dapt.models.compression import QuantizedLinear


class ScaleShift(nn.Module):
    """scale * x + shift, both learned per channel.

    Args:
        dim: C, the number of channels of x.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.scale = nn.Parameter(torch.empty(dim))
        self.shift = nn.Parameter(torch.empty(dim))
        nn.init.normal_(self.scale, mean=1.0, std=0.02)
        nn.init.normal_(self.shift, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.shift, x, self.scale)


class ScaleShiftLinear(ScaleShift):
    """A frozen Linear, scaled and shifted without an extra pass.

    Args:
        frozen: The layer whose output is scaled and shifted.
    """

    def __init__(self, frozen: nn.Linear):
        super().__init__(frozen.out_features)
        self.frozen = frozen

    def forward(self, x: Tensor) -> Tensor:
        linear = self.frozen
        weight = linear.make_weight if isinstance(linear, QuantizedLinear) else linear.weight
        return dapt_ext.scale_shift_linear(x, weight, linear.bias, self.scale, self.shift)

    @torch.no_grad()
    def folded(self) -> nn.Linear:
        """Return an equivalent plain layer."""
        frozen = self.frozen
        like = {"device": self.scale.device, "dtype": self.scale.dtype}
        linear = nn.Linear(frozen.in_features, frozen.out_features, **like)
        bias = self.shift if frozen.bias is None else frozen.bias * self.scale + self.shift
        linear.weight.copy_(frozen.weight * self.scale[:, None])
        linear.bias.copy_(bias)
        return linear.requires_grad_(False)


class ScaleShiftNorm(ScaleShift):
    """A frozen LayerNorm, scaled and shifted without an extra pass.

    Args:
        frozen: The norm whose output is scaled and shifted.
    """

    def __init__(self, frozen: nn.LayerNorm):
        super().__init__(*frozen.normalized_shape)
        self.frozen = frozen

    def forward(self, x: Tensor) -> Tensor:
        norm = self.frozen
        return dapt_ext.scale_shift_norm(
            x, norm.weight, norm.bias, self.scale, self.shift, norm.eps
        )

    @torch.no_grad()
    def folded(self) -> nn.LayerNorm:
        """Return an equivalent plain layer."""
        frozen = self.frozen
        like = {"device": self.scale.device, "dtype": self.scale.dtype}
        norm = nn.LayerNorm(frozen.normalized_shape, frozen.eps, **like)
        norm.weight.copy_(frozen.weight * self.scale)
        norm.bias.copy_(frozen.bias * self.scale + self.shift)
        return norm.requires_grad_(False)


def put_scale_shift(replacements: Replacements, parent: nn.Module, *names: str) -> None:
    """Add a learned scale and shift after each of the named layers.

    The width of an `nn.Identity` is taken to be that of the parent's tokens.

    Args:
        replacements: Records the replacements.
        parent: A module of the backbone.
        names: The names of its layers.
    """
    for name in names:
        layer = getattr(parent, name)
        if isinstance(layer, nn.Identity):
            replacements.put(parent, name, ScaleShift(parent.dim))
            continue
        kind = ScaleShiftLinear if isinstance(layer, nn.Linear) else ScaleShiftNorm
        replacements.put(parent, name, kind(layer))
