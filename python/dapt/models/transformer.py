"""The plain point transformer of Point-MAE, Point-BERT, ACT and ReCon."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from dapt.errors import UsageError, check_at_least, check_choice, check_sizes
from dapt.models.blocks import Block, BlockStack, drop_path_rates, init_weights
from dapt.models.compression import Storage
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

    def of_cloud(self, number: int) -> "Features":
        """Those of one cloud, as a batch of one.

        Args:
            number: The number of the cloud.
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
    """What the sizes of all networks here have in common; further fields are those of `Storage`.

    Args:
        num_groups: G, patches of a cloud.
        group_size: K, points of a patch.
        dim: C, the width of the tokens.
        depth: Blocks.
        num_heads: The number of heads of each attention; a head has a whole number of channels.
        drop_path: Stochastic depth of the last block; it grows from 0 in the first.
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
        mlp_ratio: Hidden units of an MLP to C.
        encoder_dim: What the patch encoder gives; a projection to C follows where they differ.
        encoder_widths: of the patch encoder's inner layers, the last of which is the second half's.
        class_token: Whether a learned token stands in front of the patches.
        positions: "mlp" takes the patches' centers as they are (Point-MAE), "sincos" their sines
            and cosines (PCP-MAE).
        in_channels: Numbers of a point that the patch encoder reads, three of them its place. Of
            weights for places alone the columns of the others are zero: the network is the same
            until they train, which they do with `full`, `ppt` and `point_lora`.
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
    """Put the same tokens in front of those of each cloud.

    Args:
        token: [1, T, C].
        x: [B, G, C].
    """
    return torch.cat([token.expand(x.shape[0], -1, -1), x], 1)


def class_token(dim: int) -> tuple[nn.Parameter, nn.Parameter]:
    """A fresh class token and its position, each [1, 1, C], the same in every process.

    Point-MAE's files hold none, and an adapter trained on a backbone must find the same backbone
    again. They exist even where the rest of a network is only planned (on the device "meta").

    Args:
        dim: C, the width of the tokens.
    """
    generator = torch.Generator().manual_seed(0)
    token, position = (
        nn.init.trunc_normal_(torch.empty(1, 1, dim, device="cpu"), std=0.02, generator=generator)
        for _ in range(2)
    )
    return nn.Parameter(token), nn.Parameter(position)
