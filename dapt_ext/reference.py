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


def knn(
    queries: Tensor, points: Tensor, k: int, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    queries, points = _as_real(queries), _as_real(points)
    distance = squared_distance(queries[:, :, None], points[:, None])  # [B, M, N]
    if lengths is not None:
        # Past a cloud's length comes after everything, also after an overflow to infinity.
        past = torch.arange(points.shape[1], device=points.device) >= lengths[:, None, None]
        order = distance.masked_fill(past, torch.nan)  # sorts last
    else:
        order = distance
    idx = order.sort(dim=-1, stable=True).indices[..., :k]
    return distance.gather(-1, idx), idx


def group(
    points: Tensor,
    num_groups: int,
    group_size: int,
    lengths: Tensor | None = None,
    start: int | Tensor = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    points = _as_real(points)
    center_idx = farthest_point_sample(points, num_groups, lengths, start)  # [B, G]
    centers = gather(points, center_idx)  # [B, G, 3]
    patch_idx = knn(centers, points, group_size, lengths)[1]  # [B, G, K]
    patches = gather(points, patch_idx) - centers[:, :, None]
    return patches, centers, patch_idx, center_idx


def gather(values: Tensor, idx: Tensor) -> Tensor:
    cloud = torch.arange(len(values), device=idx.device).view(-1, *[1] * (idx.dim() - 1))
    rows = values[cloud, idx.clamp(min=0)]
    return rows.masked_fill((idx < 0)[..., None], 0)


def ball_query(queries: Tensor, points: Tensor, radius: float, max_neighbors: int) -> Tensor:
    queries, points = _as_real(queries), _as_real(points)
    N = points.shape[1]
    sq_radius = torch.as_tensor(radius, dtype=points.dtype).square()
    inside = squared_distance(queries[:, :, None], points[:, None]) < sq_radius  # [B, M, N]
    order = torch.where(inside, torch.arange(N, device=points.device), N)
    if N < max_neighbors:
        order = torch.nn.functional.pad(order, (0, max_neighbors - N), value=N)
    idx = order.sort(dim=-1).values[..., :max_neighbors]
    first = torch.where(idx[..., :1] < N, idx[..., :1], -1)
    return torch.where(idx < N, idx, first)


def interpolate(queries: Tensor, points: Tensor, values: Tensor, k: int = 3) -> Tensor:
    sq_dist, idx = knn(queries, points, k)
    weights = 1 / (sq_dist + 1e-8)
    weights = weights / weights.sum(-1, keepdim=True)  # [B, M, k]
    return (gather(_as_real(values), idx) * weights[..., None]).sum(2).to(values.dtype)


def chamfer(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    distance = squared_distance(_as_real(a)[:, :, None], _as_real(b)[:, None])  # [B, N, M]
    return distance.amin(2), distance.amin(1)


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
    return (
        torch.where(inexact, bits + torch.where(toward_zero, -1, 1), bits)
        .view(torch.float64)
        .float()
    )


def _first_argmax(values: Tensor) -> Tensor:
    """Index of the maximum along the last dimension, the lowest one of equals."""
    return (values == values.amax(-1, keepdim=True)).int().argmax(-1)


def _as_real(t: Tensor) -> Tensor:
    return t if t.dtype == torch.float64 else t.float()
