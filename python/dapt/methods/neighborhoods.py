"""Operations on the tokens around a center, shared by several methods."""

import torch
from torch import Tensor

import dapt_ext


def neighborhood_max(values: Tensor, near: Tensor) -> Tensor:
    """The greatest value among each center's neighbors, channel by channel.

    The backward keeps only which neighbor it was.

    Args:
        values: [B, G, r].
        near: int64 [B, M, K], which of the G are around each of M centers.

    Returns:
        [B, M, r].
    """
    with torch.no_grad():
        rank = dapt_ext.gather(values, near).argmax(2)  # [B, M, r]
    return values.gather(1, near.gather(2, rank))
