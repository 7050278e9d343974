"""Loads the compiled ops into `torch.ops.dapt`."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from pathlib import Path

import torch

# DAPT_LIBRARIES points to another build, such as one with sanitizers.
_FOLDER = Path(os.environ.get("DAPT_LIBRARIES") or Path(__file__).parent)
_SUFFIX = ".dylib" if (_FOLDER / "libdapt_cpu.dylib").exists() else ".so"


def _load(stem: str) -> None:
    path = _FOLDER / f"lib{stem}{_SUFFIX}"
    if not path.exists():
        raise ImportError(
            f"{path} is missing: build it with `pip install -e .` in the repository root."
        )
    torch.ops.load_library(str(path))


_load("dapt_cpu")
# The CUDA library needs symbols that only a torch with CUDA has; it is built only for such a torch.
if torch.version.cuda and (_FOLDER / f"libdapt_cuda{_SUFFIX}").exists():
    _load("dapt_cuda")

ops = torch.ops.dapt
library = torch.library.Library("dapt", "FRAGMENT")


def names_of_ops() -> list[str]:
    """Every op in the compiled library, without the namespace."""
    names = torch._C._dispatch_get_all_op_names()
    return sorted(name.removeprefix("dapt::") for name in names if name.startswith("dapt::"))


_NOT_DENSE = {  # dispatch keys of tensors that are not dense
    "sparse": ("SparseCPU", "SparseCUDA"),
    "sparse_csr": ("SparseCsrCPU", "SparseCsrCUDA"),
    "nested": ("NestedTensorCPU", "NestedTensorCUDA", "AutogradNestedTensor"),
    "quantized": ("QuantizedCPU", "QuantizedCUDA"),
    "mkldnn": ("MkldnnCPU",),
}


def _refuse_what_is_not_dense(op: str) -> None:
    names = [argument.name for argument in getattr(ops, op).default._schema.arguments]
    for kind, keys in _NOT_DENSE.items():

        def refuse(*args, kind=kind):
            name = next(n for n, arg in zip(names, args, strict=False) if not _is_dense(arg))
            raise RuntimeError(f"{name} must be a dense tensor, got a {kind} one")

        for key in keys:
            library.impl(op, refuse, key)


def _is_dense(arg: object) -> bool:
    return not isinstance(arg, torch.Tensor) or (
        arg.layout == torch.strided and not arg.is_quantized and not arg.is_nested
    )


for _op in names_of_ops():
    _refuse_what_is_not_dense(_op)


def check_tensors(**tensors: torch.Tensor | None) -> None:
    """Raise unless all arguments are tensors on the device of the first one.

    Args:
        tensors: The tensors, by the names to use in the message; None for an omitted one.
    """
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    first_name, first = next(iter(given.items()))
    for name, tensor in given.items():
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
        if tensor.device != first.device:
            raise RuntimeError(
                f"{name} must be on the device of {first_name} ({first.device}), "
                f"got {tensor.device}"
            )


def register_fake(op: str) -> Callable[[Callable], Callable]:
    """torch.library.register_fake for ops whose tensors must all be on one device.

    If only some of the tensors are meta tensors, torch calls the fake kernel, whose results would
    be uninitialized memory on the device of the others.

    Args:
        op: The op's name, such as "dapt::fps"; the fake kernel has the schema's argument names.
    """

    def register(fake: Callable) -> Callable:
        names = tuple(inspect.signature(fake).parameters)

        @functools.wraps(fake)
        def checked(*args, **kwargs):
            arguments = dict(zip(names, args, strict=False)) | kwargs
            check_tensors(**{n: t for n, t in arguments.items() if isinstance(t, torch.Tensor)})
            return fake(*args, **kwargs)

        torch.library.register_fake(op, checked)
        return fake

    return register
