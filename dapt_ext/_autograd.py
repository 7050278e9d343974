"""Derivatives of the ops.

Reverse mode runs kernels. Forward mode (`torch.func.jvp`, `jacfwd`, `torch.autograd.forward_ad`)
and derivatives of gradients run a formula in torch's own ops instead of the op.
torch.library.register_autograd supports reverse mode only: it would silently drop tangents, and it
raises under torch.func.grad.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import compress

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction

from dapt_ext._library import library, ops


def register_autograd(
    op: str,
    formula: Callable,
    save: Callable[..., None] | None = None,
    backward: Callable[..., Mapping[str, Tensor | None]] | None = None,
) -> None:
    """Register the derivatives of an op.

    Args:
        op: The op's name, without the namespace.
        formula: The op written in differentiable torch ops, with the op's arguments and outputs.
        save: Called as `save(ctx, inputs, outputs)`, with the inputs as a named tuple with the
            names of the schema and the outputs as a tuple; keeps what the backward needs.
        backward: Called as `backward(ctx, tensors, *grads)` with the saved tensors; returns
            gradients by the inputs' names, which autograd casts to the inputs' dtypes. Without it,
            the backward differentiates the formula.

    In both, `ctx.needs` holds the names of the inputs that need a gradient.
    """
    overload = getattr(ops, op).default
    schema = overload._schema.arguments
    names = [argument.name for argument in schema]
    defaults = tuple(argument.default_value for argument in schema)
    Inputs = namedtuple("Inputs", names)
    if backward is None:
        save, backward = _by_formula(formula, names)

    class Derivative(_SingleLevelFunction):
        @staticmethod
        def forward(ctx, keyset, *args):
            ctx.needs = set(compress(names, ctx.needs_input_grad[1:]))
            outputs = _below_autograd(overload, keyset, args)
            save(ctx, Inputs(*args), outputs if isinstance(outputs, tuple) else (outputs,))
            return outputs

        @staticmethod
        def backward(ctx, *grads):
            ctx.needs = set(compress(names, ctx.needs_input_grad[1:]))  # may be fewer by now
            tensors = ctx.saved_tensors  # a checkpoint runs its forward again here, and records it
            with without_autograd():
                found = backward(ctx, tensors, *grads)
            return None, *(found.get(name) if name in ctx.needs else None for name in names)

    def kernel(keyset, *args):
        args += defaults[len(args) :]
        if has_tangent(*args):
            return formula(*args)
        if not _needs_gradient(*args):
            return _below_autograd(overload, keyset, args)
        if torch._C._are_functorch_transforms_active():
            with torch._functorch.autograd_function.enable_single_level_autograd_function():
                return Derivative.apply(keyset, *args)
        return Derivative.apply(keyset, *args)

    Derivative.__name__ = f"derivative_of_{op}"
    library.impl(op, kernel, "Autograd", with_keyset=True)


def refuse_derivatives(op: str, message: str) -> None:
    """Make an op raise an error if a gradient or a tangent is requested.

    Args:
        op: The op's name.
        message: The message of the error.
    """
    overload = getattr(ops, op).default

    def kernel(keyset, *args):
        if has_tangent(*args) or _needs_gradient(*args):
            raise RuntimeError(message)
        return _below_autograd(overload, keyset, args)

    library.impl(op, kernel, "Autograd", with_keyset=True)


def has_tangent(*args) -> bool:
    """Whether one of the tensors among `args` carries a forward-mode derivative."""
    if forward_ad._current_level < 0:
        return False
    return any(
        isinstance(arg, Tensor) and forward_ad.unpack_dual(arg).tangent is not None for arg in args
    )


def _needs_gradient(*args) -> bool:
    return torch.is_grad_enabled() and any(
        isinstance(arg, Tensor) and arg.requires_grad for arg in args
    )


def without_autograd() -> AbstractContextManager:
    """A context for ops that need no derivatives: there each takes half the time of the host.

    Does nothing where derivatives are wanted, as in a backward with create_graph=True, and under
    torch.compile.
    """
    if (
        torch.compiler.is_compiling()
        or torch.is_grad_enabled()
        or torch._C._are_functorch_transforms_active()
    ):
        return _NOTHING
    return torch._C._AutoDispatchBelowAutograd()


_NOTHING = nullcontext()


def _below_autograd(overload, keyset, args):
    with torch._C._AutoDispatchBelowAutograd():
        return overload.redispatch(keyset & torch._C._after_autograd_keyset, *args)


def _by_formula(formula: Callable, names: list[str]) -> tuple[Callable, Callable]:
    """`save` and `backward` that differentiate the formula when the gradient is requested."""

    def save(ctx, inputs, outputs):
        given = inputs._asdict()
        ctx.tensors = [name for name in names if isinstance(given[name], Tensor)]
        ctx.others = {name: given[name] for name in names if name not in ctx.tensors}
        ctx.save_for_backward(*(given[name] for name in ctx.tensors))

    def backward(ctx, tensors, *grads):
        given = dict(zip(ctx.tensors, tensors, strict=True))
        needed = [name for name in names if name in ctx.needs]

        def of_needed(*values):
            arguments = ctx.others | given | dict(zip(needed, values, strict=True))
            return formula(*(arguments[name] for name in names))

        _, pull = torch.func.vjp(of_needed, *(given[name] for name in needed))
        return dict(zip(needed, pull(grads[0] if len(grads) == 1 else grads), strict=True))

    return save, backward
