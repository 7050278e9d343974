"""What several methods make of the tokens around a center."""

import torch
from torch import Tensor

import dapt_ext


def neighborhood_max(values: Tensor, near: Tensor) -> Tensor:
    """The greatest value among each center's neighbors, channel by channel.

    Kept for the backward is which neighbor it was, not what all of them had.

    Args:
        values: [B, G, r].
        near: int64 [B, M, K], which of the G are around each of M centers.

    Returns:
        [B, M, r].
    """
    with torch.no_grad():
        rank = dapt_ext.gather(values, near).argmax(2)  # [B, M, r]
    return values.gather(1, near.gather(2, rank))
