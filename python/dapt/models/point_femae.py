"""Point-FEMAE (AAAI 2024): Point-MAE's blocks, each followed by a local module over the nearest
patches."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dapt_ext
from dapt.errors import UsageError
from dapt.models.drop_path import add_branch, drop_path_factor, drop_path_rates
from dapt.models.transformer import PointTransformer, PointTransformerConfig


@dataclass(frozen=True)
class PointFemaeConfig(PointTransformerConfig):
    """The size of a Point-FEMAE; other fields are those of the plain transformer.

    Args:
        neighbors: The number of nearest patches, the patch itself included, that a local module
            reads.
        reduction: The ratio of C to the inner width of a local module.
        local_blocks: The blocks that are followed by a local module; None for all.
    """

    PLACES: ClassVar[tuple[str, ...]] = ("local_blocks",)

    class_token: bool = False
    neighbors: int = 20
    reduction: int = 1
    local_blocks: tuple[int, ...] | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.local_blocks is not None:
            object.__setattr__(self, "local_blocks", tuple(self.local_blocks))
            if not set(self.local_blocks) <= set(range(self.depth)):
                raise UsageError(
                    f"local_blocks must lie in 0 to {self.depth - 1}, got {self.local_blocks}"
                )
        if self.neighbors < 1:
            raise UsageError(f"neighbors must be at least 1, got {self.neighbors}")
        if self.reduction < 1 or self.dim % self.reduction:
            raise UsageError(f"reduction must divide dim={self.dim}, got {self.reduction}")

    def build(self) -> "PointFemae":
        """Build the network with fresh weights."""
        return PointFemae(self)


class PointFemae(PointTransformer):
    """Point-FEMAE's encoder. Tokens that methods insert bypass the local modules, which process
    only patches.

    Args:
        config: The size of the network.
    """

    between_blocks = True

    def __init__(self, config: PointFemaeConfig):
        super().__init__(config)
        where = range(config.depth) if config.local_blocks is None else config.local_blocks
        rates = drop_path_rates(config.drop_path, config.depth)
        self.local = nn.ModuleDict(
            {str(i): LocalModule(config.dim, config.reduction, rates[i]) for i in where}
        )

    @property
    def head_tokens(self) -> tuple[str, ...]:
        """What the published classification head reads."""
        return (*("cls",) * self.num_class_tokens, "patch:mean", "patch:max")

    def _run_blocks(
        self, x: Tensor, positions: Tensor, centers: Tensor, **given: object
    ) -> tuple[Tensor, list[Tensor]]:
        G = centers.shape[1]
        nearest = dapt_ext.knn(centers, centers, min(self.config.neighbors, G))[1]  # [B, G, k]

        def look_around(i: int, x: Tensor) -> Tensor:
            if str(i) not in self.local:
                return x
            front, patches = x.split([x.shape[1] - G, G], 1)
            return torch.cat([front, self.local[str(i)](patches, nearest)], 1)

        return self.blocks(x, positions, centers=centers, after=look_around, **given)


class LocalModule(nn.Module):
    """An edge convolution: edges [x_j - x_i, x_i] from a patch to its nearest ones, and their
    maximum.

    Args:
        dim: C, the width of the tokens.
        reduction: The ratio of C to the channels of an edge.
        drop_path: The drop-path rate of this module.
    """

    def __init__(self, dim: int, reduction: int, drop_path: float):
        super().__init__()
        self.drop_path = drop_path
        self.norm = nn.LayerNorm(dim)
        inner = dim // reduction
        self.edge = nn.Sequential(nn.Linear(2 * dim, inner, bias=False), nn.BatchNorm1d(inner))
        self.out = nn.Sequential(nn.Linear(inner, dim, bias=False), nn.BatchNorm1d(dim))

    def forward(self, x: Tensor, nearest: Tensor) -> Tensor:  # [B, G, C], [B, G, k] -> [B, G, C]
        y = self._largest_edges(self.norm(x), nearest)  # [B, G, inner]
        y = self.out[1](self.out[0](y).flatten(0, 1)).view_as(x)
        factor = drop_path_factor(x, self.drop_path, self.training)
        return add_branch(x, F.leaky_relu(y, 0.2), factor)

    def _largest_edges(self, u: Tensor, nearest: Tensor) -> Tensor:
        # The published layer reads [u_j - u_i, u_i]; its products with u are computed per patch.
        difference, own = self.edge[0].weight.chunk(2, dim=1)
        to_others, at_own = F.linear(u, difference), F.linear(u, own - difference)
        norm = self.edge[1]
        if norm.training:
            edges = dapt_ext.gather(to_others, nearest) + at_own[:, :, None]  # [B, G, k, inner]
            edges = norm(edges.flatten(0, 2)).view_as(edges)
            return F.leaky_relu(edges, 0.2).amax(2)
        # In eval mode the norm scales and shifts each channel and what follows is monotonic, so the
        # maximum can be taken first, and no tensor of all edges is kept for the backward.
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        shift = norm.bias - scale * norm.running_mean
        largest = dapt_ext.gather(scale * to_others, nearest).max(2).values
        return F.leaky_relu(largest + scale * at_own + shift, 0.2)
