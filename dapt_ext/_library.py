"""Loads the compiled ops into `torch.ops.dapt`."""

from __future__ import annotations

from pathlib import Path

import torch

_FOLDER = Path(__file__).parent
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


def check_same_device(**tensors: torch.Tensor) -> None:
    """All on the device of the first one. Also holds where fake tensors are traced."""
    (first_name, first), *others = tensors.items()
    for name, tensor in others:
        if tensor.device != first.device:
            raise RuntimeError(
                f"{name} must be on the device of {first_name} ({first.device}), "
                f"got {tensor.device}"
            )
