"""Point-PEFT (AAAI 2024): prompts from a memory of training clouds, geometry-aware adapters.

On Point-M2AE the prompts are in the last scale, as wide as the features in the memory, and the
adapters are in every scale.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dapt_ext
from dapt.errors import UsageError, check_at_least, check_rates
from dapt.methods.bottleneck import Bottleneck
from dapt.methods.frozen_stack import FrozenStack, Step
from dapt.methods.memory import Memory
from dapt.methods.method import Method, register
from dapt.methods.replacements import Replacements, own_class_token, place_of
from dapt.models.blocks import Block, BlockStack, widen_mask
from dapt.models.drop_path import add_branch, drop_path_factor, of_kept
from dapt.models.tokenizer import NearOrigin, near_origin_of
from dapt.models.transformer import Features
from dapt.models.views import sharing_copy

FEED_FORWARD_SCALE = 0.7
GEOMETRY_SCALE = 0.3
NUM_HEADS = 6  # of the attention within a neighborhood


@register("point_peft")
@dataclass(frozen=True)
class PointPeft(Method):
    """Prompts, some from a memory of training clouds, and adapters that look at neighborhoods.

    Args:
        prompts: Per block: the cloud's own feature, the mean of the memory's nearest, and these.
        prompt_depth: Number of blocks with prompts.
        prompt_rank: Hidden units of the network that makes the prompts.
        rank: Hidden units of the feed-forward and the geometry-aware adapters.
        geometry_dim: Channels of the attention within a neighborhood.
        neighbors: Tokens in a neighborhood.
        dropout: The dropout rate inside the adapters.
    """

    prompts: int = 10
    prompt_depth: int = 6
    prompt_rank: int = 8
    rank: int = 16
    geometry_dim: int = 18
    neighbors: int = 16
    dropout: float = 0.1

    def __post_init__(self):
        check_at_least(self, prompts=3, prompt_depth=1, prompt_rank=1, rank=1, neighbors=1)
        if self.geometry_dim < 1 or self.geometry_dim % NUM_HEADS:
            raise UsageError(
                f"geometry_dim must be a multiple of {NUM_HEADS}, got {self.geometry_dim}"
            )
        check_rates(self, "dropout")

    def owns(self, entry: str) -> bool:
        first, *words = entry.split(".")
        if first == "memory":
            return words == ["bank"]
        if first in ("cls_token", "cls_pos", "norm") or not {"adapters", "shared"}.isdisjoint(
            words
        ):
            return True
        return "frozen" in words and words[-1] == "bias"

    def wrap(self, backbone: nn.Module, replacements: Replacements) -> None:
        stacks = backbone.stacks
        memory = Memory(sharing_copy(backbone), self.prompts)
        replacements.add(backbone, "memory", memory)
        own_class_token(backbone, replacements)
        replacements.own(backbone.norm, "weight")
        replacements.own(backbone.norm, "bias")
        for stack in stacks:
            for module in stack.modules():
                if getattr(module, "bias", None) is not None:
                    replacements.own(module, "bias")
            depth = self.prompt_depth if stack is stacks[-1] else 0
            sampling = near_origin_of(backbone.tokenizers[0])
            wrapped = PointPeftStack(stack, self, depth, backbone.num_class_tokens, sampling)
            replacements.put(*place_of(backbone, stack), wrapped)

    def features(self, backbone: nn.Module, points: Tensor, levels: Sequence[int]) -> Features:
        return backbone(points, levels, prior=backbone.memory(points))

    def prepare(self, backbone: nn.Module, clouds: Iterable[Tensor]) -> None:
        """Fill the memory with one feature per cloud, over all processes."""
        backbone.memory.fill(clouds)

    def make_room(self, backbone: nn.Module, state: Mapping[str, Tensor]) -> None:
        memory, bank = backbone.memory, state["memory.bank"]
        if bank.ndim == 2:  # the reader reports any other mistake
            memory.bank = memory.bank.new_zeros(len(bank), memory.bank.shape[1])


class Geometry(NamedTuple):
    """The tokens' positions and neighborhoods, shared by all blocks of a stack.

    Args:
        coordinates: [B, T, 3], of the tokens.
        groups: [B, M] centers among the tokens, [B, M, K] tokens around each.
    """

    coordinates: Tensor  # [B, T, 3]
    groups: dapt_ext.Groups  # [B, M] centers among the tokens, [B, M, K] tokens around each


class PointPeftStack(FrozenStack):
    """Frozen blocks, their adapters, and the shared adapter.

    Args:
        frozen: The backbone's blocks.
        config: The settings of the method.
        prompt_depth: Number of blocks with prompts, from the first on.
        prompt_at: The index of the prompts among the tokens.
        near_origin: The rule of the backbone's tokenizer for points near the origin.
    """

    def __init__(
        self,
        frozen: BlockStack,
        config: PointPeft,
        prompt_depth: int,
        prompt_at: int,
        near_origin: NearOrigin,
    ):
        super().__init__(frozen)
        self.near_origin = near_origin
        self.neighbors = config.neighbors
        self.prompt_at = prompt_at
        self.has_prompts = prompt_depth > 0
        self.shared = SharedAdapter(frozen[0].dim, config, with_prompts=prompt_depth > 0)
        self.adapters = nn.ModuleList(
            BlockAdapter(block.dim, config, with_prompts=i < prompt_depth)
            for i, block in enumerate(frozen)
        )

    def start(
        self,
        x: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        centers: Tensor,
        prior: Tensor | None = None,  # [B, P, C], of the memory
    ) -> tuple[Tensor, Step]:
        geometry = self._geometry(centers, prompted=False)
        if self.has_prompts:
            if prior is None:
                raise UsageError(
                    "point_peft needs the whole model: call the model, not its backbone"
                )
            with_prompts = self._geometry(centers, prompted=True)

        def step(i: int, block: nn.Module, x: Tensor) -> Tensor:
            adapter, x = self.adapters[i], x + positions
            if adapter.prompt_tokens is None:
                return self._run(block, adapter, x, mask, geometry)
            return self._run_prompted(block, adapter, x, mask, with_prompts, prior)

        return x, step

    def _geometry(self, centers: Tensor, prompted: bool) -> Geometry:
        coordinates, half = centers, max(centers.shape[1] // 2, 1)
        if prompted:
            own = self.shared.coordinates.to(centers.dtype).expand(centers.shape[0], -1, -1)
            coordinates = torch.cat([own, centers], 1)
        size = min(self.neighbors, coordinates.shape[1])
        groups = dapt_ext.group(coordinates, half, size, near_origin=self.near_origin)
        return Geometry(coordinates, groups)

    def _run_prompted(
        self,
        block: Block,
        adapter: "BlockAdapter",
        x: Tensor,
        mask: Tensor | None,
        geometry: Geometry,
        prior: Tensor,
    ) -> Tensor:
        at, prompts = self.prompt_at, adapter.prompts(prior)
        x = torch.cat([x[:, :at], prompts.to(x.dtype), x[:, at:]], 1)
        x = self._run(block, adapter, x, widen_mask(mask, x.shape[1]), geometry)
        return torch.cat([x[:, :at], x[:, at + prompts.shape[1] :]], 1)

    def _run(
        self,
        block: Block,
        adapter: "BlockAdapter",
        x: Tensor,
        mask: Tensor | None,
        geometry: Geometry,
    ) -> Tensor:
        """Run the blocks, with drop-path as in the released code.

        It covers the MLP before its adapter and the attention within neighborhoods, not the plain
        attention."""
        x = block.attend(x, mask)
        u, factor = block.norm2(x), drop_path_factor(x, block.drop_path, self.training)
        mlp_out = of_kept(block.mlp, u, factor)
        if factor is not None:
            mlp_out = factor[:, None, None] * mlp_out
        x = adapter.feed_forward(mlp_out, mlp_out, x)
        at = self.prompt_at
        spread = self._look_around(adapter, x[:, at:], geometry, block.drop_path)
        x = torch.cat([x[:, :at], spread], 1)
        return adapter.after_geometry(x, residual=x)

    def _look_around(
        self, adapter: "BlockAdapter", x: Tensor, geometry: Geometry, drop_path: float
    ) -> Tensor:
        coordinates, groups = geometry
        around = dapt_ext.gather(x, groups.patch_idx)  # [B, M, K, C]
        around = self.shared(around, drop_path)
        seen = adapter.norm(around.amax(2).flatten(0, 1)).view(x.shape[0], -1, x.shape[2])
        seen = F.gelu(seen) + GEOMETRY_SCALE * dapt_ext.gather(x, groups.center_idx)
        num_centers = seen.shape[1]
        spread = dapt_ext.interpolate(coordinates, groups.centers, seen, k=num_centers)
        return x + GEOMETRY_SCALE * spread


class SharedAdapter(nn.Module):
    """One small attention within neighborhoods for all blocks, and the prompts' coordinates.

    Args:
        dim: C, the width of the tokens.
        config: The settings of the method.
        with_prompts: Whether there are prompts, which need coordinates.
    """

    def __init__(self, dim: int, config: PointPeft, with_prompts: bool):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * config.geometry_dim, bias=False)
        self.proj = nn.Linear(config.geometry_dim, dim)
        self.coordinates = None
        if with_prompts:
            self.coordinates = nn.Parameter(torch.empty(config.prompts, 3))
            nn.init.trunc_normal_(self.coordinates, std=0.02)

    def forward(self, around: Tensor, drop_path: float) -> Tensor:  # [B, M, K, C]
        """Attend within neighborhoods, scaled by the width of all heads together, as released.

        Each neighborhood has its own drop-path."""
        n = around.flatten(0, 1)  # [BM, K, C]
        qkv = self.qkv(self.norm(n)).unflatten(2, (3, NUM_HEADS, -1)).permute(2, 0, 3, 1, 4)
        scale = self.proj.in_features**-0.5
        out = F.scaled_dot_product_attention(*qkv.unbind(0), scale=scale)  # [BM, heads, K, D]
        seen = self.proj(out.transpose(1, 2).flatten(2))
        n = add_branch(n, seen, drop_path_factor(n, drop_path, self.training))
        return n.unflatten(0, around.shape[:2])


class BlockAdapter(nn.Module):
    """The parts of one block: the network that makes its prompts, and the adapters.

    Args:
        dim: C, the width of the tokens.
        config: The settings of the method.
        with_prompts: Whether this block has prompts.
    """

    def __init__(self, dim: int, config: PointPeft, with_prompts: bool):
        super().__init__()

        def bottleneck(rank: int, scale: float = 1.0) -> Bottleneck:
            return Bottleneck(
                dim, rank, scale=scale, dropout=config.dropout, activation="quickgelu"
            )

        self.dropout = config.dropout
        self.prompt_tokens = None
        if with_prompts:
            self.prompt_tokens = nn.Parameter(torch.empty(config.prompts, dim))
            nn.init.trunc_normal_(self.prompt_tokens, std=0.02)
            self.from_prior = bottleneck(config.prompt_rank)
        self.feed_forward = bottleneck(config.rank, FEED_FORWARD_SCALE)
        self.norm = nn.BatchNorm1d(dim)
        self.after_geometry = bottleneck(config.rank)

    def prompts(self, prior: Tensor) -> Tensor:  # [B, P, C]
        """The block's prompts for each cloud.

        Args:
            prior: [B, P, C], the memory's output for each cloud.
        """
        learned = self.prompt_tokens.expand(prior.shape[0], -1, -1)
        return F.dropout(learned, self.dropout, self.training) + self.from_prior(
            prior, residual=prior
        )
