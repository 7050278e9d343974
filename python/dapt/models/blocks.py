"""The parts of every transformer here: attention, MLP, blocks, and stacks of them.

They know nothing of adaptation methods. What those may rely on:

- a block is called as ``block(tokens, positions, mask)`` and adds the positions itself;
- ``block.place(tokens, positions)`` is how it adds them; its first half is then
  ``block.attend(tokens, mask, factor)``, its second ``norm2``, then ``mlp``;
- a block may insert tokens of its own between the tokens in front and the patches, which are always
  the last G tokens.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dapt_ext


def drop_path_factor(x: Tensor, rate: float, training: bool) -> Tensor | None:
    """Stochastic depth: 0 or 1 / (1 - rate) per cloud, [B]; None where nothing is dropped.

    Args:
        x: [B, ...], for its batch size, dtype and device.
        rate: Probability that a cloud is dropped.
        training: Nothing is dropped otherwise.
    """
    if rate == 0.0 or not training:
        return None
    keep = 1.0 - rate
    return x.new_empty(x.shape[0]).bernoulli_(keep) / keep


def add_branch(x: Tensor, branch: Tensor, factor: Tensor | None) -> Tensor:
    """x + factor * branch.

    Args:
        x: [B, T, C].
        branch: [B, T, C].
        factor: One for each cloud, [B]; None for 1.
    """
    return x + branch if factor is None else x + factor[:, None, None] * branch


def of_kept(
    branch: Callable[[Tensor], Tensor], x: Tensor, factor: Tensor | None, mask: Tensor | None = None
) -> Tensor:
    """branch(x), with zeros for the clouds whose factor is 0.

    On the CPU these clouds are not computed. Elsewhere they are: finding them would need a sync.

    Args:
        branch: a function of tokens, cloud by cloud.
        x: [B, T, C].
        factor: drop-path's, [B]; None where nothing is dropped.
        mask: The mask of the attention; with one, all clouds are computed.
    """
    skips = factor is not None and mask is None and x.is_cpu and not torch.compiler.is_compiling()
    kept = factor.nonzero()[:, 0] if skips else None
    if kept is None or len(kept) == len(x):
        return branch(x)
    if not len(kept):  # the branch's weights get a gradient, of zeros
        kept = kept.new_zeros(1)
    some = branch(x.index_select(0, kept))
    return some.new_zeros(x.shape[0], *some.shape[1:]).index_copy(0, kept, some)


def widen_mask(mask: Tensor | None, num_tokens: int) -> Tensor | None:
    """The mask of the patches, widened to all tokens: those in front see everything and are seen by
    all.

    Args:
        mask: [B, G, G], True = attend; anything but a tensor is given back as it is (for networks
            that take no more tokens).
        num_tokens: T, patches included.
    """
    if not isinstance(mask, Tensor):
        return mask
    more = num_tokens - mask.shape[-1]
    return F.pad(mask, (more, 0, more, 0), value=True)


class Attention(nn.Module):
    """Self-attention among the tokens of a cloud.

    Args:
        dim: C, the width of the tokens.
        num_heads: Divides C.
        qkv_bias: Whether queries, keys and values have one.
        causal: a token sees itself and those before it.
        layer_scale: a learned factor per channel of what is given back.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        qkv_bias: bool = False,
        causal: bool = False,
        layer_scale: bool = False,
    ):
        super().__init__()
        self.num_heads = num_heads
        self.causal = causal
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.gamma = nn.Parameter(torch.ones(dim)) if layer_scale else None

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:  # mask: True = attend
        return self.scaled(self.proj(self.mixed(self.qkv(x), mask)))

    def mixed(self, qkv: Tensor, mask: Tensor | None = None) -> Tensor:  # [B, T, 3 C]
        """What the tokens see of each other, before the projection.

        Args:
            qkv: [B, T, 3 C].
            mask: [B, T, T], True = attend.
        """
        return dapt_ext.attention(qkv, self.num_heads, mask, causal=self.causal)

    def scaled(self, out: Tensor) -> Tensor:
        """The projection's output, times the layer scale where there is one.

        Args:
            out: [B, T, C].
        """
        return out if self.gamma is None else self.gamma * out


