"""Reversible fine-tuning (MEFT, NeurIPS 2023): activations are recomputed from the output.

    y1 = λ·x1 + F(x2);    y2 = β·x2 + G(y1);    next (x1, x2) = (y2, y1), in variant 3 (y1, y2)
    x2 = (y2 - G(y1))/β;  x1 = (y1 - F(x2))/λ

The streams x1 and x2 are whole numbers (`streams.py`), so the inverse is exact. The remainders that
it needs are kept for the last `WINDOW` blocks. Those of earlier blocks are found by running the
stack again, so memory does not grow with depth.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dapt.errors import UsageError
from dapt.methods.adapter import AdapterBlock
from dapt.methods.bottleneck import Bottleneck
from dapt.methods.method import register
from dapt.methods.on_top import OnTop
from dapt.methods.replacements import Replacements, own_class_token, place_of
from dapt.methods.streams import (
    Chance,
    Streams,
    by_chance,
    divided,
    multiplied,
    off_grid,
    on_grid,
)
from dapt.models.blocks import Block, BlockStack
from dapt.models.tokenizer import as_weights

WINDOW = 12
DIVISORS = {1: (10, 1), 2: (1, 10), 3: (10, 10)}  # 1/λ and 1/β by variant


@register("reversible")
@dataclass(frozen=True)
class Reversible(OnTop):
    """Reversible fine-tuning, alone (with its own adapters) or on top of another method.

    Args:
        variant: What F and G are. 1: block and adapter; 2: adapter and block; 3: the two halves of
            a block.
        reversible_rank: Hidden units of its own adapters.
    """

    variant: Literal[1, 2, 3] = 1
    reversible_rank: int = 8

    def __post_init__(self):
        super().__post_init__()
        if self.variant not in DIVISORS:
            raise UsageError(f"variant must be 1, 2 or 3, got {self.variant}")
        if not 1 <= self.reversible_rank <= 256:
            raise UsageError(f"reversible_rank must be from 1 to 256, got {self.reversible_rank}")

    def owns(self, entry: str) -> bool:
        own = {"adapter", "beside", "cls_token", "cls_pos"}
        return not own.isdisjoint(entry.split(".")) or super().owns(entry)

    def wrap(self, backbone: nn.Module, replacements: Replacements) -> None:
        super().wrap(backbone, replacements)
        stack = backbone.stacks[0]
        if len(backbone.stacks) > 1 or not isinstance(stack, BlockStack):
            raise UsageError(
                f"reversible works on one stack of plain blocks, not on that of "
                f"{type(backbone).__name__} with {type(stack).__name__}"
            )
        if backbone.between_blocks:
            raise UsageError(
                f"reversible runs blocks one after another, and {type(backbone).__name__} does "
                "something between its blocks"
            )
        if not super().owns("cls_token"):
            own_class_token(backbone, replacements)
        blocks = [self._wrapped(block, backbone.num_class_tokens) for block in stack]
        replacements.put(*place_of(backbone, stack), ReversibleStack(blocks))

    def _wrapped(self, block: nn.Module, num_class_tokens: int) -> "ReversibleBlock":
        dim, rank = block.dim, self.reversible_rank
        if isinstance(block, Block):
            block = AdapterBlock(block, _small(Bottleneck(dim, rank)))
        if self.variant == 3 and not hasattr(block, "attend"):
            raise UsageError(
                f"variant 3 takes blocks apart, and {type(block).__name__} has no halves: "
                "choose variant 1 or 2"
            )
        beside = _small(Bottleneck(dim, rank))
        return ReversibleBlock(block, beside, self.variant, num_class_tokens)


def _small(bottleneck: Bottleneck) -> Bottleneck:
    nn.init.normal_(bottleneck.down.weight, std=0.02)
    nn.init.normal_(bottleneck.up.weight, std=0.02)
    return bottleneck


@dataclass
class Trace:
    """What a block keeps in the forward direction, so that it can be inverted.

    Args:
        num_tokens: T of the block's input, without an inner method's prompt.
        before_f: The random state before F.
        before_g: The random state before G.
        remainders: of the division of the first stream and of the second, uint8 [B, T, C].
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


