"""What tests start from: a seed, clouds that break careless kernels, each instruction set."""

from __future__ import annotations

import os
from pathlib import Path

# torch keeps compiled graphs of earlier runs by what they call, not by how that is differentiated:
# without this a test might run the autograd formulas of an older version.
os.environ["TORCHINDUCTOR_AUTOGRAD_CACHE"] = "0"

import numpy as np
import pytest
import torch

from dapt_ext import build_info

pytest_plugins = ["support.browser", "support.fixtures"]

SCANS = Path(__file__).parents[2] / "shared" / "data" / "scans.npz"


@pytest.fixture(autouse=True)
def seeded():
    """The same inputs every time, so that no change fails by another's luck; DAPT_SEED=1 others."""
    torch.manual_seed(int(os.environ.get("DAPT_SEED", "0")))


@pytest.fixture
def on_each_isa(monkeypatch):
    """A function that calls an op once per instruction set of this machine: a list of results."""

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
        pytest.skip("the real scans are not at hand")
    with np.load(SCANS) as file:
        return {name: torch.from_numpy(file[name])[None] for name in file.files}


def _random(B, N, rng):
    return torch.randn(B, N, 3, generator=rng)


def _lattice(B, N, rng):
    """Whole numbers, shuffled: nearly every distance is a tie."""
    side = int(np.ceil(N ** (1 / 3)))
    grid = torch.cartesian_prod(*[torch.arange(side)] * 3)[:N].float()
    return torch.stack([grid[torch.randperm(len(grid), generator=rng)] for _ in range(B)])


def _repeated(B, N, rng):
    """Every point about four times."""
    few = torch.randn(B, max(1, N // 4), 3, generator=rng)
    return few[:, torch.randint(few.shape[1], (N,), generator=rng)]


def _one_point(B, N, rng):
    return torch.randn(B, 1, 3, generator=rng).repeat(1, N, 1)


def _collinear(B, N, rng):
    return torch.rand(B, N, 1, generator=rng) * torch.tensor([1.0, -2.0, 0.5])


def _huge(B, N, rng):
    """Squares overflow."""
    return _random(B, N, rng) * 1e30


def _tiny(B, N, rng):
    """Squares underflow to zero."""
    return _random(B, N, rng) * 1e-30


def _denormal(B, N, rng):
    """Squares are denormal numbers."""
    return _random(B, N, rng) * 1e-21


KINDS = {
    kind.__name__[1:]: kind
    for kind in (_random, _lattice, _repeated, _one_point, _collinear, _huge, _tiny, _denormal)
}


@pytest.fixture(params=KINDS)
def make_cloud(request):
    """A function (B, N) -> [B, N, 3], once per kind of cloud."""
    rng = torch.Generator().manual_seed(list(KINDS).index(request.param))
    return lambda B, N: KINDS[request.param](B, N, rng)
