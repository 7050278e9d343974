"""PointGPT (NeurIPS 2023): a causal transformer over patches in the order of a walk.

Two peculiarities are kept because the published weights were trained with them:

- The attention half of a block adds to its normed input, so there is no residual path from the
  input to the output of the network.
- The class token stands before the patches and therefore cannot attend to them: ``cls`` is the same
  for every cloud, although the published head reads it. ``patch:last``, the last patch of the walk,
  has attended to all others, and ``patch:max`` and ``patch:mean`` read all patches.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dapt.models.blocks import Attention, Block
from dapt.models.drop_path import add_branch, of_kept
from dapt.models.tokenizer import WalkPositions, WalkTokenizer
from dapt.models.transformer import PointTransformer, PointTransformerConfig, in_front

LARGE_ENCODER = (256, 512, 1024, 2048)


@dataclass(frozen=True)
class PointGptConfig(PointTransformerConfig):
    """The size of a PointGPT; the fields are those of the plain transformer.

    Args:
        drop_path: The drop-path rate of the last block; 0 as published.
    """

    drop_path: float = 0.0

    def build(self) -> "PointGpt":
        """Build the network with fresh weights."""
        return PointGpt(self)


class PointGpt(PointTransformer):
    """A causal network over [start token, class token, patches]: each attends to those before it.

    Args:
        config: The size of the network.
    """

    def __init__(self, config: PointGptConfig):
        super().__init__(config)
        C = config.dim
        self.start_token = nn.Parameter(torch.empty(1, 1, C))
        self.start_pos = nn.Parameter(torch.empty(1, 1, C))
        nn.init.trunc_normal_(self.start_token, std=0.02)
        nn.init.trunc_normal_(self.start_pos, std=0.02)
        self.last_norm = nn.LayerNorm(C)
        self.norm = nn.LayerNorm(C, device="cpu")  # not in the pre-training files

    def _tokenizer(self) -> WalkTokenizer:
        return super()._tokenizer(WalkTokenizer)

    def _position_embedding(self) -> nn.Module:
        return WalkPositions(self.dim)

    def _block(self, drop_path: float) -> Block:
        return GptBlock(self.config, drop_path)

    @property
    def num_class_tokens(self) -> int:
        """The number of tokens in front of the patches."""
        return 1 + super().num_class_tokens

    @property
    def head_tokens(self) -> tuple[str, ...]:
        """What the published classification head reads."""
        return ("patch:max",) if self.cls_token is None else ("cls", "patch:max")

    def _with_front(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        x, positions = super()._with_front(x, positions)
        # As published: the tokens are [start, class], their positions [class, start].
        if self.cls_token is None:
            return in_front(self.start_token, x), in_front(self.start_pos, positions)
        after_class = in_front(self.start_pos, positions[:, 1:])
        return in_front(self.start_token, x), torch.cat([positions[:, :1], after_class], 1)

    def _finish(self, x: Tensor) -> Tensor:
        return self.norm(self.last_norm(x))


class GptBlock(Block):
    """A causal block whose first half adds to the normed tokens rather than to the tokens.

    Args:
        config: The settings of the network.
        drop_path: The drop-path rate of this block.
    """

    def __init__(self, config: PointTransformerConfig, drop_path: float):
        attn = Attention(config.dim, config.num_heads, qkv_bias=True, causal=True)
        super().__init__(
            config.dim, config.num_heads, config.mlp_ratio, drop_path=drop_path, attn=attn
        )

    def attend(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        factor: Tensor | None = None,
        attention: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """The first half, for tokens with their positions added; see `Block.attend`."""
        attention = attention or (lambda u: self.attn(u, mask))
        x = self.norm1(x)
        return add_branch(x, of_kept(attention, x, factor, mask), factor)
