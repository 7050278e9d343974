"""IDPT (ICCV 2023): one prompt per cloud, made from its own tokens by a graph network."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dapt_ext
from dapt.errors import UsageError, check_at_least
from dapt.methods.frozen_stack import FrozenStack, Step
from dapt.methods.method import Method, register
from dapt.methods.replacements import Replacements, own_class_token, place_of
from dapt.models.blocks import BlockStack, widen_mask

SLOPE = 0.2  # of the leaky ReLUs


@register("idpt")
@dataclass(frozen=True)
class Idpt(Method):
    """Instance-aware Dynamic Prompt Tuning; on a backbone of several scales, in the last one.

    Args:
        prompt_layer: The block before which the prompt is made, from 0; None for the last one.
        edge_convs: Graph convolutions, each on neighbors of its own; the published "mlp",
            "dgcnn_light", "dgcnn_light2" and "dgcnn" have 0, 1, 2 and 3.
        neighbors: k, the neighbors of a token in a graph, including itself.
        head_tokens: What the head reads; None for the backbone's own tokens and the prompt.
        class_token: Whether the class token trains. If not, nothing before the prompt's block
            trains, and the backward ends there.
        train_prompt_position: Whether the prompt's position trains; in the published code it stays
            as it was drawn.
    """

    prompt_layer: int | None = None
    edge_convs: int = 3
    neighbors: int = 20
    head_tokens: tuple[str, ...] | None = None
    class_token: bool = True
    train_prompt_position: bool = False

    def __post_init__(self):
        check_at_least(self, neighbors=1)
        if not 0 <= self.edge_convs <= 3:
            raise UsageError(f"edge_convs must be from 0 to 3, got {self.edge_convs}")
        if self.prompt_layer is not None:
            check_at_least(self, prompt_layer=0)
        if self.head_tokens is not None:
            object.__setattr__(self, "head_tokens", tuple(self.head_tokens))

    def head_tokens_for(self, backbone: nn.Module) -> tuple[str, ...]:
        if self.head_tokens is not None:
            return self.head_tokens
        own, n = backbone.head_tokens, min(backbone.num_class_tokens, 1)
        return (*own[:n], "prompt:mean", *own[n:])

    def owns(self, entry: str) -> bool:
        own = {"prompt", "prompt_position"}
        if self.class_token:
            own |= {"cls_token", "cls_pos"}
        return not own.isdisjoint(entry.split("."))

    def wrap(self, backbone: nn.Module, replacements: Replacements) -> None:
        if self.class_token:
            own_class_token(backbone, replacements)
        stack = backbone.stacks[-1]
        depth, layer = len(stack), self.prompt_layer
        if layer is not None and layer >= depth:
            raise UsageError(f"prompt_layer must be below the {depth} blocks, got {layer}")
        layer = depth - 1 if layer is None else layer
        replacements.put(*place_of(backbone, stack), IdptStack(stack, self, layer))


class IdptStack(FrozenStack):
    """Frozen blocks; from one of them on, a prompt precedes the patches.

    Args:
        frozen: The backbone's blocks.
        config: The settings of the method.
        prompt_layer: The block before which the prompt is made.
    """

    def __init__(self, frozen: BlockStack, config: Idpt, prompt_layer: int):
        super().__init__(frozen)
        dim = frozen[0].dim
        self.prompt_layer = prompt_layer
        self.prompt = PromptNetwork(dim, config.edge_convs, config.neighbors)
        self.prompt_position = nn.Parameter(
            nn.init.trunc_normal_(torch.empty(1, 1, dim), std=0.02),
            requires_grad=config.train_prompt_position,
        )

    def start(
        self, x: Tensor, positions: Tensor, mask: Tensor | None, centers: Tensor
    ) -> tuple[Tensor, Step]:
        def step(i: int, block: nn.Module, x: Tensor) -> Tensor:
            nonlocal positions, mask
            if i == self.prompt_layer:
                front = x.shape[1] - centers.shape[1]
                prompt = self.prompt(x[:, front:])
                x = _inserted(x, prompt, front)
                positions = _inserted(positions, self.prompt_position, front)
                mask = widen_mask(mask, x.shape[1])
            return block(x, positions, mask)

        return x, step


def _inserted(x: Tensor, row: Tensor, at: int) -> Tensor:
    return torch.cat([x[:, :at], row.to(x.dtype).expand(x.shape[0], -1, -1), x[:, at:]], 1)


class PromptNetwork(nn.Module):
    """Turns tokens into one prompt, like DGCNN: each graph joins tokens with similar features.

    Args:
        dim: C, the width of the tokens.
        edge_convs: The number of convolutions; with 0 the prompt is made directly from the tokens.
        neighbors: k, the number of neighbors of each token in a graph.
    """

    def __init__(self, dim: int, edge_convs: int, neighbors: int):
        super().__init__()
        self.edges = nn.ModuleList(EdgeConvolution(dim, neighbors) for _ in range(edge_convs))
        self.mix = nn.Linear(max(edge_convs, 1) * dim, dim, bias=False)
        self.norm = nn.BatchNorm1d(dim)

    def forward(self, x: Tensor) -> Tensor:  # [B, G, C] -> [B, 1, C]
        seen = [] if self.edges else [x]
        for edge in self.edges:
            x = edge(x)
            seen.append(x)
        x = self.norm(self.mix(torch.cat(seen, 2)).flatten(0, 1)).unflatten(0, x.shape[:2])
        return F.leaky_relu(x, SLOPE).amax(1, keepdim=True)


class EdgeConvolution(nn.Module):
    """max over neighbors k of leaky(norm(W [x_k - x_j, x_j])) for each token j.

    The two halves of W are applied once per token, not once per edge.

    Args:
        dim: C, the width of the tokens.
        neighbors: k, the number of neighbors of each token.
    """

    def __init__(self, dim: int, neighbors: int):
        super().__init__()
        self.neighbors = neighbors
        self.mix = nn.Linear(2 * dim, dim, bias=False)
        self.norm = nn.BatchNorm1d(dim)

    def forward(self, x: Tensor) -> Tensor:  # [B, G, C]
        of_difference, of_own = self.mix.weight.chunk(2, dim=1)
        own = F.linear(x, of_own - of_difference)
        near = dapt_ext.gather(F.linear(x, of_difference), self._graph(x))  # [B, G, k, C]
        edges = near + own[:, :, None]
        edges = self.norm(edges.flatten(0, 2)).unflatten(0, edges.shape[:3])
        return F.leaky_relu(edges, SLOPE).amax(2)

    @torch.no_grad()
    def _graph(self, x: Tensor) -> Tensor:  # int64 [B, G, k]
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        distance = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
        return distance.topk(min(self.neighbors, x.shape[1]), largest=False).indices
