"""Point-MAE's pre-training: hide most patches and rebuild their points from the others.

If the clouds have classes, as those of the built-in world do, the network can also learn to predict
the class from the visible patches, alongside the rebuilding or instead of it.
"""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dapt_ext
from dapt.errors import UsageError
from dapt.models.blocks import Block, BlockStack, init_weights
from dapt.models.drop_path import drop_path_rates
from dapt.models.tokenizer import as_weights, position_embedding
from dapt.models.transformer import PointTransformer

Objective = Literal["rebuild", "classify", "both"]
OBJECTIVES = get_args(Objective)
SMOOTHING = 0.1  # label smoothing
DISTANCES = 30.0  # scales the squared distances within patches to the size of a cross entropy


class Decoder(nn.Module):
    """Runs blocks over all tokens and returns those of the hidden patches.

    Args:
        dim: C, the width of the tokens.
        depth: The number of blocks.
        num_heads: The number of heads; must divide C.
        mlp_ratio: The ratio of an MLP's hidden width to C.
        drop_path: The drop-path rate of the last block.
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
    """Point-MAE's pre-training: rebuilds hidden patches from the visible ones, predicts the cloud's
    class from them, or both.

    Args:
        backbone: A backbone without a class token.
        mask_ratio: Share of the patches that are hidden.
        decoder_depth: The number of decoder blocks.
        decoder_heads: The number of heads of each decoder attention; None for as many as the
            backbone has.
        objective: "rebuild", "classify" or "both".
        num_classes: The number of classes, for an objective that uses the labels.
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
        """The loss. ``mask`` is bool [B, G] and True for the ``num_masked`` hidden patches of each
        cloud; ``labels`` [B] are the classes."""
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
        """Draw which patches are hidden, the same number in each cloud.

        Args:
            centers: The patches' centers [B, G, 3].
        """
        rank = torch.rand(centers.shape[:2], device=centers.device).argsort(1).argsort(1)
        return rank < self.num_masked

    def see(self, visible_patches: Tensor, centers: Tensor) -> Tensor:  # [B, G - M, C]
        """Tokens of the visible patches.

        Args:
            visible_patches: [B, G - M, K, 3].
            centers: The centers of all patches [B, G, 3], the visible ones first.
        """
        return self.backbone.forward_patches(
            visible_patches, centers[:, : -self.num_masked]
        ).patches

    def class_loss(self, visible: Tensor, labels: Tensor) -> Tensor:
        """The loss of a linear classifier over the mean and maximum of the visible tokens.

        Args:
            visible: Tokens of the visible patches [B, G - M, C].
            labels: The classes [B].
        """
        scores = self.classify(torch.cat([visible.mean(1), visible.amax(1)], 1))
        return F.cross_entropy(scores.float(), labels, label_smoothing=SMOOTHING)

    def rebuild_hidden(self, visible_patches: Tensor, centers: Tensor) -> Tensor:
        """Rebuild the points of the patches around the last M centers from the visible patches.

        Args:
            visible_patches: [B, G - M, K, 3].
            centers: The centers of all patches [B, G, 3], the visible ones first.
        """
        return self.rebuild_from(self.see(visible_patches, centers), centers)

    def rebuild_from(self, visible: Tensor, centers: Tensor) -> Tensor:  # [B, M, K, 3]
        """Rebuild the points of the hidden patches from the tokens of the visible ones.

        Args:
            visible: Tokens of the visible patches [B, G - M, C].
            centers: The centers of all patches [B, G, 3], the visible ones first.
        """
        M = self.num_masked
        x = torch.cat([visible, self.mask_token.expand(len(visible), M, -1)], 1)  # [B, G, C]
        x = self.decoder(x, self.decoder_pos_embed(as_weights(centers, self)), M)
        return self.rebuild(x).unflatten(2, (-1, 3))
