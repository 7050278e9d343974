"""ReCon++ (ECCV 2024): a stream of patches, and queries that attend to them.

There are two kinds of published files. *Hybrid* (1,024 points): patches in the order of a walk,
with causal attention behind a start token; the last patch is never read. *OpenShape* (10,000 points
with color): patches in any order that all attend to each other, with positions from an MLP.
`ReconPpConfig.fitted` tells them apart, and finds what the published classifiers leave out.
"""

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dapt.errors import UsageError
from dapt.models.blocks import Attention, Block, Mlp, init_weights
from dapt.models.drop_path import add_branch, drop_path_factor, drop_path_rates
from dapt.models.tokenizer import (
    ColorTokenizer,
    PatchEncoder,
    Tokenizer,
    WalkPositions,
    WalkTokenizer,
    as_weights,
    position_embedding,
)
from dapt.models.transformer import (
    Features,
    PointTransformer,
    TransformerSize,
    class_token,
    in_front,
)
from dapt.models.weight_files import State


@dataclass(frozen=True)
class ReconPpConfig(TransformerSize):
    """The size of a ReCon++; other fields are those of `TransformerSize`.

    Args:
        mlp_ratio: The ratio of an MLP's hidden width to C.
        encoder_widths: The widths of the patch encoder's inner layers; the last one belongs to its
            second half.
        image_queries: The number of queries that the pre-training supervised with images.
        text_queries: The number of queries that the pre-training supervised with texts.
        causal: Whether the patches form hybrid's causal stream rather than OpenShape's.
        color: Whether points have a color.
        layer_scale: Whether each half of a block has a learned factor per channel.
    """

    class_token: ClassVar[bool] = False  # none in the stream of patches: it is one of the queries

    drop_path: float = 0.2
    mlp_ratio: int = 4
    encoder_widths: tuple[int, ...] = (128, 256, 512)
    image_queries: int = 13
    text_queries: int = 3
    causal: bool = True
    color: bool = False
    layer_scale: bool = False

    def __post_init__(self):
        super().__post_init__()
        for name in ("image_queries", "text_queries"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, got {getattr(self, name)}")

    def fitted(self, state: State, given: Collection[str] = ()) -> "ReconPpConfig":
        """Adapt this config to the tensors of a file, except for the fields that were given.

        Args:
            state: The tensors of the file.
            given: The names of the fields to keep.
        """
        keys = {key.removeprefix("model."): key for key in state}
        queries = state[keys["global_query"]].shape[1] if "global_query" in keys else 16
        told: dict[str, object] = {
            # hybrid has 10 image queries and 1 text query, OpenShape 13 and 3
            "text_queries": 1 if queries == 11 else 3,
            "image_queries": queries - (1 if queries == 11 else 3),
            "causal": "encoder.sos" in keys,
            "layer_scale": "encoder.blocks.local_blocks.0.ls1.gamma" in keys,
        }
        first = keys.get("embed.first_conv.0.weight")
        if first is not None:
            told["color"] = state[first].shape[1] == 6
            layers = ("first_conv.0", "first_conv.3", "first_conv.6", "second_conv.0")
            names = [keys.get(f"embed.{layer}.weight") for layer in layers]
            told["encoder_widths"] = tuple(state[name].shape[0] for name in names if name)
        return dataclasses.replace(self, **{k: v for k, v in told.items() if k not in given})

    def build(self) -> "ReconPp":
        """Build the network with fresh weights."""
        return ReconPp(self)


class ReconPp(PointTransformer):
    """ReCon++'s encoder. The class token is the last of the queries and attends to all patches.

    Args:
        config: The size of the network.
    """

    between_blocks = True

    def __init__(self, config: ReconPpConfig):
        super().__init__(config)
        C = config.dim
        self.start_token = self.start_pos = None
        if config.causal:
            self.start_token = nn.Parameter(torch.empty(1, 1, C))
            self.start_pos = nn.Parameter(torch.empty(1, 1, C))
            nn.init.trunc_normal_(self.start_token, std=0.02)
            nn.init.trunc_normal_(self.start_pos, std=0.02)
        self.queries = nn.Parameter(torch.empty(1, config.image_queries + config.text_queries, C))
        nn.init.trunc_normal_(self.queries, std=0.02)
        rates = drop_path_rates(config.drop_path, config.depth)
        self.query_blocks = nn.ModuleList(QueryBlock(config, rate) for rate in rates)
        self.query_norm = nn.LayerNorm(C)
        init_weights(self.query_blocks)
        self.cls_token, _ = class_token(C)

    def _tokenizer(self) -> Tokenizer:
        config = self.config
        if config.causal and config.color:
            raise UsageError("recon_pp: color is OpenShape's, so it needs causal=False")
        encoder = PatchEncoder(6 if config.color else 3, config.encoder_widths, config.dim)
        kind = WalkTokenizer if config.causal else ColorTokenizer if config.color else Tokenizer
        sizes = config.num_groups, config.group_size
        return kind(*sizes, encoder, nn.Identity(), config.near_origin)

    def _position_embedding(self) -> nn.Module:
        if self.config.causal:
            return WalkPositions(self.dim)
        return position_embedding(128, self.dim)

    def _block(self, drop_path: float) -> Block:
        config = self.config
        scaled = {"layer_scale": config.layer_scale}
        return Block(
            config.dim,
            config.num_heads,
            drop_path=drop_path,
            attn=Attention(
                config.dim, config.num_heads, qkv_bias=True, causal=config.causal, **scaled
            ),
            mlp=Mlp(config.dim, config.mlp_ratio * config.dim, **scaled),
        )

    @property
    def num_class_tokens(self) -> int:
        """The number of tokens in front of the patches."""
        return 1 if self.config.causal else 0

    @property
    def head_tokens(self) -> tuple[str, ...]:
        """What the published classification head reads."""
        patches = "start|patch:max" if self.config.causal else "patch:max"
        return ("cls", "image:max", "text:max", patches)

    def forward_patches(
        self, patches: Tensor, centers: Tensor, levels: Sequence[int] = (), **given: Tensor
    ) -> Features:
        """Features of patches [B, G, K, D] around their centers [B, G, 3]."""
        if self.config.causal:  # as published: the walk's last patch only served as a target
            patches, centers = patches[:, :-1], centers[:, :-1]
        x = self.tokenizer.encode(patches)  # [B, G, C]
        positions = self.pos_embed(as_weights(centers, self))
        G, front = x.shape[1], self.num_class_tokens
        if front:
            x = in_front(self.start_token, x)
            positions = in_front(self.start_pos, positions)
        queries = in_front(self.queries, self.cls_token.expand(x.shape[0], -1, -1))
        asking = Asking(self.query_blocks, queries)
        x, kept = self.blocks(x, positions, levels=levels, centers=centers, after=asking, **given)
        x, queries = self.norm(x), self.query_norm(asking.queries)
        image, text, cls = queries.split(
            [self.config.image_queries, self.config.text_queries, 1], 1
        )
        return Features(
            cls=cls[:, 0],
            prompts=x[:, front:-G],
            patches=x[:, -G:],
            centers=centers,
            levels=tuple(self.norm(tokens[:, -G:]) for tokens in kept),
            start=x[:, 0] if front else None,
            image=image,
            text=text,
        )


class Asking:
    """Runs after each block: the queries attend to the tokens, which stay unchanged.

    Args:
        blocks: One `QueryBlock` for each block of the backbone.
        queries: The queries [B, Q, C].
    """

    def __init__(self, blocks: nn.ModuleList, queries: Tensor):
        self.blocks = blocks
        self.queries = queries  # [B, Q, C]

    def __call__(self, i: int, x: Tensor) -> Tensor:
        self.queries = self.blocks[i](self.queries, x)
        return x


class QueryBlock(nn.Module):
    """Cross-attention from queries to tokens, then an MLP. Queries and tokens share a norm.

    Args:
        config: The settings of the network.
        drop_path: The drop-path rate of this block.
    """

    def __init__(self, config: ReconPpConfig, drop_path: float):
        super().__init__()
        C = config.dim
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(C)
        self.attn = CrossAttention(C, config.num_heads, config.layer_scale)
        self.norm2 = nn.LayerNorm(C)
        self.mlp = Mlp(C, config.mlp_ratio * C, config.layer_scale)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:  # [B, Q, C], [B, T, C]
        seen = self.attn(self.norm1(queries), self.norm1(tokens))
        queries = add_branch(queries, seen, self._path_factor(queries))
        return add_branch(queries, self.mlp(self.norm2(queries)), self._path_factor(queries))

    def _path_factor(self, x: Tensor) -> Tensor | None:
        return drop_path_factor(x, self.drop_path, self.training)


class CrossAttention(nn.Module):
    """Attention from queries to tokens.

    Args:
        dim: C, the width of queries and tokens.
        num_heads: The number of heads; must divide C.
        layer_scale: Whether the output has a learned factor per channel.
    """

    def __init__(self, dim: int, num_heads: int, layer_scale: bool):
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.gamma = nn.Parameter(torch.ones(dim)) if layer_scale else None

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        q = self.q(queries).unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # [B, H, Q, D]
        kv = self.kv(tokens).unflatten(2, (2, self.num_heads, -1))
        k, v = kv.permute(2, 0, 3, 1, 4)  # [B, H, T, D]
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        out = self.proj(out)
        return out if self.gamma is None else self.gamma * out
