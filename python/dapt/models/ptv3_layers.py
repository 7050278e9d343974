"""The layers of Point Transformer V3, on packed cells: tokens [1, M, C].

A block takes the cells' neighbors as its positions and their patches as its mask, so blocks have
the same signature as everywhere: ``block(tokens, positions, mask)``.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

import dapt_ext
from dapt.models.blocks import Mlp
from dapt.models.drop_path import add_branch, drop_path_factor
from dapt.models.ptv3_geometry import Geometry, Patches


class PatchAttention(nn.Module):
    """Self-attention among the cells of a patch.

    Args:
        dim: C, the width of the tokens.
        num_heads: The number of heads; must divide C.
        rope_base: The base of rotary positions, or None for none. The width of a head must then be
            a multiple of 6: a pair of channels for each frequency of each axis.
    """

    def __init__(self, dim: int, num_heads: int, rope_base: float | None = None):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.inv_freq: Tensor | None = None
        if rope_base is not None:
            of_axis = dim // num_heads // 3
            exponents = torch.arange(0, of_axis, 2, dtype=torch.float32) / of_axis
            del self.inv_freq
            self.register_buffer("inv_freq", rope_base**-exponents)

    def forward(self, x: Tensor, patches: Patches) -> Tensor:  # [1, M, C]
        qkv = self.qkv(x)
        if self.inv_freq is not None:
            qkv = self._turned(qkv, patches.coords)
        qkv = dapt_ext.gather(qkv, patches.cells[None])[0]  # [S, 3 C]
        groups = qkv.split([count * size for count, size in patches.shapes])
        seen = [
            dapt_ext.attention(group.unflatten(0, shape), self.num_heads).flatten(0, 1)
            for group, shape in zip(groups, patches.shapes, strict=True)
        ]
        seen = torch.cat(seen) if seen else x[0]  # [S, C]
        return self.proj(dapt_ext.gather(seen[None], patches.slots[None]))

    def _turned(self, qkv: Tensor, coords: Tensor) -> Tensor:
        """Rotate queries and keys by the coordinates of their cells, a third of a head per axis."""
        angles = (coords[..., None] * self.inv_freq)[None, :, None, None]  # [1, M, 1, 1, 3, f]
        cos, sin = angles.cos().to(qkv.dtype), angles.sin().to(qkv.dtype)
        heads = qkv.unflatten(2, (3, self.num_heads, 3, 2, -1))  # [1, M, 3, H, 3, 2, f]
        u, v = heads[:, :, :2].unbind(5)
        turned = torch.stack([u * cos - v * sin, v * cos + u * sin], 5)
        return torch.cat([turned, heads[:, :, 2:]], 2).flatten(2)


class SubmanifoldConv(nn.Module):
    """A 3 x 3 x 3 convolution whose output has the same cells as its input.

    Args:
        dim: C, the number of input and output channels.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.weight = nn.Parameter(nn.init.trunc_normal_(torch.empty(dim, 3, 3, 3, dim), std=0.02))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor, neighbors: Tensor) -> Tensor:  # [1, M, C]
        return dapt_ext.submanifold_conv(x[0], self.weight, self.bias, neighbors)[None]

    def extra_repr(self) -> str:
        return str(len(self.bias))


