"""Reversible fine-tuning (MEFT, NeurIPS 2023): activations are recomputed from the output.

    y1 = λ·x1 + F(x2);    y2 = β·x2 + G(y1);    next (x1, x2) = (y2, y1), in variant 3 (y1, y2)
    x2 = (y2 - G(y1))/β;  x1 = (y1 - F(x2))/λ

The streams x1 and x2 are integers (`streams.py`), so the inverse is exact. The remainders that it
needs are kept for the last `WINDOW` blocks. Those of earlier blocks are found by running the stack
again, so memory does not grow with depth.
"""

from collections.abc import Iterator, Sequence
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
from dapt.methods.reversible_block import DIVISORS, ReversibleBlock, Trace
from dapt.methods.streams import Streams, on_grid
from dapt.models.blocks import Block, BlockStack
from dapt.models.tokenizer import as_weights

WINDOW = 12


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

    def _wrapped(self, block: nn.Module, num_class_tokens: int) -> ReversibleBlock:
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


class ReversibleStack(nn.Module):
    """A stack of blocks that keeps what is needed to invert the last `WINDOW` of them.

    Args:
        blocks: The blocks, in order.
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
        self, x: Tensor, positions: Tensor, traces: Sequence[Trace | None]
    ) -> Iterator[tuple[Streams, Trace]]:
        """The streams after each block, and its trace.

        Args:
            x: [B, T, C], the tokens before the first block.
            positions: [B, T, C].
            traces: One trace per block of an earlier run to repeat; None draws new random numbers.
        """
        streams = Streams(on_grid(x), on_grid(x))
        for block, trace in zip(self.blocks, traces, strict=False):
            streams, trace = block.step(streams, positions, x.dtype, trace)
            yield streams, trace


class _Reversible(torch.autograd.Function):
    """The tokens after the blocks `levels`, in order, and after the last one."""

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
        # the cache of autocast would return weights that were cast without a gradient
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
