"""Point, cell and row ops run on the CPU: tensors in, new tensors out."""

import torch
from host_module import fields, on_host


def _call(kernel, outputs, *leading, **given):
    """Runs a kernel; contiguous copies of its inputs live until it is done."""
    held = {
        name: value.contiguous() if isinstance(value, torch.Tensor) else value
        for name, value in given.items()
    }
    kernel(*leading, **fields(**held, **outputs))
    results = tuple(outputs.values())
    return results[0] if len(results) == 1 else results


def _indices(*shape):
    return torch.empty(shape, dtype=torch.long)


def fps(
    points, num_samples, lengths=None, starts=None, start=0, skip_near_origin=False, plan=None
):  # fmt: skip
    B, N, _ = points.shape
    outputs = {"idx": _indices(B, num_samples), "centers": torch.empty(B, num_samples, 3)}
    return _call(
        on_host.fps, outputs, plan, points=points, lengths=lengths, starts=starts, start=start,
        B=B, N=N, M=num_samples, skip_near_origin=skip_near_origin,
    )  # fmt: skip


def knn(queries, points, k, lengths=None, plan=None):
    B, M, D = queries.shape
    outputs = {"sq_dist": torch.empty(B, M, k), "idx": _indices(B, M, k)}
    if D == 3:
        outputs["patches"] = torch.empty(B, M, k, 3)
    return _call(
        on_host.knn, outputs, plan, queries=queries, points=points, lengths=lengths,
        B=B, M=M, N=points.shape[1], k=k, D=D,
    )  # fmt: skip


def ball_query(queries, points, sq_radius, max_neighbors, lengths=None, plan=None):
    B, M, _ = queries.shape
    return _call(
        on_host.ball_query, {"idx": _indices(B, M, max_neighbors)}, plan, queries=queries,
        points=points, lengths=lengths, B=B, M=M, N=points.shape[1], K=max_neighbors,
        sq_radius=sq_radius,
    )  # fmt: skip


def grid_cells(points, size, lengths=None):
    B, N, _ = points.shape
    outputs = {"cells": _indices(B, N, 3)}
    return _call(on_host.grid_cells, outputs, points=points, lengths=lengths, B=B, N=N, size=size)


def unique_cells(cells, scenes=None):
    N = len(cells)
    outputs = {name: _indices(N) for name in ("first", "inverse", "counts")}
    outputs["total"] = _indices(1)
    return _call(on_host.unique_cells, outputs, cells=cells, scenes=scenes, N=N)


def neighbor_map(cells, scenes=None):
    outputs = {"neighbors": _indices(len(cells), 27)}
    return _call(on_host.neighbor_map, outputs, cells=cells, scenes=scenes, M=len(cells))


def curve_codes(cells, depths, scenes, curves):
    outputs = {"codes": _indices(len(curves), len(cells))}
    return _call(
        on_host.curve_codes, outputs, cells=cells, scenes=scenes, depths=depths,
        B=len(depths), M=len(cells), K=len(curves), curves=curves,
    )  # fmt: skip


def gather(values, idx):
    (B, N, C), Q = values.shape, idx.shape[1]
    return _call(
        on_host.gather, {"out": torch.empty(B, Q, C)}, values=values, idx=idx,
        B=B, N=N, Q=Q, row_bytes=C * values.element_size(),
    )  # fmt: skip


def gather_backward(grad, idx, num_points, weights=None):
    B, Q, C = grad.shape
    return _call(
        on_host.gather_backward, {"grad_values": torch.empty(B, num_points, C, dtype=grad.dtype)},
        grad=grad, idx=idx, weights=weights, B=B, N=num_points, Q=Q, k=idx.shape[2], C=C,
        dtype=grad.dtype,
    )  # fmt: skip


def interpolate(values, idx, weights):
    (B, N, C), (_, M, k) = values.shape, idx.shape
    return _call(
        on_host.interpolate, {"out": torch.empty(B, M, C)}, values=values, idx=idx,
        weights=weights, B=B, N=N, M=M, k=k, C=C,
    )  # fmt: skip


def chamfer(a, b, a_lengths=None, b_lengths=None):
    (B, N, _), M = a.shape, b.shape[1]
    outputs = {
        "sq_ab": torch.empty(B, N),
        "idx_ab": _indices(B, N),
        "sq_ba": torch.empty(B, M),
        "idx_ba": _indices(B, M),
    }
    return _call(
        on_host.chamfer, outputs, a=a, b=b, a_lengths=a_lengths, b_lengths=b_lengths, B=B, N=N, M=M
    )
