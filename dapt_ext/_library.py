"""Loads the compiled ops into `torch.ops.dapt`."""

from __future__ import annotations

import os
from pathlib import Path

import torch

# Another build, say with sanitizers, is used from where DAPT_LIBRARIES points to.
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


def check_tensors(**tensors: torch.Tensor) -> None:
    """Tensors, all on the device of the first one; also where fake tensors are traced."""
    (first_name, first), *_ = tensors.items()
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
        if tensor.device != first.device:
            raise RuntimeError(
                f"{name} must be on the device of {first_name} ({first.device}), "
                f"got {tensor.device}"
            )
