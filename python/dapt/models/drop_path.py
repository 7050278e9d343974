"""Stochastic depth: in training, a branch is left out for clouds drawn at random."""

from collections.abc import Callable

import torch
from torch import Tensor


def drop_path_rates(last: float, depth: int) -> list[float]:
    """The rate of each block; the rates grow linearly from 0 in the first block.

    Args:
        last: The rate of the last block.
        depth: The number of blocks.
    """
    return [last * i / max(depth - 1, 1) for i in range(depth)]


def drop_path_factor(x: Tensor, rate: float, training: bool) -> Tensor | None:
    """Draw the factor of each cloud, 0 or 1 / (1 - rate), [B]; None if nothing is dropped.

    Args:
        x: [B, ...], for its batch size, dtype and device.
        rate: The probability that a cloud is dropped.
        training: Whether clouds are dropped at all.
    """
    if rate == 0.0 or not training:
        return None
    keep = 1.0 - rate
    return x.new_empty(x.shape[0]).bernoulli_(keep) / keep


def add_branch(x: Tensor, branch: Tensor, factor: Tensor | None) -> Tensor:
    """x + factor * branch.

    Args:
        x: [B, T, C].
        branch: [B, T, C].
        factor: One per cloud, [B]; None for 1.
    """
    return x + branch if factor is None else x + factor[:, None, None] * branch


def of_kept(
    branch: Callable[[Tensor], Tensor], x: Tensor, factor: Tensor | None, mask: Tensor | None = None
) -> Tensor:
    """branch(x), with zeros for the clouds whose factor is 0.

    On the CPU these clouds are not computed. Elsewhere they are: finding them would need a sync.

    Args:
        branch: A function of tokens that treats each cloud separately.
        x: [B, T, C].
        factor: The drop-path factor, [B]; None if nothing is dropped.
        mask: The mask of the attention; with a mask, all clouds are computed.
    """
    skips = factor is not None and mask is None and x.is_cpu and not torch.compiler.is_compiling()
    kept = factor.nonzero()[:, 0] if skips else None
    if kept is None or len(kept) == len(x):
        return branch(x)
    if not len(kept):  # compute one cloud, so that the branch's weights get a gradient, of zeros
        kept = kept.new_zeros(1)
    some = branch(x.index_select(0, kept))
    return some.new_zeros(x.shape[0], *some.shape[1:]).index_copy(0, kept, some)
