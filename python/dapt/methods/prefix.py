"""Prefix tuning (ACL 2021): every block's attention also sees learned keys and values."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dapt.errors import UsageError
from dapt.methods.method import Method, register
from dapt.methods.replacements import Replacements, place_of
from dapt.models.blocks import After, Attention, Block, BlockStack, in_turn, widen_mask


@register("prefix")
@dataclass(frozen=True)
class Prefix(Method):
    """Learned keys and values in addition to those of the tokens; the class token stays frozen.

    Args:
        prefixes: p, the number of keys and values per block.
        hidden: Width of the small network that produces them in training; None trains them
            directly. `merge` keeps its output.
    """

    prefixes: int = 10
    hidden: int | None = None

    def __post_init__(self):
        for name in ("prefixes", "hidden"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1, got {value}")

    def kin(self) -> "Prefix":
        return self

    def owns(self, entry: str) -> bool:
        return "prefix" in entry.split(".")

    def wrap(self, backbone: nn.Module, replacements: Replacements) -> None:
        for stack in backbone.stacks:
            for block in stack:
                if not isinstance(block, Block) or not isinstance(block.attn, Attention):
                    kind = type(getattr(block, "attn", block)).__name__
                    raise UsageError(f"prefix works on plain attention, not on {kind}")
            if self.hidden is not None:
                made = MadePrefix(self.prefixes, self.hidden, stack[0].dim, len(stack))
                replacements.put(*place_of(backbone, stack), PrefixStack(stack, made))
                continue
            for i, block in enumerate(list(stack)):
                prefix = torch.stack(
                    [
                        nn.init.normal_(torch.empty(self.prefixes, block.dim), std=0.02),
                        torch.zeros(self.prefixes, block.dim),
                    ]
                )
                replacements.put(stack, str(i), PrefixBlock(block, prefix))


class PrefixBlock(nn.Module):
    """A frozen block whose tokens also attend to a prefix.

    Args:
        frozen: The backbone's block.
        prefix: Keys and values [2, p, C]; None if each call passes its own.
    """

    def __init__(self, frozen: Block, prefix: Tensor | None = None):
        super().__init__()
        self.dim = frozen.dim
        self.frozen = frozen
        self.prefix = None if prefix is None else nn.Parameter(prefix)

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        mask: Tensor | None = None,
        prefix: Tensor | None = None,
    ) -> Tensor:
        return self.transform(self.attend(self.place(x, positions), mask, prefix))

    def place(self, x: Tensor, positions: Tensor) -> Tensor:
        """The tokens with their positions."""
        return x + positions

    def attend(self, x: Tensor, mask: Tensor | None = None, prefix: Tensor | None = None) -> Tensor:
        """The first half, with the prefix among keys and values.

        Args:
            x: [B, T, C].
            mask: Which tokens attend to each other.
            prefix: The prefix of this call [2, p, C], or one per cloud [B, 2, p, C].
        """
        prefix, block = self.prefix if prefix is None else prefix, self.frozen
        return block.attend(
            x,
            mask,
            block.path_factor(x),
            attention=lambda u: attend_with_prefix(block.attn, u, prefix, mask),
        )

    def transform(self, x: Tensor) -> Tensor:
        """The frozen block's second half."""
        return self.frozen.transform(x)


def attend_with_prefix(
    attention: Attention, x: Tensor, prefix: Tensor, mask: Tensor | None
) -> Tensor:
    """Compute the attention with the prefix before the keys and values of the tokens.

    The prefix is passed as p more tokens whose outputs are dropped, so the ordinary attention
    runs.

    Args:
        attention: The block's attention.
        x: [B, T, C].
        prefix: [2, p, C], or [B, 2, p, C].
        mask: Which tokens attend to each other; all attend to the prefix.
    """
    p = prefix.shape[-2]  # [2, p, C], or [B, 2, p, C] with one for each cloud
    queries = torch.zeros_like(prefix[..., :1, :, :])
    rows = torch.cat([queries, prefix], -3).transpose(-3, -2).flatten(-2)  # [..., p, 3C]
    qkv = attention.qkv(x)
    qkv = torch.cat([rows.to(qkv.dtype).expand(x.shape[0], -1, -1), qkv], 1)  # [B, p + T, 3C]
    out = attention.mixed(qkv, widen_mask(mask, qkv.shape[1]))
    return attention.scaled(attention.proj(out[:, p:]))


class MadePrefix(nn.Module):
    """One small network that produces the prefixes of all blocks in a stack.

    Args:
        prefixes: p, the number of rows of each prefix.
        hidden: The hidden width of the network.
        dim: C, the width of the tokens.
        depth: The number of blocks, each with its own prefix.
    """

    def __init__(self, prefixes: int, hidden: int, dim: int, depth: int):
        super().__init__()
        self.depth = depth
        self.embedding = nn.Parameter(torch.randn(prefixes, dim))
        self.inner = nn.Linear(dim, hidden)
        self.outer = nn.Linear(hidden, depth * 2 * dim)
        nn.init.normal_(self.outer.weight, std=0.02 * hidden**-0.5)
        nn.init.zeros_(self.outer.bias)

    def forward(self) -> Tensor:  # [L, 2, p, C]
        made = self.outer(self.inner(self.embedding).tanh())  # [p, L * 2 * C]
        return made.unflatten(1, (self.depth, 2, -1)).permute(1, 2, 0, 3)


class PrefixStack(nn.Module):
    """Frozen blocks whose prefixes are produced at each call.

    Args:
        frozen: The backbone's blocks.
        prefix: The network that produces them.
    """

    def __init__(self, frozen: BlockStack, prefix: MadePrefix):
        super().__init__()
        self.blocks = nn.ModuleList(PrefixBlock(block) for block in frozen)
        self.prefix = prefix

    def __len__(self) -> int:
        return len(self.blocks)

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        mask: Tensor | None = None,
        levels: Sequence[int] = (),
        centers: Tensor | None = None,
        after: After | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        prefixes = self.prefix()

        def step(i: int, block: nn.Module, x: Tensor) -> Tensor:
            return block(x, positions, mask, prefixes[i])

        return in_turn(self.blocks, step, x, levels, after)

    @torch.no_grad()
    def folded(self) -> BlockStack:
        """The same blocks with the current prefixes fixed."""
        made = self.prefix()
        return BlockStack(
            PrefixBlock(block.frozen, prefix.clone())
            for block, prefix in zip(self.blocks, made, strict=True)
        )
