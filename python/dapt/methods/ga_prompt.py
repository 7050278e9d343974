"""GAPrompt (ICML 2025): shifted and added points, and prompts that know the shape."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dapt_ext
from dapt.errors import UsageError, check_at_least, check_rates
from dapt.methods.bottleneck import Bottleneck
from dapt.methods.frozen_stack import FrozenStack, Step
from dapt.methods.method import Method, register
from dapt.methods.neighborhoods import neighborhood_max
from dapt.methods.replacements import Replacements, own_class_token, place_of
from dapt.methods.shift_network import SHAPE_WIDTH, ShiftNetwork
from dapt.models.blocks import BlockStack
from dapt.models.drop_path import drop_path_factor
from dapt.models.tokenizer import NearOrigin, near_origin_of
from dapt.models.transformer import Features

SHAPE_SHARE = 0.5  # the weight of the shape feature in prompts and adapters
ADAPTER_SCALE = 0.7
CENTER_SHARE = 0.3
SPREAD_SHARE = 0.3
SPREAD_FROM = 64  # the number of centers from which a patch interpolates
RELEASED_DEPTH = 6  # the number of blocks whose adapters read the shape in the released code

Propagation = Literal[
    "permutation_after_attention",
    "permutation_before_attention",
    "replacement_after_attention",
    "replacement_before_attention",
]


@register("ga_prompt")
@dataclass(frozen=True)
class GaPrompt(Method):
    """Geometry-Aware point cloud Prompt.

    Args:
        prompts: P, tokens that precede the patches in a block and are dropped after it.
        prompt_depth: The number of blocks with prompts.
        point_prompts: The number of points added to every cloud; 5 on the hardest scans and
            ModelNet40, 10 on the easier scans.
        point_spread: Half the side of the cube in which the added points start, before they are
            multiplied by `factor`.
        factor: The factor of the added points.
        perturbation: The size of the shifts; as published, 0.8, 0.2 and 0.1 on the hardest,
            background and object-only scans, and 0.05 on ModelNet40.
        propagation: Whether the values of a neighborhood are spread before or after the attention,
            and whether prompts are permuted in among the patches or replace the last of them.
        rank: The number of hidden units of the adapters.
        interpolate_from: The number of coarse centers that a point's shift is interpolated from.
        dropout: The dropout rate of prompts and adapters.
        published: Whether to repeat what the released code does: with P prompts, it looks up
            neighbors P rows too early, and it has parameters that never get a gradient.
    """

    mixes: ClassVar[bool] = True

    prompts: int = 10
    prompt_depth: int = 6
    point_prompts: int = 5
    point_spread: float = 0.01
    factor: float = 5.0
    perturbation: float = 0.8
    propagation: Propagation = "permutation_after_attention"
    rank: int = 16
    interpolate_from: int = 32
    dropout: float = 0.1
    published: bool = False

    def __post_init__(self):
        check_at_least(self, prompts=1, prompt_depth=1, point_prompts=1, interpolate_from=1)
        check_rates(self, "dropout")
        if not 1 <= self.rank <= 256:
            raise UsageError(f"rank must be from 1 to 256, got {self.rank}")
        if self.propagation not in get_args(Propagation):
            known = ", ".join(get_args(Propagation))
            raise UsageError(f"propagation must be one of {known}, got {self.propagation!r}")

    def head_tokens_for(self, backbone: nn.Module) -> tuple[str, ...]:
        """The class token, the patches, and the shape as the only remaining prompt."""
        return (*backbone.head_tokens, "prompt:mean")

    def owns(self, entry: str) -> bool:
        own = {"geometry", "adapters", "cls_token", "cls_pos"}
        return not own.isdisjoint(entry.split("."))

    def wrap(self, backbone: nn.Module, replacements: Replacements) -> None:
        if len(backbone.stacks) > 1:
            raise UsageError("ga_prompt is for backbones of one scale: it adds scales of its own")
        own_class_token(backbone, replacements)
        replacements.add(backbone, "geometry", Geometry(backbone.tokenizer, backbone.dim, self))
        stack = backbone.stacks[0]
        if self.prompts > backbone.tokenizer.num_groups:
            raise UsageError(
                f"prompts must be at most the {backbone.tokenizer.num_groups} patches, "
                f"got {self.prompts}"
            )
        neighbors = max(backbone.tokenizer.group_size // 2, 1)
        sampling = near_origin_of(backbone.tokenizer)
        wrapped = GaPromptStack(stack, self, neighbors, sampling)
        replacements.put(*place_of(backbone, stack), wrapped)

    def features(self, backbone: nn.Module, points: Tensor, levels: Sequence[int]) -> Features:
        geometry = backbone.geometry
        moved, shape = geometry(points[..., :3])
        if points.shape[2] > 3:  # further channels are kept; added points get the cloud's mean
            others = points[..., 3:]
            mean = others.mean(1, keepdim=True).expand(-1, moved.shape[1] - points.shape[1], -1)
            moved = torch.cat([moved, torch.cat([others, mean], 1)], 2)
        positions = backbone.pos_embed(geometry.prompt_coordinates)
        features = backbone(moved, levels, shape=shape, prompt_positions=positions)
        return features._replace(prompts=shape[:, None])


class Geometry(nn.Module):
    """Shifts the points of a cloud, adds points to it, and computes a feature of its shape.

    Args:
        tokenizer: The backbone's tokenizer, for its numbers of groups and neighbors.
        dim: C, the width of the shape feature.
        config: The settings of the method.
    """

    def __init__(self, tokenizer: nn.Module, dim: int, config: GaPrompt):
        super().__init__()
        self.factor = config.factor
        coarse = max(tokenizer.num_groups // 2, 1)
        self.shift = ShiftNetwork(tokenizer, coarse, config.perturbation, config.interpolate_from)
        self.shape = nn.Sequential(
            nn.Linear(coarse * SHAPE_WIDTH, 16), nn.GELU(), nn.Dropout(0.25), nn.Linear(16, dim)
        )
        spread = config.point_spread
        self.points = nn.Parameter(
            torch.empty(1, config.point_prompts, 3).uniform_(-spread, spread)
        )
        self.prompt_coordinates = nn.Parameter(
            nn.init.trunc_normal_(torch.empty(config.prompts, 3), std=0.06)
        )

    def forward(
        self, points: Tensor
    ) -> tuple[Tensor, Tensor]:  # [B, N, 3] -> [B, N + n, 3], [B, C]
        points, coarse = self.shift(points)
        more = (self.factor * self.points).to(points.dtype).expand(points.shape[0], -1, -1)
        return torch.cat([points, more], 1), self.shape(coarse.flatten(1))


class Neighborhoods(NamedTuple):
    """Coarse centers among the group centers, and the patches around them; the same in all blocks.

    Args:
        centers: The centers of the patches [B, G, 3].
        groups: The M coarse centers, and the indices [B, M, K] of the patches around each.
    """

    centers: Tensor  # [B, G, 3]
    groups: dapt_ext.Groups


class GaPromptStack(FrozenStack):
    """Frozen blocks, with prompts in the first of them and an adapter in each.

    Args:
        frozen: The backbone's blocks.
        config: The settings of the method.
        neighbors: K, the number of patches around a coarse center.
        near_origin: The rule of the backbone's tokenizer for points near the origin.
    """

    def __init__(
        self, frozen: BlockStack, config: GaPrompt, neighbors: int, near_origin: NearOrigin
    ):
        super().__init__(frozen)
        self.near_origin = near_origin
        self.neighbors = neighbors
        self.prompt_depth = config.prompt_depth
        when = config.propagation
        self.replaces, self.goes_first = "replacement" in when, "before" in when
        self.shape_depth = config.prompt_depth
        self.rows_too_early = 0
        if config.published:
            self.shape_depth = min(config.prompt_depth, RELEASED_DEPTH)
            self.rows_too_early = config.prompts
        self.adapters = nn.ModuleList(
            BlockAdapter(block.dim, config, has_prompts=i < config.prompt_depth)
            for i, block in enumerate(frozen)
        )

    def start(
        self,
        x: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        centers: Tensor,
        shape: Tensor | None = None,  # [B, C]
        prompt_positions: Tensor | None = None,  # [P, C]
    ) -> tuple[Tensor, Step]:
        if shape is None:
            raise UsageError("ga_prompt needs the whole model: call the model, not its backbone")
        half = max(centers.shape[1] // 2, 1)
        size = min(self.neighbors, centers.shape[1])
        groups = dapt_ext.group(centers, half, size, near_origin=self.near_origin)
        near = Neighborhoods(centers, groups)
        front = x.shape[1] - centers.shape[1]
        shape = SHAPE_SHARE * shape[:, None]

        def step(i: int, block: nn.Module, x: Tensor) -> Tensor:
            adapter, x, prompts = self.adapters[i], x + positions, None
            if i < self.prompt_depth:
                prompts = adapter.dropped_prompts() + shape + prompt_positions  # [B, P, C]
            seen = shape if i < self.shape_depth else None
            return self._run(block, adapter, x, prompts, seen, near, front)

        return x, step

    def _run(
        self,
        block: nn.Module,
        adapter: "BlockAdapter",
        x: Tensor,
        prompts: Tensor | None,
        shape: Tensor | None,
        near: Neighborhoods,
        front: int,
    ) -> Tensor:
        num_prompts = 0
        if prompts is not None:
            num_prompts = prompts.shape[1]
            x = torch.cat([x[:, :front], prompts.to(x.dtype), x[:, front:]], 1)
        if self.goes_first:
            x = self._propagated(block, adapter, x, near, front)
        x = block.transform(block.attend(x, factor=block.path_factor(x)))
        if not self.goes_first:
            x = self._propagated(block, adapter, x, near, front)
        rows = x[:, front:]
        rows = adapter.bottleneck(rows if shape is None else rows + shape, residual=rows)
        return torch.cat([x[:, :front], rows[:, num_prompts:]], 1)

    def _propagated(
        self, block: nn.Module, adapter: "BlockAdapter", x: Tensor, near: Neighborhoods, front: int
    ) -> Tensor:
        """Spread the maxima around the coarse centers back to the patches."""
        centers, groups = near
        num_patches = centers.shape[1]
        at = x.shape[1] - num_patches
        rows, num_prompts = x[:, front:], at - front
        offset = 0
        if num_prompts and self.replaces:
            rows = torch.cat([x[:, at:-num_prompts], x[:, front:at]], 1)
        elif num_prompts:
            offset = num_prompts - self.rows_too_early
        around = neighborhood_max(rows, groups.patch_idx + offset)  # [B, M, C]
        own = dapt_ext.gather(rows, groups.center_idx + offset)
        # the published network adds a neighborhood to itself, subject to drop-path
        factor = drop_path_factor(around.flatten(0, 1), block.drop_path, self.training)
        twice = 2 if factor is None else (1 + factor).view(*around.shape[:2], 1)
        seen = adapter.norm((twice * around).flatten(0, 1)).unflatten(0, around.shape[:2])
        seen = F.gelu(seen) + CENTER_SHARE * own
        k = min(SPREAD_FROM, seen.shape[1])
        spread = dapt_ext.interpolate(centers, groups.centers, seen, k=k)
        return torch.cat([x[:, :at], x[:, at:] + SPREAD_SHARE * spread], 1)


class BlockAdapter(nn.Module):
    """The prompts and the adapter of one block.

    Args:
        dim: C, the width of the tokens.
        config: The settings of the method.
        has_prompts: Whether this block has prompts of its own.
    """

    def __init__(self, dim: int, config: GaPrompt, has_prompts: bool):
        super().__init__()
        self.dropout = config.dropout
        self.prompts = None
        if has_prompts or config.published:
            self.prompts = nn.Parameter(torch.zeros(config.prompts, dim))
        self.norm = nn.BatchNorm1d(dim)
        self.bottleneck = Bottleneck(
            dim,
            config.rank,
            scale=ADAPTER_SCALE,
            dropout=config.dropout,
            activation="quickgelu",
            normalize=True,
        )
        for layer in (self.bottleneck.down, self.bottleneck.up):
            nn.init.kaiming_uniform_(layer.weight, a=5**0.5)
            nn.init.normal_(layer.bias, std=1e-6)
        self.unused = Unused(dim) if config.published else None

    def dropped_prompts(self) -> Tensor:
        """The prompts in this pass, after dropout."""
        return F.dropout(self.prompts, self.dropout, self.training)


class Unused(nn.Module):
    """Parameters that the released blocks have but never use: a scale per token, and two numbers.

    Args:
        dim: C, the width of the tokens.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.scale = nn.Linear(dim, 1)
        self.of_prompts = nn.Parameter(torch.full((1,), SHAPE_SHARE), requires_grad=False)
        self.of_adapter = nn.Parameter(torch.full((1,), SHAPE_SHARE), requires_grad=False)
