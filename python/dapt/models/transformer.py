"""The plain point transformer of Point-MAE, Point-BERT, ACT and ReCon.

It knows nothing of adaptation methods. What they may rely on:

- a block is called as ``block(tokens, positions, mask)`` and adds the positions itself;
- ``block.place(tokens, positions)`` is how it adds them; its first half is then
  ``block.attend(tokens, mask, factor)``, its second ``norm2``, then ``mlp``;
- a block may insert tokens of its own between the tokens in front and the patches, which are always
  the last G tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dapt_ext
from dapt.errors import UsageError, check_choice, check_sizes
from dapt.models.compression import Storage
from dapt.models.tokenizer import (
    NearOrigin,
    PatchEncoder,
    SinCosEmbedding,
    Tokenizer,
    as_weights,
    position_embedding,
)


class Features(NamedTuple):
    """What a backbone makes of a batch of clouds, after its final norm.

    Args:
        cls: [B, C], the class token; None without one.
        prompts: [B, P, C], tokens that blocks inserted; P = 0 in the pre-trained network.
        patches: [B, G, C].
        centers: [B, G, 3], of the patches.
        levels: Patches after the blocks asked for, each [B, G, C].
        start: [B, C], the token in front of patches that look back.
        image: [B, I, C], tokens beside the patches that were taught by images.
        text: [B, T, C], likewise by texts.
    """

    cls: Tensor | None  # [B, C]
    prompts: Tensor  # [B, P, C], tokens that blocks inserted; P = 0 in the pre-trained network
    patches: Tensor  # [B, G, C]
    centers: Tensor  # [B, G, 3]
    levels: tuple[Tensor, ...] = ()  # patches after the blocks asked for, each [B, G, C]
    start: Tensor | None = None  # [B, C], the token in front of patches that look back
    image: Tensor | None = None  # [B, I, C], tokens beside the patches that were taught by images
    text: Tensor | None = None  # [B, T, C], likewise by texts

    @property
    def patch_mean(self) -> Tensor:  # [B, C]
        """The mean over the patches."""
        return self.patches.mean(1)

    @property
    def patch_max(self) -> Tensor:  # [B, C]
        """The maximum over the patches."""
        return self.patches.amax(1)


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
    """The mask of the patches, for all tokens: those in front see everything and are seen. What is
    no tensor is for networks that take no more tokens."""
    if not isinstance(mask, Tensor):
        return mask
    more = num_tokens - mask.shape[-1]
    return F.pad(mask, (more, 0, more, 0), value=True)


class Attention(nn.Module):
    """Self-attention among the tokens of a cloud.

    Args:
        dim: C, the width of the tokens.
        num_heads: divides C.
        qkv_bias: whether queries, keys and values have one.
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
        """What the tokens see of each other, before the projection."""
        return dapt_ext.attention(qkv, self.num_heads, mask, causal=self.causal)

    def scaled(self, out: Tensor) -> Tensor:
        """The projection's output, times the layer scale where there is one."""
        return out if self.gamma is None else self.gamma * out


class Mlp(nn.Module):
    """fc2(GELU(fc1(x))); ``layer_scale`` is a learned factor per channel of that."""

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
        num_heads: of the attention.
        mlp_ratio: hidden units of the MLP to C.
        drop_path: share of the clouds for which a half of the block is left out in training.
        attn: in place of the plain attention.
        mlp: in place of the plain MLP.
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
        """The tokens with their positions."""
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
            mask: which tokens see each other.
            factor: drop-path's, [B].
            attention: of the normed tokens, in place of the block's own.
        """
        attention = attention or (lambda u: self.attn(u, mask))
        branch = of_kept(lambda x: attention(self.norm1(x)), x, factor, mask)
        return add_branch(x, branch, factor)

    def transform(self, x: Tensor) -> Tensor:
        """The second half."""
        factor = self.path_factor(x)
        return add_branch(x, of_kept(lambda x: self.mlp(self.norm2(x)), x, factor), factor)

    def path_factor(self, x: Tensor) -> Tensor | None:
        """Drop-path's factor of a half, [B]; None where nothing is dropped."""
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
        kept = []
        for i, block in enumerate(self):
            x = block(x, positions, mask)
            if after is not None:
                x = after(i, x)
            if i in levels:
                kept.append(x)
        return x, kept


def drop_path_rates(last: float, depth: int) -> list[float]:
    """Stochastic depth grows linearly from 0 in the first block to ``last`` in the last."""
    return [last * i / max(depth - 1, 1) for i in range(depth)]


@dataclass(frozen=True)
class TransformerSize(Storage):
    """What the sizes of all networks here have in common; further fields are those of `Storage`.

    Args:
        num_groups: G, patches of a cloud.
        group_size: K, points of a patch.
        dim: C, the width of the tokens.
        depth: blocks.
        num_heads: of each attention; a head has a whole number of channels.
        drop_path: stochastic depth of the last block; it grows from 0 in the first.
        near_origin: "skip" takes no patch around a point nearer than 0.03 to the origin, as the
            published networks did; "keep" takes all points alike.
    """

    num_groups: int = 64
    group_size: int = 32
    dim: int = 384
    depth: int = 12
    num_heads: int = 6
    drop_path: float = 0.1
    near_origin: NearOrigin = "keep"

    def __post_init__(self):
        super().__post_init__()
        check_choice(self, near_origin=get_args(NearOrigin))
        check_sizes(self)
        if self.dim % self.num_heads:
            raise UsageError(f"num_heads must divide dim={self.dim}, got {self.num_heads}")


