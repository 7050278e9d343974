"""The plain point transformer of Point-MAE, Point-BERT, ACT and ReCon.

It knows nothing of adaptation methods. What they may rely on:

- a block is called as ``block(tokens, positions, mask)`` and adds the positions itself;
- a block may insert tokens of its own between the class token and the patches, which are always
  the last G tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dapt_ext
from dapt.errors import UsageError
from dapt.models.tokenizer import PatchEncoder, Tokenizer, position_embedding


class Features(NamedTuple):
    """What a backbone makes of a batch of clouds, after its final norm."""

    cls: Tensor | None  # [B, C]
    prompts: Tensor  # [B, P, C], tokens that blocks inserted; P = 0 in the pre-trained network
    patches: Tensor  # [B, G, C]
    centers: Tensor  # [B, G, 3]
    levels: tuple[Tensor, ...] = ()  # patches after the blocks asked for, each [B, G, C]


def drop_path_factor(x: Tensor, rate: float, training: bool) -> Tensor | None:
    """Stochastic depth: 0 or 1 / (1 - rate) per cloud, [B]; None where nothing is dropped."""
    if rate == 0.0 or not training:
        return None
    keep = 1.0 - rate
    return x.new_empty(x.shape[0]).bernoulli_(keep) / keep


def add_branch(x: Tensor, branch: Tensor, factor: Tensor | None) -> Tensor:
    """x + factor * branch, with one factor per cloud."""
    return x + branch if factor is None else x + factor[:, None, None] * branch


def of_kept(
    branch: Callable[[Tensor], Tensor], x: Tensor, factor: Tensor | None, mask: Tensor | None = None
) -> Tensor:
    """branch(x), with zeros for the clouds whose factor is 0.

    On the CPU these clouds are not computed. Elsewhere they are: to know them would need a sync.
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
    """The mask of the patches, for all tokens: those in front see everything and are seen."""
    if mask is None:
        return None
    more = num_tokens - mask.shape[-1]
    return F.pad(mask, (more, 0, more, 0), value=True)


class Attention(nn.Module):
    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:  # mask: True = attend
        return self.proj(dapt_ext.attention(self.qkv(x), self.num_heads, mask))


class Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm transformer block that adds the tokens' positions before it starts."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: int = 4, drop_path: float = 0.0):
        super().__init__()
        self.dim = dim
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, mlp_ratio * dim)

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        x, factor = x + positions, self._path_factor(x)
        x = add_branch(
            x, of_kept(lambda x: self.attn(self.norm1(x), mask), x, factor, mask), factor
        )
        factor = self._path_factor(x)
        return add_branch(x, of_kept(lambda x: self.mlp(self.norm2(x)), x, factor), factor)

    def _path_factor(self, x: Tensor) -> Tensor | None:
        return drop_path_factor(x, self.drop_path, self.training)


class BlockStack(nn.ModuleList):
    """Blocks run one after another; also gives the tokens after the blocks of ``levels``.

    ``centers`` are the coordinates of the patches, for methods that look at them. What a method
    gives its own stack beside that, it gives the backbone by name: a plain one takes nothing more.
    """

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        mask: Tensor | None = None,
        levels: Sequence[int] = (),
        centers: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        kept = []
        for i, block in enumerate(self):
            x = block(x, positions, mask)
            if i in levels:
                kept.append(x)
        return x, kept


def drop_path_rates(last: float, depth: int) -> list[float]:
    """Stochastic depth grows linearly from 0 in the first block to ``last`` in the last."""
    return [last * i / max(depth - 1, 1) for i in range(depth)]


@dataclass(frozen=True)
class PointTransformerConfig:
    num_groups: int = 64
    group_size: int = 32
    dim: int = 384
    depth: int = 12
    num_heads: int = 6
    mlp_ratio: int = 4
    encoder_dim: int = 384
    encoder_widths: tuple[int, int, int] = (128, 256, 512)
    class_token: bool = True
    drop_path: float = 0.1

    def __post_init__(self):
        if self.dim % self.num_heads:
            raise UsageError(f"num_heads must divide dim={self.dim}, got {self.num_heads}")

    def build(self) -> "PointTransformer":
        return PointTransformer(self)


class PointTransformer(nn.Module):
    def __init__(self, config: PointTransformerConfig):
        super().__init__()
        self.config = config
        C = config.dim
        self.tokenizer = Tokenizer(
            config.num_groups,
            config.group_size,
            PatchEncoder(3, config.encoder_widths, config.encoder_dim),
            nn.Identity() if config.encoder_dim == C else nn.Linear(config.encoder_dim, C),
        )
        self.pos_embed = position_embedding(128, C)
        self.blocks = BlockStack(
            Block(C, config.num_heads, config.mlp_ratio, rate)
            for rate in drop_path_rates(config.drop_path, config.depth)
        )
        self.norm = nn.LayerNorm(C)
        init_weights(self)
        self.cls_token, self.cls_pos = _class_token(C) if config.class_token else (None, None)

    @property
    def dim(self) -> int:
        return self.config.dim

    def forward(self, points: Tensor, levels: Sequence[int] = (), **given: Tensor) -> Features:
        groups = self.tokenizer.group(points)
        return self.forward_patches(groups.patches, groups.centers, levels, **given)

    def forward_patches(
        self, patches: Tensor, centers: Tensor, levels: Sequence[int] = (), **given: Tensor
    ) -> Features:
        x, positions = self.tokenizer.encode(patches), self.pos_embed(centers)  # [B, G, C]
        G = x.shape[1]
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
            positions = torch.cat([self.cls_pos.expand(len(x), -1, -1), positions], 1)

        x, kept = self.blocks(x, positions, levels=levels, centers=centers, **given)
        x = self.norm(x)
        return Features(
            cls=None if self.cls_token is None else x[:, 0],
            prompts=x[:, self.num_class_tokens : -G],
            patches=x[:, -G:],
            centers=centers,
            levels=tuple(self.norm(tokens[:, -G:]) for tokens in kept),
        )

    @property
    def head_tokens(self) -> tuple[str, ...]:
        """What the published classification heads read."""
        return ("cls", "patch:max") if self.num_class_tokens else ("patch:max",)

    @property
    def num_class_tokens(self) -> int:
        return 0 if self.cls_token is None else 1

    @property
    def tokenizers(self) -> list[Tokenizer]:
        return [self.tokenizer]

    @property
    def stacks(self) -> list[BlockStack]:
        return [self.blocks]


def _class_token(dim: int) -> tuple[nn.Parameter, nn.Parameter]:
    """Token and position, the same in every process: Point-MAE's files hold none, and an adapter
    trained on a backbone must find the same backbone again."""
    generator = torch.Generator().manual_seed(0)
    token, position = (
        nn.init.trunc_normal_(torch.empty(1, 1, dim), std=0.02, generator=generator)
        for _ in range(2)
    )
    return nn.Parameter(token), nn.Parameter(position)


def init_weights(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
