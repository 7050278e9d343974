"""The plain point transformer of Point-MAE, Point-BERT, ACT and ReCon."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from dapt.errors import UsageError, check_at_least, check_choice, check_sizes
from dapt.models.blocks import Block, BlockStack, init_weights
from dapt.models.compression import Storage
from dapt.models.drop_path import drop_path_rates
from dapt.models.tokenizer import (
    ChannelTokenizer,
    NearOrigin,
    PatchEncoder,
    SinCosEmbedding,
    Tokenizer,
    as_weights,
    position_embedding,
)


class Features(NamedTuple):
    """The output of a backbone for a batch of clouds, after its final norm.

    Args:
        cls: The class token [B, C]; None if the network has none.
        prompts: Tokens inserted by blocks [B, P, C]; P = 0 in the pre-trained network.
        patches: The tokens of the patches [B, G, C].
        centers: The centers of the patches [B, G, 3].
        levels: The patches after each of the requested blocks, each [B, G, C].
        start: The start token in front of causal patches [B, C].
        image: Queries supervised with images in the pre-training [B, I, C].
        text: Queries supervised with texts in the pre-training [B, T, C].
    """

    cls: Tensor | None  # [B, C]
    prompts: Tensor  # [B, P, C]
    patches: Tensor  # [B, G, C]
    centers: Tensor  # [B, G, 3]
    levels: tuple[Tensor, ...] = ()  # each [B, G, C]
    start: Tensor | None = None  # [B, C]
    image: Tensor | None = None  # [B, I, C]
    text: Tensor | None = None  # [B, T, C]

    def of_cloud(self, number: int) -> "Features":
        """The features of one cloud, as a batch of one.

        Args:
            number: The index of the cloud in the batch.
        """
        row = slice(number, number + 1)
        levels = tuple(level[row] for level in self.levels)
        taken = {
            name: each[row] for name, each in self._asdict().items() if isinstance(each, Tensor)
        }
        return self._replace(levels=levels, **taken)

    @property
    def patch_mean(self) -> Tensor:  # [B, C]
        """The mean over the patches."""
        return self.patches.mean(1)

    @property
    def patch_max(self) -> Tensor:  # [B, C]
        """The maximum over the patches."""
        return self.patches.amax(1)


@dataclass(frozen=True)
class TransformerSize(Storage):
    """The fields that all transformer sizes share; other fields are those of `Storage`.

    Args:
        num_groups: G, the number of patches per cloud.
        group_size: K, the number of points per patch.
        dim: C, the width of the tokens.
        depth: The number of blocks.
        num_heads: The number of heads of each attention; must divide C.
        drop_path: The drop-path rate of the last block; rates grow linearly from 0 in the first.
        near_origin: "skip" centers no patch on a point within 0.03 of the origin, as the
            published networks do; "keep" samples all points.
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
    """The size of a plain point transformer; other fields are those of `TransformerSize`.

    Args:
        mlp_ratio: The ratio of an MLP's hidden width to C.
        encoder_dim: The output width of the patch encoder; a projection follows if it is not C.
        encoder_widths: The widths of the patch encoder's inner layers; the last one belongs to its
            second half.
        class_token: Whether a learned class token stands in front of the patches.
        positions: Whether positions are computed from the patches' centers ("mlp", Point-MAE) or
            from sines and cosines of them ("sincos", PCP-MAE).
        in_channels: The number of channels per point that the patch encoder reads, the three
            coordinates included. Weights pre-trained on coordinates get zero columns for the extra
            channels, so the network is the same until these train, which they do with `full`,
            `ppt` and `point_lora`.
    """

    mlp_ratio: int = 4
    encoder_dim: int = 384
    encoder_widths: tuple[int, ...] = (128, 256, 512)
    class_token: bool = True
    positions: Literal["mlp", "sincos"] = "mlp"
    in_channels: int = 3

    def __post_init__(self):
        super().__post_init__()
        check_at_least(self, in_channels=3)
        check_choice(self, positions=("mlp", "sincos"))
        if self.positions == "sincos" and self.dim % 6:
            raise UsageError(f"positions='sincos' needs a dim divisible by 6, got {self.dim}")

    def build(self) -> "PointTransformer":
        """Build the network with fresh weights."""
        return PointTransformer(self)


class PointTransformer(nn.Module):
    """Point-MAE's network, which other networks subclass to change a few parts.

    Args:
        config: The size of the network.
    """

    between_blocks = False

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
        if config.in_channels > 3:
            if type(self) is not PointTransformer:
                raise UsageError(
                    "in_channels: this network reads coordinates only; point_mae supports more"
                )
            kind = ChannelTokenizer
        encoder = PatchEncoder(config.in_channels, config.encoder_widths, config.encoder_dim)
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
        """Features of clouds [B, N, 3], and the patches after the blocks ``levels``."""
        groups = self.tokenizer.group(points)
        return self.forward_patches(groups.patches, groups.centers, levels, **given)

    def forward_patches(
        self, patches: Tensor, centers: Tensor, levels: Sequence[int] = (), **given: Tensor
    ) -> Features:
        """Features of patches [B, G, K, D] around their centers [B, G, 3].

        Args:
            patches: [B, G, K, D].
            centers: [B, G, 3].
            levels: The blocks whose tokens to return, too.
            given: Arguments that a method passes to its own stack of blocks.
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
        """Prepend the tokens and positions that go in front of the patches."""
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
        """The number of tokens in front of the patches."""
        return 0 if self.cls_token is None else 1

    @property
    def tokenizers(self) -> list[Tokenizer]:
        """One per scale; this network has a single scale."""
        return [self.tokenizer]

    @property
    def stacks(self) -> list[BlockStack]:
        """One per scale; this network has a single scale."""
        return [self.blocks]


def in_front(token: Tensor, x: Tensor) -> Tensor:
    """Prepend the same tokens to those of each cloud.

    Args:
        token: The tokens to prepend [1, T, C].
        x: The tokens of the clouds [B, G, C].
    """
    return torch.cat([token.expand(x.shape[0], -1, -1), x], 1)


def class_token(dim: int) -> tuple[nn.Parameter, nn.Parameter]:
    """Create a class token and its position, each [1, 1, C], the same in every process.

    Point-MAE's files contain none, and an adapter must find the same backbone that it was trained
    on. Both are real tensors even if the rest of the network is on the device "meta".

    Args:
        dim: C, the width of the tokens.
    """
    generator = torch.Generator().manual_seed(0)
    token, position = (
        nn.init.trunc_normal_(torch.empty(1, 1, dim, device="cpu"), std=0.02, generator=generator)
        for _ in range(2)
    )
    return nn.Parameter(token), nn.Parameter(position)