@dataclass(frozen=True)
class PointTransformerConfig(TransformerSize):
    """The size of a plain point transformer; further fields are those of `TransformerSize`.

    Args:
        mlp_ratio: hidden units of an MLP to C.
        encoder_dim: what the patch encoder gives; a projection to C follows where they differ.
        encoder_widths: of the patch encoder's inner layers, the last of which is the second half's.
        class_token: whether a learned token stands in front of the patches.
        positions: "mlp" takes the patches' centers as they are (Point-MAE), "sincos" their sines
            and cosines (PCP-MAE).
    """

    mlp_ratio: int = 4
    encoder_dim: int = 384
    encoder_widths: tuple[int, ...] = (128, 256, 512)
    class_token: bool = True
    positions: Literal["mlp", "sincos"] = "mlp"

    def __post_init__(self):
        super().__post_init__()
        check_choice(self, positions=("mlp", "sincos"))
        if self.positions == "sincos" and self.dim % 6:
            raise UsageError(f"positions='sincos' needs a dim that 6 divides, got {self.dim}")

    def build(self) -> "PointTransformer":
        """The network, with fresh weights."""
        return PointTransformer(self)


class PointTransformer(nn.Module):
    """Point-MAE's network. Others are this one with a few parts changed.

    Args:
        config: Its size.
    """

    between_blocks = False  # whether anything happens there

    def __init__(self, config: PointTransformerConfig):
        super().__init__()
        self.config = config
        C = config.dim
        self.tokenizer = self._tokenizer()
        self.pos_embed = self._position_embedding()
        rates = drop_path_rates(config.drop_path, config.depth)
        self.blocks = BlockStack(self._block(rate) for rate in rates)
        self.norm = nn.LayerNorm(C)
        init_weights(self)
        self.cls_token, self.cls_pos = class_token(C) if config.class_token else (None, None)

    def _tokenizer(self, kind: type[Tokenizer] = Tokenizer) -> Tokenizer:
        config, C = self.config, self.config.dim
        encoder = PatchEncoder(3, config.encoder_widths, config.encoder_dim)
        project = nn.Identity() if config.encoder_dim == C else nn.Linear(config.encoder_dim, C)
        sizes = config.num_groups, config.group_size
        return kind(*sizes, encoder, project, config.near_origin)

    def _position_embedding(self) -> nn.Module:
        if self.config.positions == "sincos":
            return SinCosEmbedding(self.dim)
        return position_embedding(128, self.dim)

    def _block(self, drop_path: float) -> Block:
        config = self.config
        return Block(config.dim, config.num_heads, config.mlp_ratio, drop_path)

    @property
    def dim(self) -> int:
        """C, the width of the tokens that the head reads."""
        return self.config.dim

    def forward(self, points: Tensor, levels: Sequence[int] = (), **given: Tensor) -> Features:
        """Features of clouds [B, N, 3], and of the blocks of ``levels``."""
        groups = self.tokenizer.group(points)
        return self.forward_patches(groups.patches, groups.centers, levels, **given)

    def forward_patches(
        self, patches: Tensor, centers: Tensor, levels: Sequence[int] = (), **given: Tensor
    ) -> Features:
        """Features of patches [B, G, K, D] around their centers [B, G, 3].

        Args:
            patches: [B, G, K, D].
            centers: [B, G, 3].
            levels: Blocks whose tokens are wanted, too.
            given: What a method gives its own stack of blocks.
        """
        x = self.tokenizer.encode(patches)  # [B, G, C]
        positions = self.pos_embed(as_weights(centers, self))
        G = x.shape[1]
        x, positions = self._with_front(x, positions)
        x, kept = self._run_blocks(x, positions, levels=levels, centers=centers, **given)
        x = self._finish(x)
        return Features(
            cls=None if self.cls_token is None else x[:, self.num_class_tokens - 1],
            prompts=x[:, self.num_class_tokens : -G],
            patches=x[:, -G:],
            centers=centers,
            levels=tuple(self._finish(tokens[:, -G:]) for tokens in kept),
        )

    def _with_front(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens and positions with those in front of the patches."""
        if self.cls_token is None:
            return x, positions
        return in_front(self.cls_token, x), in_front(self.cls_pos, positions)

    def _run_blocks(
        self, x: Tensor, positions: Tensor, centers: Tensor, **given: object
    ) -> tuple[Tensor, list[Tensor]]:
        return self.blocks(x, positions, centers=centers, **given)

    def _finish(self, x: Tensor) -> Tensor:
        return self.norm(x)

    @property
    def head_tokens(self) -> tuple[str, ...]:
        """What the published classification heads read."""
        return ("cls", "patch:max") if self.num_class_tokens else ("patch:max",)

    @property
    def num_class_tokens(self) -> int:
        """How many tokens stand in front of the patches."""
        return 0 if self.cls_token is None else 1

    @property
    def tokenizers(self) -> list[Tokenizer]:
        """One a scale: here one."""
        return [self.tokenizer]

    @property
    def stacks(self) -> list[BlockStack]:
        """One a scale: here one."""
        return [self.blocks]


def in_front(token: Tensor, x: Tensor) -> Tensor:
    """The same token or tokens [1, T, C] in front of those of each cloud [B, G, C]."""
    return torch.cat([token.expand(x.shape[0], -1, -1), x], 1)


def class_token(dim: int) -> tuple[nn.Parameter, nn.Parameter]:
    """Token and position, the same in every process: Point-MAE's files hold none, and an adapter
    trained on a backbone must find the same backbone again. They exist even where the rest of a
    network is only planned (on the device "meta")."""
    generator = torch.Generator().manual_seed(0)
    token, position = (
        nn.init.trunc_normal_(torch.empty(1, 1, dim, device="cpu"), std=0.02, generator=generator)
        for _ in range(2)
    )
    return nn.Parameter(token), nn.Parameter(position)


def init_weights(network: nn.Module) -> None:
    """As the published networks start."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
