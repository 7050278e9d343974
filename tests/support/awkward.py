"""Clouds that are hard on an op, by kind: kind(B, N, generator) -> [B, N, 3]."""

import numpy as np
import torch


def _random(B, N, rng):
    return torch.randn(B, N, 3, generator=rng)


def _lattice(B, N, rng):
    """Shuffled integers: nearly every distance is a tie."""
    side = int(np.ceil(N ** (1 / 3)))
    grid = torch.cartesian_prod(*[torch.arange(side)] * 3)[:N].float()
    return torch.stack([grid[torch.randperm(len(grid), generator=rng)] for _ in range(B)])


def _repeated(B, N, rng):
    """Every point occurs about four times."""
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
