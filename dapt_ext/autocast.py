"""How the ops follow torch.autocast and torch's tf32 setting."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def product_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which a linear layer would multiply: autocast's if that is enabled, else x's.

    Args:
        x: The layer's input.
    """
    device = x.device.type
    if torch.is_autocast_enabled(device) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return x.dtype


def no_autocast(device: str) -> AbstractContextManager:
    """A context without autocast, which takes no time where autocast is off anyway.

    Args:
        device: The type of the device.
    """
    if torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


def tf32_allowed() -> bool:
    """Whether float32 products on a GPU may round their factors to tf32, as set in torch.

    `fp32_precision` can be read however the user has set it; `allow_tf32` raises if the user has
    set `fp32_precision`.
    """
    return torch.backends.cuda.matmul.fp32_precision == "tf32"


# What torch.compiler.assume_constant_result does, without the seconds that it takes to import the
# compiler. torch.compile traces again when the setting changes.
tf32_allowed._dynamo_marked_constant = True
