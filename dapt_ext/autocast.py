"""How the ops take part in torch.autocast."""

from __future__ import annotations

import torch
from torch import Tensor


def product_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which a linear layer would multiply: autocast's where that is on.

    Args:
        x: Its input.
    """
    device = x.device.type
    if torch.is_autocast_enabled(device) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return x.dtype


def tf32_allowed() -> bool:
    """Whether products of float32 on a GPU may round their factors to tf32, torch's own setting.
    `fp32_precision` knows it however it was set; `allow_tf32` raises where the user set the other.
    """
    return torch.backends.cuda.matmul.fp32_precision == "tf32"


# torch.compiler.assume_constant_result, without the seconds that its import of the compiler takes.
# torch.compile traces again when the setting changes.
tf32_allowed._dynamo_marked_constant = True
