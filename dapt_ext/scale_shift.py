"""TFTS, a learnt scale and shift per channel, on a frozen layer without a pass of its own."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def scale_shift_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor, shift: Tensor
) -> Tensor:
    return scale * F.linear(x, weight, bias) + shift


def scale_shift_norm(
    x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor, eps: float = 1e-5
) -> Tensor:
    """scale * LayerNorm(x) + shift: the scale and the shift go into the norm's own.

    Args:
        x: [..., C].
        weight, bias: [C], of the frozen norm.
        scale, shift: [C].
    """
    return F.layer_norm(x, x.shape[-1:], weight * scale, bias * scale + shift, eps)
