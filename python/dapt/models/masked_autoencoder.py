"""Point-MAE's pre-training: hide most patches and rebuild their points from the others."""

import torch
from torch import Tensor, nn

import dapt_ext
from dapt.errors import UsageError
from dapt.models.blocks import Block, BlockStack, drop_path_rates, init_weights
from dapt.models.tokenizer import as_weights, position_embedding
from dapt.models.transformer import PointTransformer


class Decoder(nn.Module):
    """Blocks over all tokens; it returns the hidden ones.

    Args:
        dim: C, the width of the tokens.
        depth: blocks.
        num_heads: divides C.
        mlp_ratio: hidden units of an MLP to C.
        drop_path: rate of the last block.
    """

    def __init__(self, dim: int, depth: int, num_heads: int, mlp_ratio: int, drop_path: float):
        super().__init__()
        self.blocks = BlockStack(
            Block(dim, num_heads, mlp_ratio, rate) for rate in drop_path_rates(drop_path, depth)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, positions: Tensor, num_masked: int) -> Tensor:
        x, _ = self.blocks(x, positions)
        return self.norm(x[:, -num_masked:])


class MaskedAutoencoder(nn.Module):
    """Point-MAE's pre-training: the loss of hidden patches that are rebuilt from the visible ones.

    Args:
        backbone: Without a class token.
        mask_ratio: Share of the patches that are hidden.
        decoder_depth: Blocks of the decoder.
        decoder_heads: Of each of its attentions; None for as many as the backbone has.
    """

    def __init__(
        self,
        backbone: PointTransformer,
        mask_ratio: float = 0.6,
        decoder_depth: int = 4,
        decoder_heads: int | None = None,
    ):
        super().__init__()
        config = backbone.config
        if config.class_token:
            raise UsageError(
                "pre-training takes a backbone without a class token: "
                "create it with class_token=False"
            )
        num_masked = int(mask_ratio * config.num_groups)
        if not 0 < num_masked < config.num_groups:
            raise UsageError(
                f"mask_ratio must hide some of the {config.num_groups} patches and not all, "
                f"got {mask_ratio}"
            )
        self.num_masked = num_masked
        self.backbone = backbone
        self.mask_token = nn.Parameter(torch.empty(1, 1, config.dim))
        self.decoder_pos_embed = position_embedding(128, config.dim)
        self.decoder = Decoder(
            config.dim,
            decoder_depth,
            decoder_heads or config.num_heads,
            config.mlp_ratio,
            config.drop_path,
        )
        self.rebuild = nn.Linear(config.dim, 3 * config.group_size)
        for part in (self.decoder_pos_embed, self.decoder, self.rebuild):
            init_weights(part)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(self, points: Tensor, mask: Tensor | None = None) -> Tensor:
        """The loss. ``mask`` is bool [B, G], True for hidden patches, ``num_masked`` per cloud."""
        groups = self.backbone.tokenizer.group(points)
        if mask is None:
            mask = self.random_mask(groups.centers)
        order = mask.int().argsort(dim=1, stable=True)  # visible patches first, then hidden ones
        patches = dapt_ext.gather(groups.patches.flatten(2), order).view_as(groups.patches)
        centers = dapt_ext.gather(groups.centers, order)

        rebuilt = self.rebuild_hidden(patches[:, : -self.num_masked], centers)  # [B, M, K, 3]
        truth = patches[:, -self.num_masked :]
        to_truth, to_rebuilt = dapt_ext.chamfer(rebuilt.flatten(0, 1), truth.flatten(0, 1))
        return to_truth.mean() + to_rebuilt.mean()

    def random_mask(self, centers: Tensor) -> Tensor:  # [B, G]
        """Which patches are hidden, the same number in each cloud.

        Args:
            centers: [B, G, 3].
        """
        rank = torch.rand(centers.shape[:2], device=centers.device).argsort(1).argsort(1)
        return rank < self.num_masked

    def rebuild_hidden(self, visible_patches: Tensor, centers: Tensor) -> Tensor:
        """Points of the patches around the last M centers from the patches around the others.

        Args:
            visible_patches: [B, G - M, K, 3].
            centers: [B, G, 3], the visible ones first.
        """
        M = self.num_masked
        visible = self.backbone.forward_patches(visible_patches, centers[:, :-M]).patches
        x = torch.cat([visible, self.mask_token.expand(len(visible), M, -1)], 1)  # [B, G, C]
        x = self.decoder(x, self.decoder_pos_embed(as_weights(centers, self)), M)
        return self.rebuild(x).unflatten(2, (-1, 3))  # [B, M, K, 3]
