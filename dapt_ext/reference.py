"""PyTorch twins of the ops, with the same signatures: the readable truth that the tests compare
with. Distances follow the kernels' order of float operations, so float32 indices are equal to the
last bit; float64 inputs are computed in float64 throughout."""

from __future__ import annotations

import torch
from torch import Tensor


def farthest_point_sample(
    points: Tensor,
    num_samples: int,
    lengths: Tensor | None = None,
    start: int | Tensor = 0,
) -> Tensor:
    points = _as_real(points)
    B, N, _ = points.shape
    cloud = torch.arange(B, device=points.device)
    nearest = points.new_full((B, N), torch.inf)  # squared distance to the chosen set
    if lengths is not None:
        nearest[torch.arange(N, device=points.device) >= lengths[:, None]] = -1
    last = torch.as_tensor(start, device=points.device).expand(B)
    idx = [last]
    for _ in range(num_samples - 1):
        nearest[cloud, last] = -1  # a chosen point stays below every other one
        distance = squared_distance(points, points[cloud, last][:, None])  # [B, N]
        nearest = torch.minimum(nearest, distance)
        last = _first_argmax(nearest)
        idx.append(last)
    return torch.stack(idx, dim=1)


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """Squared distance of the last dimension: fma(dz, dz, fma(dy, dy, dx * dx))."""
    dx, dy, dz = (a - b).unbind(-1)
    return _fma(dz, dz, _fma(dy, dy, dx * dx))


def _fma(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """a * b + c with one rounding. The float32 product is exact in float64, and rounding the sum to
    odd there makes the second rounding harmless (Boldo and Melquiond 2008)."""
    if a.dtype == torch.float64:
        return a * b + c
    product, addend = a.double() * b.double(), c.double()
    total = product + addend
    shifted = total - product
    error = (product - (total - shifted)) + (addend - shifted)
    bits = total.view(torch.int64)
    toward_zero = (error < 0) != (total < 0)
    inexact = (error != 0) & error.isfinite() & (bits & 1 == 0)
    return torch.where(inexact, bits + torch.where(toward_zero, -1, 1), bits).view(
        torch.float64
    ).float()


def _first_argmax(values: Tensor) -> Tensor:
    """Index of the maximum along the last dimension, the lowest one of equals."""
    return (values == values.amax(-1, keepdim=True)).int().argmax(-1)


def _as_real(t: Tensor) -> Tensor:
    return t if t.dtype == torch.float64 else t.float()
