"""The backbone's blocks, run the way of a method."""

from abc import abstractmethod
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from dapt.models.blocks import After, BlockStack, in_turn

Step = Callable[[int, nn.Module, Tensor], Tensor]  # a block's number, the block, its tokens


class FrozenStack(nn.Module):
    """Frozen blocks in the place of the backbone's, with what a method does around them.

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
        """The tokens before the first block, and what runs one of the blocks.

        Args:
            x: [B, T, C].
            positions: [B, T, C].
            mask: Which tokens see each other.
            centers: [B, G, 3], of the patches.
            given: What the method gives its stack beside that, by name.
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
