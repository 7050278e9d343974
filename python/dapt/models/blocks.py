"""The parts that all transformers here share: attention, MLP, blocks, and stacks of blocks.

They know nothing about adaptation methods, but methods rely on the following:

- a block is called as `block(tokens, positions, mask)` and adds the positions itself, with
  `block.place(tokens, positions)`;
- its first half is then `block.attend(tokens, mask, factor)`, and its second half
  `block.transform(tokens)`, which is `norm2` followed by `mlp`;
- a block may insert tokens of its own between the tokens in front and the patches, which are always
  the last G tokens.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dapt_ext
from dapt.models.drop_path import add_branch, drop_path_factor, of_kept


def widen_mask(mask: Tensor | None, num_tokens: int) -> Tensor | None:
    """Widen the mask of the patches to all tokens; the tokens in front attend to all tokens, and
    all tokens attend to them.

    Args:
        mask: [B, G, G], True = attend. Anything but a tensor is returned unchanged, for networks
            that take no further tokens.
        num_tokens: T, including the patches.
    """
    if not isinstance(mask, Tensor):
        return mask
    more = num_tokens - mask.shape[-1]
    return F.pad(mask, (more, 0, more, 0), value=True)


class Attention(nn.Module):
    """Self-attention among the tokens of a cloud.

    Args:
        dim: C, the width of the tokens.
        num_heads: The number of heads, which divides C.
        qkv_bias: Whether the projection to queries, keys and values has a bias.
        causal: Whether a token attends only to itself and to the tokens before it.
        layer_scale: Whether the output has a learned factor per channel.
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
        """The output of the attention before the projection, [B, T, C].

        Args:
            qkv: [B, T, 3 C].
            mask: [B, T, T], True = attend.
        """
        return dapt_ext.attention(qkv, self.num_heads, mask, causal=self.causal)

    def scaled(self, out: Tensor) -> Tensor:
        """The output of the projection, times the layer scale if there is one.

        Args:
            out: [B, T, C].
        """
        return out if self.gamma is None else self.gamma * out


class Mlp(nn.Module):
    """fc2(GELU(fc1(x))).

    Args:
        dim: C, of x and of the output.
        hidden: The number of hidden units.
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
    """Pre-norm transformer block that first adds the positions to its tokens.

    Args:
        dim: C, the width of the tokens.
        num_heads: The number of heads of the attention.
        mlp_ratio: The hidden units of the MLP, in multiples of C.
        drop_path: The share of clouds for which training leaves out a half of the block.
        attn: Replaces the plain attention.
        mlp: Replaces the plain MLP.
        eps: The epsilon of both norms.
    """

    own_positions = False  # whether the block computes the positions of its tokens itself

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
        """Add the positions to the tokens.

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
        """The first half, for tokens whose positions are added.

        Args:
            x: [B, T, C].
            mask: Which tokens attend to each other.
            factor: The drop-path factor, [B].
            attention: Attention over the normalized tokens that replaces the block's own.
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
        """Draw the drop-path factor of a half, [B]; None if nothing is dropped.

        Args:
            x: [B, T, C], for its batch size, dtype and device.
        """
        return drop_path_factor(x, self.drop_path, self.training)


After = Callable[[int, Tensor], Tensor]


class BlockStack(nn.ModuleList):
    """Blocks that run one after another; also returns the tokens after the blocks in `levels`.

    `centers` are the coordinates of the patches, for methods that use them. `after` is what a
    backbone does between its blocks: it maps the number of a block and the block's output to the
    input of the next block. A method whose stack takes further arguments passes them to the
    backbone by name; a plain stack takes none.
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
    """Run blocks one after another; also return the tokens after the blocks in `levels`.

    Args:
        blocks: The blocks in order.
        step: Runs a block, given its number, the block and its tokens; returns the next tokens.
        x: [B, T, C].
        levels: The numbers of blocks.
        after: What a backbone does between its blocks.
    """
    kept = []
    for i, block in enumerate(blocks):
        x = step(i, block, x)
        if after is not None:
            x = after(i, x)
        if i in levels:
            kept.append(x)
    return x, kept


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