class NeighborEmbedding(nn.Module):
    """Embeds a cell's position by a convolution over its neighbors.

    Args:
        dim: C, the width of the tokens.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.conv = SubmanifoldConv(dim)
        self.project = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, neighbors: Tensor) -> Tensor:  # [1, M, C]
        return self.norm(self.project(self.conv(x, neighbors)))


class SceneBlock(nn.Module):
    """A transformer block that computes the positions of its tokens itself.

    Args:
        dim: C, the width of the tokens.
        num_heads: The number of attention heads.
        mlp_ratio: The ratio of the MLP's hidden width to C.
        drop_path: Share of the cells for which a half of the block is skipped in training.
        rope_base: The base of rotary positions in the attention, or None for none.
    """

    own_positions = True

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: int = 4,
        drop_path: float = 0.0,
        rope_base: float | None = None,
    ):
        super().__init__()
        self.dim = dim
        self.drop_path = drop_path
        self.cpe = NeighborEmbedding(dim)
        self.norm1 = nn.LayerNorm(dim)
        self.attn = PatchAttention(dim, num_heads, rope_base)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, mlp_ratio * dim)

    def forward(self, x: Tensor, positions: Tensor, mask: Patches) -> Tensor:  # [1, M, C]
        x = self.place(x, positions)
        x = x + self._dropped(self.attn(self.norm1(x), mask))
        return x + self._dropped(self.mlp(self.norm2(x)))

    def place(self, x: Tensor, positions: Tensor) -> Tensor:
        """Add their positions to the tokens."""
        return x + self.cpe(x, positions)

    def attend(
        self,
        x: Tensor,
        mask: Patches,
        factor: Tensor | None = None,
        attention: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """The first half, for tokens with their positions added; see `Block.attend`.

        Args:
            x: The tokens of all scenes [1, M, C].
            mask: The patches within which tokens attend to each other.
            factor: The drop-path factor [1].
            attention: Replaces the block's own attention over the normed tokens.
        """
        u = self.norm1(x)
        return add_branch(x, self.attn(u, mask) if attention is None else attention(u), factor)

    def path_factor(self, x: Tensor) -> Tensor | None:
        """The drop-path factor [1] of a whole half of the block."""
        return drop_path_factor(x, self.drop_path, self.training)

    def _dropped(self, branch: Tensor) -> Tensor:
        """Apply stochastic depth per cell, as published."""
        if self.drop_path == 0.0 or not self.training:
            return branch
        keep = 1.0 - self.drop_path
        return branch * (branch.new_empty(*branch.shape[:2], 1).bernoulli_(keep) / keep)


class SceneStack(nn.ModuleList):
    """The blocks of one scale, which take turns attending along the different curves."""

    def forward(self, x: Tensor, geometry: Geometry) -> Tensor:  # [1, M, C]
        for i, block in enumerate(self):
            x = block(x, geometry.neighbors, geometry.patches[i % len(geometry.patches)])
        return x


class Pooling(nn.Module):
    """Merges up to eight cells into one: the maximum of their projections.

    Args:
        dim: The number of channels of the finer cells.
        out_dim: The number of channels of the coarser cells.
    """

    def __init__(self, dim: int, out_dim: int):
        super().__init__()
        self.project = nn.Linear(dim, out_dim)
        self.norm = nn.LayerNorm(out_dim)
        self.act = nn.GELU()

    def forward(self, x: Tensor, inside: Tensor) -> Tensor:  # [1, M, C], [P, 8] -> [1, P, D]
        inside = inside[None]
        values = dapt_ext.gather(self.project(x), inside)  # [1, P, 8, D]
        values = values.masked_fill((inside < 0)[..., None], -torch.inf)
        return self.act(self.norm(values.amax(2)))


class Unpooling(nn.Module):
    """Combines the features of cells with those of the coarser cells around them.

    Args:
        coarse_dim: The number of channels of the coarser cells.
        dim: The number of channels of the finer cells.
        out_dim: The number of channels of the result.
    """

    def __init__(self, coarse_dim: int, dim: int, out_dim: int):
        super().__init__()

        def mixed(width: int) -> nn.Sequential:
            return nn.Sequential(nn.Linear(width, out_dim), nn.LayerNorm(out_dim), nn.GELU())

        self.coarse, self.own = mixed(coarse_dim), mixed(dim)

    def forward(self, coarse: Tensor, own: Tensor, around: Tensor) -> Tensor:
        """[1, P, C'], [1, M, C], int64 [M] -> [1, M, D]"""
        return self.own(own) + dapt_ext.gather(self.coarse(coarse), around[None])


def scene_stack(
    dim: int, num_heads: int, mlp_ratio: int, rates: Sequence[float], rope_base: float | None
) -> SceneStack:
    """Create a stack of blocks.

    Args:
        dim: C, the width of the tokens.
        num_heads: The number of heads; must divide C.
        mlp_ratio: The ratio of an MLP's hidden width to C.
        rates: The drop-path rate of each block.
        rope_base: The base of rotary positions, or None for none.
    """
    return SceneStack(SceneBlock(dim, num_heads, mlp_ratio, rate, rope_base) for rate in rates)
