"""PointLoRA (CVPR 2025): low-rank updates of the attention, and patches chosen at two scales.

The first half of the patch encoder and the position network also train.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dapt_ext
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
from dapt.models.blocks import Attention, BlockStack
from dapt.models.tokenizer import as_weights
from dapt.models.transformer import Features

SECOND_SCALE = 0.25  # weight of its entropy relative to the first one's


@register("point_lora")
@dataclass(frozen=True)
class PointLora(Method):
    """LoRA of queries, keys, values and projection, with a shared bottleneck beside each.

    Args:
        rank: r, the rank of the low-rank updates.
        alpha: The updates are scaled by alpha / rank; not in the released code.
        bottleneck: Hidden units of the shared bottlenecks.
        groups: Patches per scale.
        sizes: Points per patch, for each scale.
        select: Patches chosen at each scale.
        mask_weight: The weight of the entropy of the choice in the loss.
        prompted: Number of tokens that pass the patches' adapter, patches first and then the chosen
            ones; None for the patches. The released code uses 128, whatever the backbone.
        freeze_bn: False lets batch norms update their statistics, as in the released code.
        published: As released, the task gives the choice no gradient, and its loss drives every
            probability to one half.
    """

    rank: int = 8
    alpha: float = 8.0
    bottleneck: int = 32
    groups: tuple[int, int] = (128, 64)
    sizes: tuple[int, int] = (32, 64)
    select: tuple[int, int] = (32, 8)
    mask_weight: float = 0.004
    prompted: int | None = None
    freeze_bn: bool = True
    published: bool = False

    def __post_init__(self):
        check_at_least(self, rank=1, bottleneck=1, mask_weight=0)
        if self.bottleneck > 256:
            raise UsageError(f"bottleneck must be at most 256, got {self.bottleneck}")
        for name in ("groups", "sizes", "select"):
            values = tuple(getattr(self, name))
            object.__setattr__(self, name, values)
            if len(values) != 2 or min(values) < 1:
                raise UsageError(f"{name} must be two numbers of at least 1, got {values}")
        for groups, select in zip(self.groups, self.select, strict=True):
            if select > groups:
                raise UsageError(f"select must be at most the {groups} groups, got {select}")

    def head_tokens_for(self, backbone: nn.Module) -> tuple[str, ...]:
        return (*("cls",) * min(backbone.num_class_tokens, 1), "rest:max")

    def owns(self, entry: str) -> bool:
        words = entry.split(".")
        if words[-1] in BATCH_NORM_STATISTICS:
            return not self.freeze_bn
        own = {"lora_down", "lora_up", "mix", "adapters", "choice", "cls_token", "cls_pos"}
        return not (own | {"first", "pos_embed"}).isdisjoint(words)

    def wrap(self, backbone: nn.Module, replacements: Replacements) -> None:
        if len(backbone.stacks) > 1:
            raise UsageError(
                "point_lora is for backbones of one scale: it brings patches of its own scales"
            )
        own_class_token(backbone, replacements)
        own_embeddings(backbone, replacements)
        if not self.freeze_bn:
            replacements.own_batch_norm_statistics(backbone)
        stack = backbone.stacks[0]
        scale = 1.0 if self.published else self.alpha / self.rank
        for block in stack:
            if not isinstance(block.attn, Attention):
                kind = type(block.attn).__name__
                raise UsageError(f"point_lora works on plain attention, not on {kind}")
            for name in ("qkv", "proj"):
                layer = LowRankLinear(getattr(block.attn, name), self.rank, scale)
                replacements.put(block.attn, name, layer)
        replacements.put(*place_of(backbone, stack), PointLoraStack(stack, self))

    def features(self, backbone: nn.Module, points: Tensor, levels: Sequence[int]) -> Features:
        most = max(self.groups + self.sizes)
        if points.shape[1] < most:
            raise UsageError(
                f"point_lora's patches need clouds of at least {most} points, got {points.shape[1]}"
            )
        ordinary = (backbone.tokenizer.num_groups, backbone.tokenizer.group_size)
        scales = []
        for grouping in zip(self.groups, self.sizes, strict=True):
            if grouping == ordinary:
                scales.append(None)  # these are the backbone's own patches
                continue
            groups = backbone.tokenizer.group(points, *grouping)
            tokens = backbone.tokenizer.encode(groups.patches)
            scales.append((tokens, backbone.pos_embed(as_weights(groups.centers, backbone))))
        return backbone(points, levels, scales=scales)

    def extra_loss(self, backbone: nn.Module) -> Tensor | None:
        loss = backbone.stacks[0].taken_loss()
        return None if loss is None else self.mask_weight * loss


class LowRankLinear(nn.Module):
    """A frozen layer, its low-rank update, and a bottleneck shared by several layers.

    Args:
        linear: The frozen layer.
        rank: The rank of the update.
        scale: The factor of the update.
    """

    def __init__(self, linear: nn.Linear, rank: int, scale: float):
        super().__init__()
        self.linear = linear
        self.scale = scale
        self.lora_down = nn.Parameter(torch.empty(rank, linear.in_features))
        self.lora_up = nn.Parameter(torch.zeros(linear.out_features, rank))
        self.mix = nn.Parameter(torch.ones(1), requires_grad=False)
        nn.init.kaiming_uniform_(self.lora_down, a=math.sqrt(5))

    def forward(self, x: Tensor, shared: nn.Module) -> Tensor:
        out = self.linear(x) + self.mix * shared(x)
        if self.lora_down is None:
            return out
        return out + self.scale * F.linear(F.linear(x, self.lora_down), self.lora_up)

    @torch.no_grad()
    def folded(self) -> "LowRankLinear":
        """Return an equivalent layer with the update folded into its weight."""
        folded = LowRankLinear(_copy_of(self.linear), 1, 1.0)
        folded.linear.weight += self.scale * self.lora_up @ self.lora_down
        folded.mix = self.mix
        folded.lora_down = folded.lora_up = None
        return folded


def _copy_of(linear: nn.Linear) -> nn.Linear:
    """A copy in float, whatever the dtype of the layer's weight."""
    copy = nn.Linear(linear.in_features, linear.out_features, linear.bias is not None, "meta")
    copy.weight = nn.Parameter(linear.weight.clone())
    copy.bias = linear.bias
    return copy.requires_grad_(False)


