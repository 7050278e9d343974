"""Parallel adapters with a fixed scale: DAPT's adapter without its dynamic scale."""

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor, nn

from dapt.errors import UsageError
from dapt.methods.bottleneck import Bottleneck
from dapt.methods.method import Method, register
from dapt.methods.replacements import Replacements, own_class_token
from dapt.models.blocks import Block


@register("adapter")
@dataclass(frozen=True)
class Adapter(Method):
    """A bottleneck beside each MLP, the same for every token.

    Args:
        rank: Hidden units per bottleneck.
        scale: The factor of its output.
        dropout: The dropout rate inside it.
    """

    packs: ClassVar[bool] = True

    rank: int = 64
    scale: float = 0.1
    dropout: float = 0.1

    def __post_init__(self):
        if not 1 <= self.rank <= 256:
            raise UsageError(f"rank must be from 1 to 256, got {self.rank}")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"dropout must be at least 0 and below 1, got {self.dropout}")

    def kin(self) -> "Adapter":
        return replace(self, dropout=0.0)

    def owns(self, entry: str) -> bool:
        return not {"adapter", "cls_token", "cls_pos"}.isdisjoint(entry.split("."))

    def wrap(self, backbone: nn.Module, replacements: Replacements) -> None:
        own_class_token(backbone, replacements)
        for stack in backbone.stacks:
            for i, block in enumerate(list(stack)):
                adapter = Bottleneck(
                    block.dim, self.rank, scale=self.scale, dropout=self.dropout, normalize=True
                )
                replacements.put(stack, str(i), AdapterBlock(block, adapter))


class AdapterBlock(nn.Module):
    """A frozen block with an adapter beside its MLP.

    Args:
        frozen: The backbone's block.
        adapter: The adapter beside its MLP.
    """

    def __init__(self, frozen: Block, adapter: Bottleneck):
        super().__init__()
        self.dim = frozen.dim
        self.frozen = frozen
        self.adapter = adapter

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.transform(self.attend(self.place(x, positions), mask))

    def place(self, x: Tensor, positions: Tensor) -> Tensor:
        """As in the frozen block."""
        return self.frozen.place(x, positions)

    def attend(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The first half of the frozen block."""
        return self.frozen.attend(x, mask, self.frozen.path_factor(x))

    def transform(self, x: Tensor) -> Tensor:
        """The second half, with the adapter beside the MLP."""
        u = self.frozen.norm2(x)
        return self.adapter(u, self.frozen.mlp(u), x, self.frozen.path_factor(x))
