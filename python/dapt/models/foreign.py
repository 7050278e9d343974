"""Transformers of other libraries as backbones: any blocks that are built like timm's.

A block needs ``norm1, attn, norm2, mlp``, where ``attn`` has ``qkv, proj, num_heads`` and ``mlp``
has ``fc1, act, fc2`` (timm) or ``lins`` and ``act`` (torch-pointcloud); the layer scales
``ls1, ls2`` are optional. The layers are shared with the network they come from, not copied.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dapt.errors import UsageError
from dapt.models.blocks import Block, BlockStack
from dapt.models.tokenizer import PatchEncoder, Tokenizer
from dapt.models.transformer import PointTransformer


@dataclass(frozen=True)
class VitConfig:
    """What an adapter file records about a `VitBackbone`.

    Args:
        num_groups: G, the number of patches per cloud.
        group_size: K, the number of points per patch.
        dim: C, the width of the tokens.
        depth: The number of blocks.
        num_heads: The number of heads of each attention.
        positions_once: Whether positions are added only before the first block.
    """

    class_token: ClassVar[bool] = False
    compressed: ClassVar[None] = None

    num_groups: int
    group_size: int
    dim: int
    depth: int
    num_heads: int
    positions_once: bool


class VitBackbone(PointTransformer):
    """A backbone made of another library's blocks.

    Args:
        blocks: The blocks, in order.
        tokenizer: Turns points into tokens.
        pos_embed: Maps the patches' centers [B, G, 3] to positions [B, G, C].
        norm: The final norm; a LayerNorm without weights by default.
        cls_token: A class token [1, 1, C] in front of the patches, or None.
        cls_pos: Its position [1, 1, C]; zeros by default.
        positions_once: Whether positions are added only before the first block; Point-MAE adds
            them before every block.
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        tokenizer: Tokenizer,
        pos_embed: nn.Module,
        norm: nn.Module | None = None,
        cls_token: nn.Parameter | None = None,
        cls_pos: nn.Parameter | None = None,
        positions_once: bool = True,
    ):
        nn.Module.__init__(self)
        self.tokenizer = tokenizer
        self.pos_embed = pos_embed
        self.blocks = BlockStack(_block_of(block, i) for i, block in enumerate(blocks))
        if not len(self.blocks):
            raise UsageError("blocks must hold at least one block, got none")
        first = self.blocks[0]
        self.norm = nn.LayerNorm(first.dim, elementwise_affine=False) if norm is None else norm
        self.cls_token = cls_token
        self.cls_pos = cls_pos
        if cls_token is not None and cls_pos is None:
            self.cls_pos = nn.Parameter(torch.zeros_like(cls_token))
        self.config = VitConfig(
            tokenizer.num_groups,
            tokenizer.group_size,
            first.dim,
            len(self.blocks),
            first.attn.num_heads,
            positions_once,
        )

    @classmethod
    def of_torch_pointcloud(cls, model: nn.Module) -> "VitBackbone":
        """Wrap a classifier of the package torch-pointcloud, without its head.

        Args:
            model: A model like PointMAEClassification for points without features
                (`in_channels` 0). Its layers are shared, not copied.
        """
        names = ("encoder", "blocks", "norm_f", "pos_embed", "cls_token", "cls_pos", "num_groups")
        for name in (*names, "group_size"):
            if getattr(model, name, None) is None:
                raise UsageError(f"a {type(model).__name__} has no '{name}': it is not a Point-MAE")
        encoder = _encoder_of(model.encoder)
        tokenizer = Tokenizer(model.num_groups, model.group_size, encoder, nn.Identity())
        return cls(
            list(model.blocks.blocks),
            tokenizer,
            model.pos_embed,
            model.norm_f,
            model.cls_token,
            model.cls_pos,
            positions_once=False,
        )

    def _with_front(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        x, positions = super()._with_front(x, positions)
        if not self.config.positions_once:
            return x, positions
        return x + positions, positions.new_zeros(1).expand_as(positions)


def _encoder_of(theirs: nn.Module) -> PatchEncoder:
    """Our encoder with the layers of a torch-pointcloud PointPatchEmbed."""
    halves = theirs.local_mlp, theirs.global_mlp
    first, second = ([_linear(layer) for layer in half.lins] for half in halves)
    if first[0].in_features != 3 or len(first) != 2 or len(second) != 2:
        raise UsageError(
            "the patch encoder must read coordinates only, with two layers in each half, got "
            f"{first[0].in_features} channels with {len(first)} and {len(second)} layers"
        )
    widths = (first[0].out_features, first[1].out_features, second[0].out_features)
    with torch.device("meta"):  # every layer of this shell is replaced
        encoder = PatchEncoder(3, widths, second[1].out_features)
    for ours, layers, half in zip(
        (encoder.first, encoder.second), (first, second), halves, strict=True
    ):
        ours[0], ours[1], ours[3] = layers[0], half.norms[0].module, layers[1]
    return encoder


def _linear(theirs: nn.Module) -> nn.Linear:
    """A torch Linear on the weights of a torch-geometric Linear, which is a class of its own."""
    if isinstance(theirs, nn.Linear):
        return theirs
    rows, columns = theirs.weight.shape
    layer = nn.Linear(columns, rows, theirs.bias is not None, "meta")
    layer.weight, layer.bias = theirs.weight, theirs.bias
    return layer


def _block_of(block: nn.Module, number: int) -> Block:
    """Our block with the layers of another library's block."""
    norm1, norm2 = _part(block, number, "norm1"), _part(block, number, "norm2")
    theirs, mlp = _part(block, number, "attn"), _part(block, number, "mlp")
    qkv, proj = _part(theirs, number, "qkv"), _part(theirs, number, "proj")
    for name in ("q_norm", "k_norm"):
        if not isinstance(getattr(theirs, name, None), nn.Identity | None):
            raise UsageError(f"block {number}: attention with a {name} is not supported")
    lins = getattr(mlp, "lins", None)
    fc1, fc2 = (mlp.fc1, mlp.fc2) if lins is None else map(_linear, lins)
    act = _part(mlp, number, "act")
    dim = qkv.in_features
    if fc1.out_features != fc2.in_features:
        raise UsageError(f"block {number}: a gated MLP is not supported")

    with torch.device("meta"):  # every layer of this shell is replaced
        ours = Block(dim, _part(theirs, number, "num_heads"))
    ours.norm1, ours.norm2 = norm1, norm2
    ours.attn.qkv, ours.attn.proj = qkv, proj
    ours.mlp.fc1, ours.mlp.fc2 = fc1, fc2
    ours.mlp.act = act if isinstance(act, nn.Module) else _Function(act)
    ours.attn.gamma = getattr(getattr(block, "ls1", None), "gamma", None)
    ours.mlp.gamma = getattr(getattr(block, "ls2", None), "gamma", None)
    return ours


class _Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def _part(module: nn.Module, number: int, name: str) -> nn.Module | int:
    part = getattr(module, name, None)
    if part is None:
        raise UsageError(f"block {number}: its {type(module).__name__} has no '{name}'")
    return part
