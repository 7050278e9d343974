"""The contracts between networks and what is built on them, as protocols.

A method receives a `Backbone` and relies on nothing beyond this protocol; a task's `Head` receives
`Features`. Any module that implements the protocol can be adapted; `missing` lists what it lacks.
"""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn

import dapt_ext
from dapt.models.blocks import BlockStack
from dapt.models.transformer import Features


class Tokenizer(Protocol):
    """Turns points into patches, and patches into tokens."""

    num_groups: int  # G
    group_size: int  # K
    project: nn.Module  # the last layer, or an identity

    @property
    def dim(self) -> int:
        """C, the width of the tokens."""

    @property
    def in_channels(self) -> int:
        """The number of channels per point that are read, the three coordinates included."""

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
    """One transformer block, in two halves that each start with a norm."""

    dim: int
    drop_path: float
    norm1: nn.Module
    attn: nn.Module  # with linear layers `qkv` and `proj`; `mixed` and `scaled` between and after
    norm2: nn.Module
    mlp: nn.Module  # with linear layers `fc1` and `fc2`, and `act` between them

    def __call__(self, x: Tensor, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        """Transform tokens [B, T, C] that do not have their positions added yet."""

    def attend(self, x: Tensor, mask: Tensor | None = None, factor: Tensor | None = None) -> Tensor:
        """The first half.

        Args:
            x: Tokens with their positions added [B, T, C].
            mask: Which tokens attend to each other.
            factor: The drop-path factor [B].
        """

    def transform(self, x: Tensor) -> Tensor:
        """The second half.

        Args:
            x: Tokens [B, T, C].
        """

    def path_factor(self, x: Tensor) -> Tensor | None:
        """The drop-path factor [B] of a half; None if nothing is dropped.

        Args:
            x: Tokens [B, T, C], of which only batch size, dtype and device are used.
        """


class Backbone(Protocol):
    """A network from points to features, whose `config` is a dataclass of its size."""

    config: object
    norm: nn.Module  # the final norm
    between_blocks: bool  # whether it passes an `after` hook to its stacks, run after each block
    head_tokens: tuple[str, ...]  # what the published classification head reads
    num_class_tokens: int  # tokens in front of the patches

    @property
    def dim(self) -> int:
        """C, the width of the tokens that the head reads."""

    @property
    def tokenizers(self) -> Sequence[Tokenizer]:
        """One per scale."""

    @property
    def stacks(self) -> Sequence[BlockStack]:
        """One per scale; a method may replace a block or a whole stack by its own."""

    def __call__(self, points: Tensor, levels: Sequence[int] = (), **given: Tensor) -> Features:
        """Features of clouds [B, N, D], and the tokens after the last stack's blocks ``levels``.

        ``given`` is passed on to the stacks, for a method that replaced them.
        """


class Head(Protocol):
    """Turns features into the output of a task."""

    levels: Sequence[int]  # further blocks whose tokens are read

    def __call__(self, features: Features, points: Tensor, *inputs: Tensor) -> Tensor:
        """``inputs`` are what the task provides besides the features and the points."""


def missing(candidate: object, protocol: type) -> list[str]:
    """The names that a protocol requires and a candidate lacks.

    Args:
        candidate: The object to check, such as a module.
        protocol: One of the protocols in this file.
    """
    names = [*protocol.__annotations__, *vars(protocol)]
    wanted = (name for name in names if name == "__call__" or not name.startswith("_"))
    return [name for name in wanted if not hasattr(candidate, name)]
