"""The contracts between networks and what is built on them, written down in code.

A method is given a `Backbone` and relies on nothing else of it; a task's `Head` is given
`Features`. Any module that offers these can be adapted, whoever made it: `missing` tells what it
lacks.
"""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn

import dapt_ext
from dapt.models.blocks import BlockStack
from dapt.models.transformer import Features


class Tokenizer(Protocol):
    """Points to patches, patches to tokens."""

    num_groups: int  # G
    group_size: int  # K
    project: nn.Module  # the last layer, an identity where there is none

    @property
    def dim(self) -> int:
        """C, the width of the tokens."""

    @property
    def in_channels(self) -> int:
        """Numbers of a point that are read, three of them its place."""

    def group(
        self, points: Tensor, num_groups: int | None = None, group_size: int | None = None
    ) -> dapt_ext.Groups:
        """Patches [B, G, K, D] around centers [B, G, 3].

        Args:
            points: [B, N, D].
            num_groups: G; None for the tokenizer's own.
            group_size: K; None for the tokenizer's own.
        """

    def encode(self, patches: Tensor) -> Tensor:
        """Tokens [B, G, C].

        Args:
            patches: [B, G, K, D].
        """


class Block(Protocol):
    """One block of a transformer, in two halves that each go round a norm."""

    dim: int
    drop_path: float
    norm1: nn.Module
    attn: nn.Module  # with linear layers `qkv` and `proj`; `mixed` and `scaled` between and after
    norm2: nn.Module
    mlp: nn.Module  # with linear layers `fc1` and `fc2`, and `act` between them

    def __call__(self, x: Tensor, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        """Tokens [B, T, C] without their positions to tokens."""

    def attend(self, x: Tensor, mask: Tensor | None = None, factor: Tensor | None = None) -> Tensor:
        """The first half.

        Args:
            x: [B, T, C], tokens that have their positions.
            mask: Which tokens attend to each other.
            factor: drop-path's, [B].
        """

    def transform(self, x: Tensor) -> Tensor:
        """The second half.

        Args:
            x: [B, T, C].
        """

    def path_factor(self, x: Tensor) -> Tensor | None:
        """Drop-path's factor of a half, [B]; None where nothing is dropped.

        Args:
            x: [B, T, C], for its batch size, dtype and device.
        """


class Backbone(Protocol):
    """A network from points to features. Its `config` is a dataclass that tells its size."""

    config: object
    norm: nn.Module  # the last one, of what the head reads
    between_blocks: bool  # whether it does something after its blocks, by their stack's `after`
    head_tokens: tuple[str, ...]  # what the published classification head reads
    num_class_tokens: int  # tokens that stand in front of the patches

    @property
    def dim(self) -> int:
        """C, the width of the tokens that the head reads."""

    @property
    def tokenizers(self) -> Sequence[Tokenizer]:
        """One a scale."""

    @property
    def stacks(self) -> Sequence[BlockStack]:
        """One a scale; a method puts its own in the place of a block or of a whole stack."""

    def __call__(self, points: Tensor, levels: Sequence[int] = (), **given: Tensor) -> Features:
        """Features of clouds [B, N, D], and of the last stack's blocks of ``levels``.

        What else a method gives goes to the stack that it put in place.
        """


class Head(Protocol):
    """Features to the output of a task."""

    levels: Sequence[int]  # blocks whose tokens are read, too

    def __call__(self, features: Features, points: Tensor, *inputs: Tensor) -> Tensor:
        """``inputs`` are what the task gives beside the features and the points."""


def missing(candidate: object, protocol: type) -> list[str]:
    """The names that a protocol asks for and a candidate lacks.

    Args:
        candidate: a module, say.
        protocol: a class of this file.
    """
    names = [*protocol.__annotations__, *vars(protocol)]
    wanted = (name for name in names if name == "__call__" or not name.startswith("_"))
    return [name for name in wanted if not hasattr(candidate, name)]
