"""STAG (2026): a side network on the graph of group centers adapts the later blocks' tokens.

Nothing trains before the first adapted block, so the backward ends there.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dapt_ext
from dapt.errors import UsageError
from dapt.methods.method import Method, register
from dapt.methods.neighborhoods import neighborhood_max
from dapt.methods.replacements import Replacements, place_of
from dapt.models.blocks import After, BlockStack


@register("stag")
@dataclass(frozen=True)
class Stag(Method):
    """Side Token Adaptation on a neighborhood Graph.

    Args:
        size: "standard" or "large", the published "std" and "sl". It sets the next three fields if
            they are None: half of the blocks adapted by one set of layers, or three quarters
            by one set for each quarter.
        first: The first block whose tokens are adapted, from 0.
        share_down: Number of successive blocks whose tokens enter the state by one projection.
        share_graph: Number of successive blocks that share one graph convolution.
        rank: r, the width of the side network's state.
        neighbors: K, the neighbors of a center in the graph, including itself.
        final_norm: Whether the head reads normalized tokens; not so in the published code.
        zero_start: Whether the adapted network starts equal to the pre-trained one; not so in the
            published code.
    """

    mixes: ClassVar[bool] = True

    size: Literal["standard", "large"] = "standard"
    first: int | None = None
    share_down: int | None = None
    share_graph: int | None = None
    rank: int = 192
    neighbors: int = 8
    final_norm: bool = False
    zero_start: bool = False

    def __post_init__(self):
        if self.size not in ("standard", "large"):
            raise UsageError(f"size must be 'standard' or 'large', got {self.size!r}")
        least = {"first": 0, "share_down": 1, "share_graph": 1, "rank": 1, "neighbors": 1}
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise UsageError(f"{name} must be at least {bound}, got {value}")

    def owns(self, entry: str) -> bool:
        return "side" in entry.split(".")

    def head_tokens_for(self, backbone: nn.Module) -> tuple[str, ...]:
        return ("all:mean",)

    def wrap(self, backbone: nn.Module, replacements: Replacements) -> None:
        for stack in backbone.stacks:
            replacements.put(*place_of(backbone, stack), StagStack(stack, self))
        if not self.final_norm:
            replacements.put(backbone, "norm", LeftOut(backbone.norm))

    def shared_blocks(self, depth: int) -> tuple[int, int, int]:
        """(first, share_down, share_graph) for a stack.

        Args:
            depth: The number of blocks in the stack.
        """
        by_size = {
            "standard": (depth // 2, depth, depth),
            "large": (depth // 4, max(depth // 4, 1), max(depth // 4, 1)),
        }[self.size]
        given = (self.first, self.share_down, self.share_graph)
        chosen = tuple(b if g is None else g for g, b in zip(given, by_size, strict=True))
        if chosen[0] >= depth:
            raise UsageError(f"first must be below the {depth} blocks of a stack, got {chosen[0]}")
        return chosen


class LeftOut(nn.Module):
    """A frozen layer that is not applied.

    Args:
        frozen: The layer.
    """

    def __init__(self, frozen: nn.Module):
        super().__init__()
        self.frozen = frozen

    def forward(self, x: Tensor) -> Tensor:
        return x


class StagStack(nn.Module):
    """Frozen blocks with a side network that reads the tokens after each one and adapts some.

    Args:
        frozen: The backbone's blocks.
        config: The settings of the method.
    """

    def __init__(self, frozen: BlockStack, config: Stag):
        super().__init__()
        self.frozen = frozen
        self.first, self.share_down, self.share_graph = config.shared_blocks(len(frozen))
        self.neighbors = config.neighbors
        self.side = SideNetwork(
            frozen[0].dim,
            config,
            num_downs=math.ceil(len(frozen) / self.share_down),
            num_graphs=math.ceil((len(frozen) - self.first) / self.share_graph),
            number_from=self.first,
        )

    def __len__(self) -> int:
        return len(self.frozen)

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        mask: Tensor | None = None,
        levels: Sequence[int] = (),
        centers: Tensor | None = None,
        after: After | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        size = min(self.neighbors, centers.shape[1])
        _, near = dapt_ext.knn(centers, centers, size)  # [B, G, K]
        front = x.shape[1] - centers.shape[1]  # tokens before the patches are not in the graph
        state, kept = 0.0, []  # state: [B, G, r]
        unread = []
        for i, block in enumerate(self.frozen):
            # The inputs of one projection are summed before the state is needed. For the blocks
            # before the first adapted one, the backward keeps only this sum.
            unread.append(x[:, front:])
            if i >= self.first or (i + 1) % self.share_down == 0:
                down = self.side.downs[i // self.share_down]
                read = reduce(torch.add, unread)
                state = state + F.linear(read, down.weight, len(unread) * down.bias)
                unread = []
            x = block(x, positions, mask)
            if after is not None:
                x = after(i, x)
            if i >= self.first:
                graph = self.side.graphs[str(self.first + (i - self.first) // self.share_graph)]
                state, moved = graph(state, near)
                mean = moved.mean(1, keepdim=True).expand(-1, front, -1)
                x = x + torch.cat([mean, moved], 1)
            if i in levels:
                kept.append(x)
        return x, kept


class SideNetwork(nn.Module):
    """Projections into the state, and graph convolutions, with the keys of released files.

    Args:
        dim: C, the width of the tokens.
        config: The settings of the method.
        num_downs: The number of projections.
        num_graphs: The number of graph convolutions.
        number_from: The key of the first graph convolution.
    """

    def __init__(self, dim: int, config: Stag, num_downs: int, num_graphs: int, number_from: int):
        super().__init__()
        self.downs = nn.ModuleList(nn.Linear(dim, config.rank) for _ in range(num_downs))
        self.graphs = nn.ModuleDict(
            {
                str(number_from + i): GraphConvolution(dim, config.rank, config.zero_start)
                for i in range(num_graphs)
            }
        )


class GraphConvolution(nn.Module):
    """Computes the next state, and the change of each patch's token.

    Args:
        dim: C, the width of the tokens.
        rank: r, the width of the state.
        zero_start: Whether a new convolution leaves the tokens unchanged.
    """

    def __init__(self, dim: int, rank: int, zero_start: bool):
        super().__init__()
        self.center = nn.Linear(rank, rank)
        self.neighbor = nn.Linear(rank, rank)
        self.mix = nn.Linear(rank, rank)
        self.up = nn.Linear(rank, dim)
        if zero_start:
            nn.init.zeros_(self.up.weight)
            nn.init.zeros_(self.up.bias)

    def forward(self, state: Tensor, near: Tensor) -> tuple[Tensor, Tensor]:  # [B, G, r], [B, G, K]
        greatest = neighborhood_max(self.neighbor(state), near)
        state = self.mix(self.center(state) + greatest)
        return state, F.relu(self.up(state))
