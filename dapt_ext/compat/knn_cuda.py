"""`from dapt_ext.compat.knn_cuda import KNN` in place of `from knn_cuda import KNN`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import dapt_ext


class KNN(nn.Module):
    """The k nearest reference points of each query: Euclidean distances and int64 indices.

    Args:
        k: The number of neighbors.
        transpose_mode: Whether points are [B, N, D] instead of [B, D, N].
    """

    def __init__(self, k: int, transpose_mode: bool = False) -> None:
        super().__init__()
        self.k, self.transpose_mode = k, transpose_mode

    @torch.no_grad()
    def forward(self, ref: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """ref [B, D, n], query [B, D, m] -> distances and indices, [B, k, m] each; with
        `transpose_mode`, ref [B, n, D], query [B, m, D] -> [B, m, k] each."""
        if self.transpose_mode:
            sq_dist, idx = dapt_ext.knn(query, ref, self.k)
            return sq_dist.sqrt(), idx
        sq_dist, idx = dapt_ext.knn(query.transpose(1, 2), ref.transpose(1, 2), self.k)
        return sq_dist.sqrt().transpose(1, 2).contiguous(), idx.transpose(1, 2).contiguous()
