"""Point-MAE's pre-training: hide most patches and rebuild their points from the others.

Where the clouds have classes, as the built-in world's have, the patches that are left may be told
apart by them, beside the rebuilding or in its place.
"""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dapt_ext
from dapt.errors import UsageError
from dapt.models.blocks import Block, BlockStack, drop_path_rates, init_weights
from dapt.models.tokenizer import as_weights, position_embedding
from dapt.models.transformer import PointTransformer

Objective = Literal["rebuild", "classify", "both"]
OBJECTIVES = get_args(Objective)
SMOOTHING = 0.1  # of the classes
DISTANCES = 30.0  # brings the squared distances within patches to the size of a cross entropy


class Decoder(nn.Module):
    """Blocks over all tokens; it returns the hidden ones.

    Args:
        dim: C, the width of the tokens.
        depth: Blocks.
        num_heads: Divides C.
        mlp_ratio: Hidden units of an MLP to C.
        drop_path: Rate of the last block.
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
    """Point-MAE's pre-training: the loss of hidden patches that are rebuilt from the visible ones,
    of the cloud's class told from them, or of both.

    Args:
        backbone: Without a class token.
        mask_ratio: Share of the patches that are hidden.
        decoder_depth: Blocks of the decoder.
        decoder_heads: Of each of its attentions; None for as many as the backbone has.
        objective: rebuild, classify or both.
        num_classes: That the clouds have; only of an objective that looks at them.
    """

    def __init__(
        self,
        backbone: PointTransformer,
        mask_ratio: float = 0.6,
        decoder_depth: int = 4,
        decoder_heads: int | None = None,
        objective: Objective = "rebuild",
        num_classes: int = 0,
    ):
        super().__init__()
        config = backbone.config
        if objective not in OBJECTIVES:
            raise UsageError(f"objective must be {', '.join(OBJECTIVES)}, got {objective!r}")
        if objective != "rebuild" and num_classes < 2:
            raise UsageError(
                f"objective={objective!r} needs clouds of two classes or more, got {num_classes}"
            )
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
        self.objective = objective
        if objective != "rebuild":
            self.classify = nn.Sequential(
                nn.LayerNorm(2 * config.dim), nn.Linear(2 * config.dim, num_classes)
            )
            init_weights(self.classify)
        if objective == "classify":
            return
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

    def forward(
        self, points: Tensor, mask: Tensor | None = None, labels: Tensor | None = None
    ) -> Tensor:
        """The loss. ``mask`` is bool [B, G], True for hidden patches, ``num_masked`` per cloud;
        ``labels`` [B] are the classes."""
        groups = self.backbone.tokenizer.group(points)
        if mask is None:
            mask = self.random_mask(groups.centers)
        order = mask.int().argsort(dim=1, stable=True)  # visible patches first, then hidden ones
        patches = dapt_ext.gather(groups.patches.flatten(2), order).view_as(groups.patches)
        centers = dapt_ext.gather(groups.centers, order)

        visible = self.see(patches[:, : -self.num_masked], centers)
        if self.objective == "classify":
            return self.class_loss(visible, labels)
        truth = patches[:, -self.num_masked :]
        rebuilt = self.rebuild_from(visible, centers)  # [B, M, K, 3]
        to_truth, to_rebuilt = dapt_ext.chamfer(rebuilt.flatten(0, 1), truth.flatten(0, 1))
        distance = to_truth.mean() + to_rebuilt.mean()
        if self.objective == "rebuild":
            return distance
        return DISTANCES * distance + self.class_loss(visible, labels)

    def random_mask(self, centers: Tensor) -> Tensor:  # [B, G]
        """Which patches are hidden, the same number in each cloud.

        Args:
            centers: [B, G, 3].
        """
        rank = torch.rand(centers.shape[:2], device=centers.device).argsort(1).argsort(1)
        return rank < self.num_masked

    def see(self, visible_patches: Tensor, centers: Tensor) -> Tensor:  # [B, G - M, C]
        """Tokens of the visible patches.

        Args:
            visible_patches: [B, G - M, K, 3].
            centers: [B, G, 3], the visible ones first.
        """
        return self.backbone.forward_patches(
            visible_patches, centers[:, : -self.num_masked]
        ).patches

    def class_loss(self, visible: Tensor, labels: Tensor) -> Tensor:
        """Of the classes, told from the mean and the maximum of the tokens, as a linear probe does.

        Args:
            visible: [B, G - M, C].
            labels: [B].
        """
        scores = self.classify(torch.cat([visible.mean(1), visible.amax(1)], 1))
        return F.cross_entropy(scores.float(), labels, label_smoothing=SMOOTHING)

    def rebuild_hidden(self, visible_patches: Tensor, centers: Tensor) -> Tensor:
        """Points of the patches around the last M centers from the patches around the others.

        Args:
            visible_patches: [B, G - M, K, 3].
            centers: [B, G, 3], the visible ones first.
        """
        return self.rebuild_from(self.see(visible_patches, centers), centers)

    def rebuild_from(self, visible: Tensor, centers: Tensor) -> Tensor:  # [B, M, K, 3]
        """The same from the tokens of the visible patches.

        Args:
            visible: [B, G - M, C].
            centers: [B, G, 3], the visible ones first.
        """
        M = self.num_masked
        x = torch.cat([visible, self.mask_token.expand(len(visible), M, -1)], 1)  # [B, G, C]
        x = self.decoder(x, self.decoder_pos_embed(as_weights(centers, self)), M)
        return self.rebuild(x).unflatten(2, (-1, 3))
