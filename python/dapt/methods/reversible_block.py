"""One block of reversible fine-tuning, forward and, from its output, backward."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dapt.methods.bottleneck import Bottleneck
from dapt.methods.streams import (
    Chance,
    Streams,
    by_chance,
    divided,
    multiplied,
    off_grid,
    on_grid,
)

DIVISORS = {1: (10, 1), 2: (1, 10), 3: (10, 10)}  # 1/λ and 1/β by variant


@dataclass
class Trace:
    """What a block keeps in the forward direction so that it can be inverted.

    Args:
        num_tokens: T of the block's input, without an inner method's prompt.
        before_f: The random state before F.
        before_g: The random state before G.
        remainders: The remainders of dividing the first and the second stream, uint8 [B, T, C].
    """

    num_tokens: int
    before_f: Chance
    before_g: Chance
    remainders: tuple[Tensor | None, Tensor | None] | None  # of x1 and x2


class ReversibleBlock(nn.Module):
    """F and G of one block. The prompt of an inner method enters both streams.

    Args:
        block: A frozen block, or one of an inner method.
        beside: The adapter that trains.
        variant: 1, 2 or 3, as in `Reversible`.
        prompt_at: The index at which an inner method inserts its prompt.
    """

    def __init__(self, block: nn.Module, beside: Bottleneck, variant: int, prompt_at: int):
        super().__init__()
        self.block = block
        self.beside = beside
        self.variant = variant
        self.prompt_at = prompt_at

    def f(self, x: Tensor, positions: Tensor) -> Tensor:
        """The term added to the first stream.

        Args:
            x: [B, T, C], the second stream's tokens.
            positions: [B, T, C].
        """
        if self.variant == 1:
            return self.block(x, positions)
        if self.variant == 2:
            return self.beside(x)
        return self.beside(x, residual=self.block.attend(self.block.place(x, positions)))

    def g(self, x: Tensor, positions: Tensor) -> Tensor:
        """The term added to the second stream.

        Args:
            x: [B, T, C], the new first stream's tokens.
            positions: [B, T, C].
        """
        if self.variant == 1:
            return self.beside(x)
        if self.variant == 2:
            return self.block(x, positions)
        return self.block.transform(x)

    def step(
        self, x: Streams, positions: Tensor, dtype: torch.dtype, again: Trace | None = None
    ) -> tuple[Streams, Trace]:
        """Compute the output streams, and the trace from which `step_back` recovers the input.

        Args:
            x: The input streams.
            positions: [B, T, C].
            dtype: The dtype in which the block computes.
            again: The trace of an earlier run, to draw the same random numbers.
        """
        by_one, by_two = DIVISORS[self.variant]
        num_tokens = x.one.shape[1]
        chances = (None, None) if again is None else (again.before_f, again.before_g)
        f, before_f = by_chance(self.f, off_grid(x.two, dtype), positions, chances[0])
        f, prompt = self._split(f, num_tokens)
        y1, left_of_one = divided(x.one, by_one)
        y1 = y1 + on_grid(f)
        g, before_g = by_chance(self.g, off_grid(y1, dtype), positions, chances[1])
        g, prompt_of_g = self._split(g, num_tokens)
        y2, left_of_two = divided(x.two, by_two)
        y2 = y2 + on_grid(g)
        if prompt is None:
            prompt = prompt_of_g
        if prompt is not None:
            prompt = on_grid(prompt)
            y1, y2 = self._joined(y1, prompt), self._joined(y2, prompt)
        y = Streams(y1, y2)
        trace = Trace(num_tokens, before_f, before_g, (left_of_one, left_of_two))
        return (y if self.variant == 3 else y.swapped()), trace

    def step_back(
        self, y: Streams, grad: Streams, positions: Tensor, trace: Trace
    ) -> tuple[Streams, Streams, Tensor, list[Tensor | None]]:
        """Recover the input streams, and compute the gradients of streams, positions and weights.

        Args:
            y: The output streams.
            grad: Their gradients.
            positions: [B, T, C].
            trace: The trace of the step forward.
        """
        by_one, by_two = DIVISORS[self.variant]
        num_tokens, (left_of_one, left_of_two) = trace.num_tokens, trace.remainders
        if self.variant != 3:
            y, grad = y.swapped(), grad.swapped()
        grad_prompt = None
        if y.one.shape[1] > num_tokens:
            y = Streams(*(self._split(stream, num_tokens)[0] for stream in y))
            grad_one, prompt_of_one = self._split(grad.one, num_tokens)
            grad_two, prompt_of_two = self._split(grad.two, num_tokens)
            grad, grad_prompt = Streams(grad_one, grad_two), prompt_of_one + prompt_of_two

        g, into_y1, of_positions, of_weights = self._gradients(
            self.g, y.one, positions, trace.before_g, grad.two, grad_prompt
        )
        x2 = multiplied(y.two - on_grid(g), by_two, left_of_two)
        grad_one = grad.one + into_y1
        f, into_x2, more_of_positions, more_of_weights = self._gradients(
            self.f, x2, positions, trace.before_f, grad_one, grad_prompt
        )
        x1 = multiplied(y.one - on_grid(f), by_one, left_of_one)
        grad_x = Streams(grad_one / by_one, grad.two / by_two + into_x2)
        weights = [_sum(a, b) for a, b in zip(of_weights, more_of_weights, strict=True)]
        return Streams(x1, x2), grad_x, of_positions + more_of_positions, weights

    def _gradients(
        self,
        function: Callable[[Tensor, Tensor], Tensor],
        steps: Tensor,
        positions: Tensor,
        chance: Chance,
        grad: Tensor,
        grad_prompt: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, list[Tensor | None]]:
        with torch.enable_grad(), chance.again():
            x = off_grid(steps, grad.dtype).requires_grad_()
            positions = positions.detach().requires_grad_()
            out = function(x, positions)
        kept, prompt = self._split(out.detach(), steps.shape[1])
        if prompt is not None:
            grad = self._joined(grad, grad_prompt)
        inputs = [x, positions, *self.trained()]
        of_x, of_positions, *of_weights = torch.autograd.grad(
            out, inputs, grad.to(out.dtype), allow_unused=True
        )
        if of_positions is None:
            of_positions = torch.zeros_like(positions)
        return kept, of_x, of_positions, of_weights

    def trained(self) -> list[nn.Parameter]:
        """The weights that get gradients."""
        return [weight for weight in self.parameters() if weight.requires_grad]

    def _split(self, x: Tensor, num_tokens: int) -> tuple[Tensor, Tensor | None]:
        """Split into the earlier tokens and the prompt, if there is one more token."""
        if x.shape[1] == num_tokens:
            return x, None
        at = self.prompt_at
        return torch.cat([x[:, :at], x[:, at + 1 :]], 1), x[:, at : at + 1]

    def _joined(self, x: Tensor, prompt: Tensor) -> Tensor:
        return torch.cat([x[:, : self.prompt_at], prompt, x[:, self.prompt_at :]], 1)


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None or other is None:
        return one if other is None else other
    return one + other
