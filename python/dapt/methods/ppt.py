"""PPT (2024): a second set of patches as prompts, and adapters for tokens and positions.

The first half of the patch encoder and the position network also train.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dapt.errors import UsageError, check_at_least
from dapt.methods.bottleneck import Bottleneck
from dapt.methods.frozen_stack import FrozenStack, Step
from dapt.methods.method import Method, register
from dapt.methods.replacements import (
    BATCH_NORM_STATISTICS,
    Replacements,
    own_class_token,
    own_embeddings,
    place_of,
)
from dapt.models.blocks import BlockStack
from dapt.models.tokenizer import as_weights
from dapt.models.transformer import Features


@register("ppt")
@dataclass(frozen=True)
class Ppt(Method):
    """Positional Prompt Tuning.

    If the prompts' patches are the ordinary ones, as in all published settings but one, they are
    encoded once.

    Args:
        prompts: Number of patches used as prompts; None for the backbone's own patches.
        prompt_size: Points per prompt patch; None for the backbone's size.
        rank: Hidden units of the three adapters.
        freeze_bn: False lets batch norms update their statistics, as in the published code.
    """

    prompts: int | None = None
    prompt_size: int | None = None
    rank: int = 256
    freeze_bn: bool = True

    def __post_init__(self):
        for name in ("prompts", "prompt_size"):
            if getattr(self, name) is not None:
                check_at_least(self, **{name: 1})
        if not 1 <= self.rank <= 256:
            raise UsageError(f"rank must be from 1 to 256, got {self.rank}")

    def head_tokens_for(self, backbone: nn.Module) -> tuple[str, ...]:
        return (*("cls",) * min(backbone.num_class_tokens, 1), "patch:mean", "prompt:mean")

    def owns(self, entry: str) -> bool:
        words = entry.split(".")
        if words[-1] in BATCH_NORM_STATISTICS:
            return not self.freeze_bn
        return not {"adapters", "cls_token", "cls_pos", "first", "pos_embed"}.isdisjoint(words)

    def wrap(self, backbone: nn.Module, replacements: Replacements) -> None:
        if len(backbone.stacks) > 1:
            raise UsageError(
                "ppt is for backbones of one scale: its prompts are patches of the cloud"
            )
        own_class_token(backbone, replacements)
        own_embeddings(backbone, replacements)
        if not self.freeze_bn:
            replacements.own_batch_norm_statistics(backbone)
        stack = backbone.stacks[0]
        has_own_patches = self._grouping(backbone) is not None
        replacements.put(*place_of(backbone, stack), PptStack(stack, self.rank, has_own_patches))

    def features(self, backbone: nn.Module, points: Tensor, levels: Sequence[int]) -> Features:
        grouping = self._grouping(backbone)
        if grouping is None:
            return backbone(points, levels)
        groups = backbone.tokenizer.group(points, *grouping)
        prompts = backbone.tokenizer.encode(groups.patches)
        positions = backbone.pos_embed(as_weights(groups.centers, backbone))
        return backbone(points, levels, prompts=prompts, prompt_positions=positions)

    def _grouping(self, backbone: nn.Module) -> tuple[int, int] | None:
        """(patches, points per patch) of the prompts, if they differ from the backbone's."""
        ordinary = (backbone.tokenizer.num_groups, backbone.tokenizer.group_size)
        asked = (self.prompts or ordinary[0], self.prompt_size or ordinary[1])
        return None if asked == ordinary else asked


class PptStack(FrozenStack):
    """Frozen blocks that share three adapters: for patches, for prompts and for all tokens.

    Args:
        frozen: The backbone's blocks.
        rank: Hidden units of each adapter.
        has_own_patches: Whether prompts come from patches of their own, given at each call;
            otherwise the backbone's patches serve.
    """

    def __init__(self, frozen: BlockStack, rank: int, has_own_patches: bool):
        super().__init__(frozen)
        self.has_own_patches = has_own_patches
        self.adapters = nn.ModuleDict(
            {of: _adapter(frozen[0].dim, rank) for of in ("patches", "prompts", "all")}
        )

    def start(
        self,
        x: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        centers: Tensor,
        prompts: Tensor | None = None,  # [B, P, C]
        prompt_positions: Tensor | None = None,
    ) -> tuple[Tensor, Step]:
        G = centers.shape[1]
        front = x.shape[1] - G
        if not self.has_own_patches:
            prompts, prompt_positions = x[:, front:], positions[:, front:]
        elif prompts is None:
            raise UsageError("ppt needs the whole model: call the model, not its backbone")
        x = torch.cat([x[:, :front], prompts, x[:, front:]], 1)
        positions = torch.cat([positions[:, :front], prompt_positions, positions[:, front:]], 1)
        sizes = [front, prompts.shape[1], G]
        return x, lambda i, block, x: self._run(block, x + positions, sizes)

    def _run(self, block: nn.Module, x: Tensor, sizes: list[int]) -> Tensor:
        adapters = self.adapters
        others, prompts, patches = x.split(sizes, 1)
        prompts = adapters["prompts"](prompts, residual=prompts)
        patches = adapters["patches"](patches, residual=patches)
        x = torch.cat([others, prompts, patches], 1)
        x = block.attend(x, factor=block.path_factor(x))
        return adapters["all"](x, residual=block.transform(x))


def _adapter(dim: int, rank: int) -> Bottleneck:
    adapter = Bottleneck(dim, rank)
    nn.init.trunc_normal_(adapter.down.weight, std=0.02)
    nn.init.trunc_normal_(adapter.up.weight, std=0.02)
    return adapter