class ReversibleStack(nn.Module):
    """A stack of blocks that keeps what is needed to invert the last `WINDOW` of them.

    Args:
        blocks: In their order.
    """

    def __init__(self, blocks: Sequence[ReversibleBlock]):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def __len__(self) -> int:
        return len(self.blocks)

    @torch.compiler.disable
    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        mask: Tensor | None = None,
        levels: Sequence[int] = (),
        centers: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        x = as_weights(x, self)  # the dtype of F's and G's input, regardless of autocast
        weights = [weight for block in self.blocks for weight in block.trained()]
        *kept, out = _Reversible.apply(self, sorted(levels), x, positions, *weights)
        return out, kept

    def steps(
        self, x: Tensor, positions: Tensor, traces: Sequence["Trace | None"]
    ) -> Iterator[tuple[Streams, Trace]]:
        """The streams after each block, and its trace.

        Args:
            x: [B, T, C], the tokens before the first block.
            positions: [B, T, C].
            traces: The traces of an earlier run, one a block, to repeat it; None draws anew.
        """
        streams = Streams(on_grid(x), on_grid(x))
        for block, trace in zip(self.blocks, traces, strict=False):
            streams, trace = block.step(streams, positions, x.dtype, trace)
            yield streams, trace


class _Reversible(torch.autograd.Function):
    """The tokens after the blocks of `levels`, in their order, and after the last one."""

    @staticmethod
    def forward(ctx, stack, levels, x, positions, *weights):
        outputs, traces = [], []
        for i, (streams, trace) in enumerate(stack.steps(x, positions, [None] * len(stack))):
            if i in levels:
                outputs.append(streams.mean(x.dtype))
            traces.append(trace)
            if i >= WINDOW:
                traces[i - WINDOW].remainders = None
        outputs.append(streams.mean(x.dtype))

        ctx.first = max(len(traces) - WINDOW, 0)  # block whose remainders are kept
        remainders = [left for trace in traces[ctx.first :] for left in trace.remainders]
        for trace in traces:
            trace.remainders = None
        ctx.save_for_backward(x if ctx.first else None, positions, *streams, *remainders)
        ctx.stack, ctx.levels, ctx.traces = stack, levels, traces
        device = x.device.type
        ctx.autocast = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        start, positions, one, two, *remainders = ctx.saved_tensors
        streams, traces, blocks = Streams(one, two), ctx.traces, ctx.stack.blocks
        for i, trace in enumerate(traces[ctx.first :]):
            trace.remainders = (remainders[2 * i], remainders[2 * i + 1])
        *level_grads, last_grad = grads
        into = dict(zip(ctx.levels, level_grads, strict=True))
        grad = Streams(last_grad / 2, last_grad / 2)
        grad_positions, grad_weights = torch.zeros_like(positions), []
        # without the cache, where autocast would find weights cast without a gradient
        with torch.autocast(*ctx.autocast, cache_enabled=False):
            for i in reversed(range(len(blocks))):
                if i in into:
                    grad = Streams(*(stream + into[i] / 2 for stream in grad))
                if traces[i].remainders is None:
                    _find_remainders(ctx.stack, start, positions, traces, last=i)
                streams, grad, of_positions, of_weights = blocks[i].step_back(
                    streams, grad, positions, traces[i]
                )
                traces[i].remainders = None
                grad_positions += of_positions
                grad_weights = of_weights + grad_weights
        return None, None, grad.one + grad.two, grad_positions, *grad_weights


def _find_remainders(
    stack: ReversibleStack, start: Tensor, positions: Tensor, traces: list[Trace], last: int
) -> None:
    """Find the remainders of a window of blocks up to `last`, starting at the first block."""
    again = stack.steps(start, positions, traces[: last + 1])
    for i, (_, trace) in enumerate(again):
        if i > last - WINDOW:
            traces[i].remainders = trace.remainders
