"""Point-M2AE: three scales, each of which groups the centers of the previous one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor, nn

import dapt_ext
from dapt.errors import UsageError, check_choice, check_sizes
from dapt.models.blocks import Block, BlockStack, init_weights
from dapt.models.compression import Storage
from dapt.models.drop_path import drop_path_rates
from dapt.models.tokenizer import (
    NearOrigin,
    PatchEncoder,
    Tokenizer,
    as_weights,
    position_embedding,
)
from dapt.models.transformer import Features


@dataclass(frozen=True)
class PointM2aeConfig(Storage):
    """The size of a Point-M2AE, with one value per scale; other fields are those of `Storage`.

    Args:
        num_groups: The number of patches in each scale.
        group_size: The number of points or tokens per patch in each scale.
        dims: The width of the tokens in each scale.
        depths: The number of blocks in each scale.
        radius: The radius within which tokens attend to each other in each scale.
        num_heads: The number of heads of each attention.
        mlp_ratio: The ratio of an MLP's hidden width to C.
        encoder_widths: The widths of the inner layers of the first scale's patch encoder.
        drop_path: The drop-path rate of the last block; rates grow linearly from 0 in the first.
        near_origin: "skip" centers no patch on a point within 0.03 of the origin, as the
            published networks do; "keep" samples all points.
    """

    num_groups: tuple[int, ...] = (512, 256, 64)
    group_size: tuple[int, ...] = (16, 8, 8)
    dims: tuple[int, ...] = (96, 192, 384)
    depths: tuple[int, ...] = (5, 5, 5)
    radius: tuple[float, ...] = (0.32, 0.64, 1.28)
    num_heads: int = 6
    mlp_ratio: int = 4
    encoder_widths: tuple[int, int, int] = (128, 256, 512)
    drop_path: float = 0.1
    near_origin: NearOrigin = "keep"

    def __post_init__(self):
        super().__post_init__()
        check_sizes(self)
        check_choice(self, near_origin=get_args(NearOrigin))
        for field in ("num_groups", "group_size", "depths", "radius"):
            if len(getattr(self, field)) != len(self.dims):
                raise UsageError(
                    f"{field} must have a value for each of the {len(self.dims)} scales, "
                    f"got {getattr(self, field)}"
                )
        for dim in self.dims:
            if dim % self.num_heads:
                raise UsageError(f"num_heads must divide dims={self.dims}, got {self.num_heads}")

    def build(self) -> "PointM2ae":
        """Build the network with fresh weights."""
        return PointM2ae(self)


class Scale(nn.Module):
    """One scale: a tokenizer, then blocks in which tokens attend within a radius.

    Args:
        tokenizer: The tokenizer of this scale.
        blocks: The blocks of this scale.
        dim: C, the width of its tokens.
        radius: The radius around a center within which its token attends.
    """

    def __init__(self, tokenizer: Tokenizer, blocks: BlockStack, dim: int, radius: float):
        super().__init__()
        self.tokenizer = tokenizer
        self.pos_embed = position_embedding(dim, dim)
        self.blocks = blocks
        self.radius = radius

    def forward(
        self, centers: Tensor, tokens: Tensor | None, levels: Sequence[int] = (), **given: Tensor
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        groups = self.tokenizer.group(centers)
        if tokens is None:
            patches = groups.patches  # [B, G, K, 3]
        else:
            patches = dapt_ext.gather(tokens, groups.patch_idx)  # [B, G, K, C]
        x = self.tokenizer.encode(patches)
        centers = groups.centers
        positions, near = self.pos_embed(as_weights(centers, self)), self._near(centers)
        x, kept = self.blocks(x, positions, near, levels, centers, **given)
        return centers, x, kept

    def _near(self, centers: Tensor) -> Tensor:
        distance = torch.cdist(centers, centers, compute_mode="donot_use_mm_for_euclid_dist")
        return (distance < self.radius)[:, None]  # [B, 1, G, G]


class PointM2ae(nn.Module):
    """Point-M2AE's encoder: each scale groups the centers of the one before.

    Args:
        config: Its size.
    """

    # The published head skips the first patch in its maximum, as if it were a class token.
    head_tokens = ("patch:mean", "patch:max_but_first")
    num_class_tokens = 0
    between_blocks = False

    def __init__(self, config: PointM2aeConfig):
        super().__init__()
        self.config = config
        rates = iter(drop_path_rates(config.drop_path, sum(config.depths)))
        self.scales = nn.ModuleList()
        for i, dim in enumerate(config.dims):
            if i == 0:
                encoder = PatchEncoder(3, config.encoder_widths, dim)
            else:
                previous = config.dims[i - 1]
                encoder = PatchEncoder(previous, (previous, previous, dim), dim)
            tokenizer = Tokenizer(
                config.num_groups[i],
                config.group_size[i],
                encoder,
                nn.Identity(),
                config.near_origin,
            )
            blocks = BlockStack(
                Block(dim, config.num_heads, config.mlp_ratio, next(rates))
                for _ in range(config.depths[i])
            )
            self.scales.append(Scale(tokenizer, blocks, dim, config.radius[i]))
        self.norm = nn.LayerNorm(self.dim)
        init_weights(self)

    @property
    def dim(self) -> int:
        """C, the width of the tokens that the head reads."""
        return self.config.dims[-1]

    def forward(self, points: Tensor, levels: Sequence[int] = (), **given: Tensor) -> Features:
        """``levels`` index the blocks of the last scale; ``given`` goes to every stack."""
        centers, x, kept = points, None, []
        for i, scale in enumerate(self.scales):
            if x is not None:
                x = x[:, -centers.shape[1] :]  # tokens inserted by blocks end with their scale
            last = i == len(self.scales) - 1
            centers, x, kept = scale(centers, x, levels if last else (), **given)

        G = centers.shape[1]
        x = self.norm(x)
        return Features(
            cls=None,
            prompts=x[:, :-G],
            patches=x[:, -G:],
            centers=centers,
            levels=tuple(self.norm(tokens[:, -G:]) for tokens in kept),
        )

    @property
    def tokenizers(self) -> list[Tokenizer]:
        """One per scale."""
        return [scale.tokenizer for scale in self.scales]

    @property
    def stacks(self) -> list[BlockStack]:
        """One per scale."""
        return [scale.blocks for scale in self.scales]
