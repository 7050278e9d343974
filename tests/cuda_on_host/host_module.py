"""`plans` and `on_host`: launch plans, and the CUDA kernels on the CPU, as modules of Python.

Built when first imported; with DAPT_HOST_SANITIZE=1 under the sanitizers, for `make sanitize`.
"""

import importlib.util
import os
import sysconfig
from pathlib import Path

import pybind11
from host_build import CSRC, compile_host

BINDINGS = Path(__file__).parent / "module"


def _load():
    headers = (pybind11.get_include(), sysconfig.get_path("include"))
    path = compile_host(
        [*sorted(BINDINGS.glob("*.cpp")), *sorted((CSRC / "cuda").glob("*.cu"))],
        [f"-isystem{folder}" for folder in headers],
        sanitize=os.environ.get("DAPT_HOST_SANITIZE") == "1",
    )
    spec = importlib.util.spec_from_file_location("cuda_on_host", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_module = _load()
plans, on_host = _module.plans, _module.on_host
