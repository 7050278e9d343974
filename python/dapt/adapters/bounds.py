"""Refuse settings from a file that would build something larger than the weights beside them."""

import math
from collections.abc import Iterable
from contextlib import contextmanager

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dapt.errors import DaptError

SPARE = 4  # factor for parts made of several tensors of the file
SMALLEST = 2**20
SIZED = {"empty", "zeros", "ones", "full", "rand", "randn", "normal", "empty_strided"}
SIZED_AFTER_A_TENSOR = {"new_empty", "new_zeros", "new_ones", "new_full", "repeat", "expand"}


class _Bounded(TorchDispatchMode):
    """Refuses to create a tensor of more than a given number of elements."""

    def __init__(self, most: int):
        super().__init__()
        self.most = most

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.rpartition("::")[2]
        if name in SIZED and args and isinstance(args[0], list | tuple):
            self._check(args[0])
        elif name in SIZED_AFTER_A_TENSOR:
            self._check(args[1])
        elif name in ("arange", "eye"):
            numbers = [abs(value) for value in args if isinstance(value, int | float)]
            self._check([*numbers, *numbers] if name == "eye" else numbers[-1:])
        return function(*args, **(kwargs or {}))

    def _check(self, size: Iterable[int]) -> None:
        if math.prod(size) > self.most:
            raise _TooLarge


class _TooLarge(Exception):
    pass


@contextmanager
def within(tensors: Iterable[Tensor], where: str):
    """A context in which nothing much larger than the given tensors can be built.

    Args:
        tensors: The tensors of the file, and of the backbone that it is for.
        where: The name of the file in errors.
    """
    most = max((tensor.numel() for tensor in tensors), default=0)
    try:
        with _Bounded(max(SPARE * most, SMALLEST)):
            yield
    except DaptError:
        raise
    except _TooLarge:
        raise DaptError(
            f"{where} asks for layers that are larger than its weights: they do not belong together"
        ) from None
    except Exception as error:  # an impossible setting may fail anywhere, in any way
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise DaptError(
            f"{where} has settings that no model can be built with: {reason}"
        ) from error
