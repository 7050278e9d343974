"""Fixtures for all tests: a seed, clouds that break careless kernels, each instruction set."""

from __future__ import annotations

import os
from pathlib import Path

# torch's cache of compiled graphs does not depend on the autograd formulas, so without this a test
# might run the formulas of an earlier version.
os.environ["TORCHINDUCTOR_AUTOGRAD_CACHE"] = "0"

import numpy as np
import pytest
import torch

from dapt_ext import build_info
from support.awkward import KINDS

pytest_plugins = ["support.browser", "support.fixtures", "support.hub"]

SCANS = Path(__file__).parents[2] / "shared" / "data" / "scans.npz"


@pytest.fixture(autouse=True)
def seeded():
    """The same inputs in every run, so that no change fails by chance; DAPT_SEED=1 gives others."""
    torch.manual_seed(int(os.environ.get("DAPT_SEED", "0")))


@pytest.fixture
def on_each_isa(monkeypatch):
    """A function that calls an op once per instruction set of this machine and lists the
    results."""

    def run(op, *args, **options):
        results = []
        for name in build_info()["cpu_instruction_sets"]:
            monkeypatch.setenv("DAPT_CPU_ISA", name)
            results.append(op(*args, **options))
        monkeypatch.delenv("DAPT_CPU_ISA")
        return results

    return run


@pytest.fixture
def scans() -> dict[str, torch.Tensor]:
    """Real scans by name, each [1, N, 3]."""
    if not SCANS.exists():
        pytest.skip("the real scans are not available")
    with np.load(SCANS) as file:
        return {name: torch.from_numpy(file[name])[None] for name in file.files}


@pytest.fixture(params=KINDS)
def make_cloud(request):
    """A function (B, N) -> [B, N, 3], once per kind of cloud."""
    rng = torch.Generator().manual_seed(list(KINDS).index(request.param))
    return lambda B, N: KINDS[request.param](B, N, rng)
