"""The backbone's frozen blocks, run the way a method needs."""

from abc import abstractmethod
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from dapt.models.blocks import After, BlockStack, in_turn

Step = Callable[[int, nn.Module, Tensor], Tensor]  # a block's number, the block, its tokens


class FrozenStack(nn.Module):
    """A stack that replaces the backbone's and does what a method needs around its frozen blocks.

    Args:
        frozen: The backbone's blocks.
    """

    def __init__(self, frozen: BlockStack):
        super().__init__()
        self.frozen = frozen

    def __len__(self) -> int:
        return len(self.frozen)

    @abstractmethod
    def start(
        self, x: Tensor, positions: Tensor, mask: Tensor | None, centers: Tensor, **given: Tensor
    ) -> tuple[Tensor, Step]:
        """Return the tokens before the first block, and the function that runs a block.

        Args:
            x: [B, T, C].
            positions: [B, T, C].
            mask: Which tokens attend to each other.
            centers: The patches' centers [B, G, 3].
            given: Further arguments that the method passes to its stack.
        """

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        mask: Tensor | None = None,
        levels: Sequence[int] = (),
        centers: Tensor | None = None,
        after: After | None = None,
        **given: Tensor,
    ) -> tuple[Tensor, list[Tensor]]:
        x, step = self.start(x, positions, mask, centers, **given)
        return in_turn(self.frozen, step, x, levels, after)
