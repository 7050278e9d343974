"""Exactly invertible division for reversible networks, and repeatable random numbers.

With scales of 1/10, the inverse of a reversible network is useless in floats: each block multiplies
the rounding error by ten. The values here are therefore integers (steps of a grid, held in
float64), and a division leaves a remainder of one byte per value, with which it is undone exactly.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

GRID = 2.0**32  # steps per unit; float64 counts up to 2**53 exactly: values to two million


class Streams(NamedTuple):
    """The two streams, or their gradients.

    Args:
        one: The first stream [B, T, C], in steps of the grid as float64 integers.
        two: The second stream, likewise.
    """

    one: Tensor
    two: Tensor

    def swapped(self) -> "Streams":
        """The same streams, swapped."""
        return Streams(self.two, self.one)

    def mean(self, dtype: torch.dtype) -> Tensor:
        """The tokens that the two streams stand for.

        Args:
            dtype: The dtype of the tokens, [B, T, C].
        """
        return off_grid((self.one + self.two) / 2, dtype)


def on_grid(values: Tensor) -> Tensor:
    """Convert values to steps of the grid, in float64.

    Args:
        values: A tensor of any shape and dtype.
    """
    return (values.double() * GRID).round()


def off_grid(steps: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert steps of the grid to values; the inverse of `on_grid`.

    Args:
        steps: Float64 integers.
        dtype: The dtype of the result.
    """
    return (steps / GRID).to(dtype)


def divided(steps: Tensor, by: int) -> tuple[Tensor, Tensor | None]:
    """Divide into a quotient and a remainder (uint8), or None when dividing by one.

    Args:
        steps: Float64 integers.
        by: A small positive integer.
    """
    if by == 1:
        return steps, None
    quotient = torch.floor(steps / by)
    return quotient, (steps - by * quotient).to(torch.uint8)


def multiplied(quotient: Tensor, by: int, remainder: Tensor | None) -> Tensor:
    """Undo `divided`.

    Args:
        quotient: Float64 integers.
        by: The divisor.
        remainder: The remainder of the division; None stands for zero.
    """
    return quotient if remainder is None else quotient * by + remainder


class Chance:
    """The random state at the start of a computation, to repeat it.

    Args:
        device: The device of the computation, whose random state is kept along with the CPU's.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.cpu = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    @contextmanager
    def again(self) -> Iterator[None]:
        """Draw the same random numbers again inside the context."""
        devices = [] if self.cuda is None else [self.device]
        with torch.random.fork_rng(devices):
            torch.set_rng_state(self.cpu)
            if self.cuda is not None:
                torch.cuda.set_rng_state(self.cuda, self.device)
            yield


def by_chance(
    function: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    positions: Tensor,
    chance: Chance | None,
) -> tuple[Tensor, Chance]:
    """Call a function; return its value and the random state at its start.

    Args:
        function: A function of ``x`` and ``positions`` that may draw random numbers.
        x: [B, T, C].
        positions: [B, T, C].
        chance: The state of an earlier call to repeat; None draws new random numbers.
    """
    if chance is None:
        chance = Chance(x.device)
        return function(x, positions), chance
    with chance.again():
        return function(x, positions), chance