class Choice(nn.Module):
    """The probability that a token is chosen, for each token.

    Args:
        dim: C, the width of the tokens.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.inner = nn.Linear(dim, dim // 2)
        self.outer = nn.Linear(dim // 2, 1)

    def forward(self, x: Tensor) -> Tensor:  # [B, G, C] -> [B, G]
        return self.outer(F.relu(self.inner(x)))[..., 0].sigmoid()


class PointLoraStack(FrozenStack):
    """Frozen blocks, the adapters that they share, and the choice of patches.

    Args:
        frozen: The backbone's blocks, whose layers already have their low-rank updates.
        config: The settings of the method.
    """

    def __init__(self, frozen: BlockStack, config: PointLora):
        super().__init__(frozen)
        dim, hidden = frozen[0].dim, config.bottleneck
        self.select = config.select
        self.prompted = config.prompted
        self.published = config.published
        self.choice = Choice(dim)
        self.adapters = nn.ModuleDict(
            {
                "patches": Bottleneck(dim, hidden),
                "chosen": Bottleneck(dim, hidden),
                "qkv": SharedBottleneck(dim, hidden, 3 * dim),
                "proj": SharedBottleneck(dim, hidden, dim),
            }
        )
        for adapter in self.adapters.values():
            nn.init.trunc_normal_(adapter.down.weight, std=0.02)
            nn.init.trunc_normal_(adapter.up.weight, std=0.02)
        self.loss: Tensor | None = None  # set by each pass with gradients

    def taken_loss(self) -> Tensor | None:
        """Take the loss of the choice; a second call returns None."""
        loss, self.loss = self.loss, None
        return loss

    def start(
        self,
        x: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        centers: Tensor,
        scales: Sequence[tuple[Tensor, Tensor] | None] | None = None,
    ) -> tuple[Tensor, Step]:
        if scales is None:
            raise UsageError("point_lora needs the whole model: call the model, not its backbone")
        G = centers.shape[1]
        front = x.shape[1] - G
        own = (x[:, front:], positions[:, front:])
        chosen, at_chosen = self._chosen([own if scale is None else scale for scale in scales])
        x = torch.cat([x[:, :front], chosen, x[:, front:]], 1)
        positions = torch.cat([positions[:, :front], at_chosen, positions[:, front:]], 1)
        sizes = [front, chosen.shape[1], G]
        return x, lambda i, block, x: self._run(block, x + positions, sizes)

    def _chosen(self, scales: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Tokens and positions of the most likely patches at each scale."""
        tokens, positions, entropies = [], [], []
        for (x, at), count in zip(scales, self.select, strict=True):
            p = self.choice(x)
            likeliest, index = p.topk(count, 1)
            chosen = dapt_ext.gather(x, index)
            if not self.published:  # the same values, but with a gradient to the choice
                chosen = chosen * (1 + likeliest - likeliest.detach())[..., None]
            tokens.append(chosen)
            positions.append(dapt_ext.gather(at, index))
            entropies.append(_entropy(p))
        if torch.is_grad_enabled():
            loss = entropies[0] + SECOND_SCALE * entropies[1]
            self.loss = -loss if self.published else loss
        return torch.cat(tokens, 1), torch.cat(positions, 1)

    def _run(self, block: nn.Module, x: Tensor, sizes: list[int]) -> Tensor:
        x = self._adapted(x, sizes)
        x = block.attend(
            x, factor=block.path_factor(x), attention=lambda u: self._attention(block.attn, u)
        )
        return block.transform(x)

    def _adapted(self, x: Tensor, sizes: list[int]) -> Tensor:
        of_patches, of_chosen = self.adapters["patches"], self.adapters["chosen"]
        others, chosen, patches = x.split(sizes, 1)
        if self.prompted is None:
            patches = of_patches(patches, residual=patches)
        else:
            first, last = patches.tensor_split([self.prompted], 1)
            patches = torch.cat([of_patches(first, residual=first), last], 1)
            first, last = chosen.tensor_split([max(self.prompted - sizes[2], 0)], 1)
            chosen = torch.cat([of_patches(first, residual=first), last], 1)
        return torch.cat([others, of_chosen(chosen, residual=chosen), patches], 1)

    def _attention(self, attention: Attention, u: Tensor) -> Tensor:
        out = attention.mixed(attention.qkv(u, self.adapters["qkv"]))
        return attention.scaled(attention.proj(out, self.adapters["proj"]))


def _entropy(p: Tensor) -> Tensor:
    return -(p * (p + 1e-6).log() + (1 - p) * (1 - p + 1e-6).log()).mean()


class SharedBottleneck(nn.Module):
    """up(GELU(down(x))), as wide as a layer's output.

    Args:
        dim: The width of the input.
        hidden: The hidden width.
        out_dim: The width of the output.
    """

    def __init__(self, dim: int, hidden: int, out_dim: int):
        super().__init__()
        self.down = nn.Linear(dim, hidden)
        self.up = nn.Linear(hidden, out_dim)
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(F.gelu(self.down(x)))
