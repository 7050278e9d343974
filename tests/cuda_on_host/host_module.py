"""`plans` and `on_host`: launch plans, and the CUDA kernels on the CPU, as Python modules.

They are built when first imported, with every access to shared memory watched for races or, with
DAPT_HOST_SANITIZE=1, under the sanitizers, for `make sanitize`. DAPT_HOST_MODULE names a build to
use instead (mutate.py).
"""

import importlib.util
import os
import sysconfig
from pathlib import Path

import pybind11
import torch
from host_build import CSRC, compile_host

SANITIZE = os.environ.get("DAPT_HOST_SANITIZE") == "1"
BINDINGS = Path(__file__).parent / "module"


def sources():
    return [*sorted(BINDINGS.glob("*.cpp")), *sorted((CSRC / "cuda").glob("*.cu"))]


def flags():
    return [f"-isystem{f}" for f in (pybind11.get_include(), sysconfig.get_path("include"))]


def _load():
    spec = importlib.util.spec_from_file_location("cuda_on_host", LIBRARY)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LIBRARY = os.environ.get("DAPT_HOST_MODULE") or compile_host(
    sources(), flags(), sanitize=SANITIZE, races=not SANITIZE
)
_module = _load()
plans, on_host = _module.plans, _module.on_host


def name_of(dtype):
    return str(dtype).removeprefix("torch.")


def fields(**given):
    """Tensors by address and dtypes by name; None is omitted."""
    convert = {torch.Tensor: torch.Tensor.data_ptr, torch.dtype: name_of}
    return {
        name: convert.get(type(value), lambda same: same)(value)
        for name, value in given.items()
        if value is not None
    }