class Mlp(nn.Module):
    """fc2(GELU(fc1(x))).

    Args:
        dim: C, of x and of the output.
        hidden: Units in between.
        layer_scale: Whether the output has a learned factor per channel.
    """

    def __init__(self, dim: int, hidden: int, layer_scale: bool = False):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)
        self.gamma = nn.Parameter(torch.ones(dim)) if layer_scale else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.fc2(self.act(self.fc1(x)))
        return out if self.gamma is None else self.gamma * out


class Block(nn.Module):
    """Pre-norm transformer block that adds the tokens' positions before it starts.

    Args:
        dim: C, the width of the tokens.
        num_heads: The number of heads of the attention.
        mlp_ratio: Hidden units of the MLP to C.
        drop_path: Share of the clouds for which a half of the block is left out in training.
        attn: In place of the plain attention.
        mlp: In place of the plain MLP.
        eps: of both norms.
    """

    own_positions = False  # whether the block makes its tokens' positions itself

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: int = 4,
        drop_path: float = 0.0,
        *,
        attn: nn.Module | None = None,
        mlp: nn.Module | None = None,
        eps: float = 1e-5,
    ):
        super().__init__()
        self.dim = dim
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(dim, eps)
        self.attn = Attention(dim, num_heads) if attn is None else attn
        self.norm2 = nn.LayerNorm(dim, eps)
        self.mlp = Mlp(dim, mlp_ratio * dim) if mlp is None else mlp

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.place(x, positions)
        return self.transform(self.attend(x, mask, self.path_factor(x)))

    def place(self, x: Tensor, positions: Tensor) -> Tensor:
        """The tokens with their positions.

        Args:
            x: [B, T, C].
            positions: [B, T, C].
        """
        return x + positions

    def attend(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        factor: Tensor | None = None,
        attention: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """The first half, of tokens that have their positions.

        Args:
            x: [B, T, C].
            mask: Which tokens attend to each other.
            factor: drop-path's, [B].
            attention: The attention of the normed tokens, in place of the block's own.
        """
        attention = attention or (lambda u: self.attn(u, mask))
        branch = of_kept(lambda x: attention(self.norm1(x)), x, factor, mask)
        return add_branch(x, branch, factor)

    def transform(self, x: Tensor) -> Tensor:
        """The second half.

        Args:
            x: [B, T, C].
        """
        factor = self.path_factor(x)
        return add_branch(x, of_kept(lambda x: self.mlp(self.norm2(x)), x, factor), factor)

    def path_factor(self, x: Tensor) -> Tensor | None:
        """Drop-path's factor of a half, [B]; None where nothing is dropped.

        Args:
            x: [B, T, C], for its batch size, dtype and device.
        """
        return drop_path_factor(x, self.drop_path, self.training)


After = Callable[[int, Tensor], Tensor]


class BlockStack(nn.ModuleList):
    """Blocks run one after another; also gives the tokens after the blocks of ``levels``.

    ``centers`` are the coordinates of the patches, for methods that look at them. ``after`` is what
    a backbone does between its blocks: it gets a block's number and the tokens behind it, and gives
    the tokens for the next one. What a method gives its own stack beside that, it gives the
    backbone by name: a plain one takes nothing more.
    """

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        mask: Tensor | None = None,
        levels: Sequence[int] = (),
        centers: Tensor | None = None,
        after: After | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        return in_turn(self, lambda i, block, x: block(x, positions, mask), x, levels, after)


def in_turn(
    blocks: Iterable[nn.Module],
    step: Callable[[int, nn.Module, Tensor], Tensor],
    x: Tensor,
    levels: Sequence[int],
    after: After | None,
) -> tuple[Tensor, list[Tensor]]:
    """Run blocks one after another; also gives the tokens after those of ``levels``.

    Args:
        blocks: in their order.
        step: what runs a block: from its number, the block and the tokens to the next tokens.
        x: [B, T, C].
        levels: numbers of blocks.
        after: what a backbone does between its blocks.
    """
    kept = []
    for i, block in enumerate(blocks):
        x = step(i, block, x)
        if after is not None:
            x = after(i, x)
        if i in levels:
            kept.append(x)
    return x, kept


def drop_path_rates(last: float, depth: int) -> list[float]:
    """Rates of stochastic depth, one a block; they grow linearly from 0 in the first.

    Args:
        last: Rate of the last block.
        depth: Blocks.
    """
    return [last * i / max(depth - 1, 1) for i in range(depth)]


def init_weights(network: nn.Module) -> None:
    """Initialize linear layers as the published networks do, in place.

    Args:
        network: Any module.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
