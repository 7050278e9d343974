"""Uni3D (ICLR 2024): colored patches through the blocks of an image transformer with up to a
billion weights.

It was trained on 10,000 points in the unit ball with colors from 0 to 1, or 0.4 for points without
color; its zero-shot benchmarks have y and z swapped.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from dapt.errors import UsageError
from dapt.models.blocks import Attention, Block, Mlp
from dapt.models.tokenizer import ColorTokenizer, PatchEncoder, position_embedding
from dapt.models.transformer import PointTransformer, TransformerSize

EPS = 1e-6  # of all norms


@dataclass(frozen=True)
class Uni3dConfig(TransformerSize):
    """The size of a Uni3D; other fields are those of `TransformerSize`.

    Args:
        hidden: The hidden width of an MLP.
        mlp: The kind of MLP: "gelu" (giant), "swiglu" (tiny and small), "swiglu_norm" (base and
            large).
        encoder_dim: The output width of the patch encoder.
        encoder_widths: The widths of the patch encoder's inner layers.
        embed_dim: The width of the space shared with images and text.
        embed: Whether to keep the projection to that space, which only `Uni3d.embed` needs.
    """

    class_token: ClassVar[bool] = True

    num_groups: int = 512
    group_size: int = 64
    drop_path: float = 0.0
    hidden: int = 1024
    mlp: Literal["gelu", "swiglu", "swiglu_norm"] = "swiglu"
    encoder_dim: int = 512
    encoder_widths: tuple[int, ...] = (128, 256, 512)
    embed_dim: int = 1024
    embed: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.mlp not in ("gelu", "swiglu", "swiglu_norm"):
            raise UsageError(f"mlp must be 'gelu', 'swiglu' or 'swiglu_norm', got {self.mlp!r}")

    def build(self) -> "Uni3d":
        """Build the network with fresh weights."""
        return Uni3d(self)


class Uni3d(PointTransformer):
    """Uni3D's encoder for points [B, N, 3] or, with colors from 0 to 1, [B, N, 6].

    Positions are added once, before the first block.

    Args:
        config: The size of the network.
    """

    def __init__(self, config: Uni3dConfig):
        super().__init__(config)
        self.norm = nn.LayerNorm(config.dim, EPS)
        self.embedding = nn.Linear(config.dim, config.embed_dim) if config.embed else None

    def embed(self, points: Tensor) -> Tensor:  # [B, N, 3] or [B, N, 6] -> [B, embed_dim]
        """Embed clouds in the space shared with images and text.

        Args:
            points: [B, N, 3] or, with colors, [B, N, 6].
        """
        if self.embedding is None:
            raise UsageError(
                "the projection to the shared space was not kept: create uni3d with embed=True"
            )
        return self.embedding(self(points).cls)

    def _tokenizer(self) -> ColorTokenizer:
        config = self.config
        encoder = PatchEncoder(6, config.encoder_widths, config.encoder_dim)
        project = nn.Linear(config.encoder_dim, config.dim)
        sizes = config.num_groups, config.group_size
        return ColorTokenizer(*sizes, encoder, project, config.near_origin)

    def _position_embedding(self) -> nn.Module:
        return position_embedding(128, self.dim)

    def _block(self, drop_path: float) -> Block:
        config = self.config
        # The published attention has no bias for the keys. Ours starts at zero and has no effect:
        # it adds the same value to all scores of a query.
        attn = Attention(config.dim, config.num_heads, qkv_bias=True)
        if config.mlp == "gelu":
            mlp = Mlp(config.dim, config.hidden)
        else:
            mlp = GatedMlp(config.dim, config.hidden, norm=config.mlp == "swiglu_norm")
        return Block(config.dim, config.num_heads, drop_path=drop_path, attn=attn, mlp=mlp, eps=EPS)

    def _with_front(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        x, positions = super()._with_front(x, positions)
        return x + positions, positions.new_zeros(1).expand_as(positions)


class GatedMlp(Mlp):
    """fc2(norm(SiLU(a) * b)), where [a, b] = fc1(x).

    Args:
        dim: C, the width of the tokens.
        hidden: The width after the gate.
        norm: Whether a LayerNorm follows the gate.
    """

    def __init__(self, dim: int, hidden: int, norm: bool):
        super().__init__(dim, hidden)
        self.fc1 = nn.Linear(dim, 2 * hidden)
        self.act = Gate()
        self.norm = nn.LayerNorm(hidden, EPS) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.norm(self.act(self.fc1(x))))


class Gate(nn.Module):
    """SiLU of the first half, times the second."""

    def forward(self, x: Tensor) -> Tensor:  # [..., 2 H] -> [..., H]
        gate, value = x.chunk(2, dim=-1)
        return F.silu(gate) * value
