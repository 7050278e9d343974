"""The ops of `dapt_ext` in terms of torch ops that ONNX supports, for exported networks.

They rely only on what other runtimes guarantee as well: the first of equal maxima and the lowest
index of equal neighbors. Centers and neighbors are therefore the same as those of the kernels.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from dapt.errors import UsageError
from dapt_ext import reference
from dapt_ext._library import ops


def decompositions() -> dict[torch._ops.OpOverload, Callable]:
    """The table for `ExportedProgram.run_decompositions`.

    It leaves farthest point sampling alone, which is a loop; see `onnx_fps`.
    """
    return {
        ops.knn.default: knn,
        ops.group.default: group,
        ops.gather.default: gather,
        ops.interpolate.default: interpolate,
        ops.patch_encoder.default: patch_encoder,
        ops.dynamic_adapter.default: dynamic_adapter,
        ops.attention.default: attention,
        torch.ops.aten.cdist.default: cdist,
    }


def knn(queries, points, k, lengths=None):
    """The nearest first; ties go to the lowest index."""
    if lengths is not None:
        raise UsageError("a network that finds neighbors with lengths cannot be exported")
    distance = squared_distance(queries.float()[:, :, None], points.float()[:, None])  # [B, M, N]
    sq_dist, idx = distance.topk(k, largest=False)
    return sq_dist, idx


def group(
    points, num_groups, group_size, lengths=None, starts=None, start=0, skip_near_origin=False
):
    """Sampled centers, and the patches of their neighbors: the op's four outputs."""
    points = points.float()
    center_idx = ops.fps(points, num_groups, lengths, starts, start, skip_near_origin)  # [B, G]
    centers = _rows(points, center_idx)  # [B, G, 3]
    patch_idx = knn(centers, points, group_size)[1]  # [B, G, K]
    patches = _rows(points, patch_idx.flatten(1)).unflatten(1, (num_groups, group_size))
    return patches - centers[:, :, None], centers, patch_idx, center_idx


def gather(values, idx):
    """Rows of each cloud; zeros for a negative index."""
    rows = _rows(values, idx.flatten(1).clamp(min=0)).reshape(*idx.shape, values.shape[2])
    return rows.masked_fill((idx < 0)[..., None], 0)


def interpolate(values, idx, weights):
    """Weighted sums of each cloud's rows."""
    rows = gather(values, idx)  # [B, M, k, C]
    return (rows * weights[..., None]).sum(2).to(values.dtype)


def patch_encoder(
    patches, conv1, bias1, conv2, conv3_global, conv3_local, bias3, conv4, bias4, compute,
    tf32=False,
):  # fmt: skip
    """Tokens [B, G, C], the maximum over the points of each patch."""
    first = F.relu(F.linear(patches, conv1, bias1))  # [B, G, K, .]
    overall = F.linear(first, conv2).amax(2, keepdim=True)
    mixed = F.linear(overall, conv3_global) + F.linear(first, conv3_local, bias3)
    return (F.linear(F.relu(mixed), conv4).amax(2) + bias4).to(compute)


def dynamic_adapter(
    x, norm_weight, norm_bias, down_weight, down_bias, scale_weight, scale_bias, up_weight, up_bias,
    mlp_out, residual, path_factor, seed, activation, static_scale, dropout, eps, compute,
    out_dtype, prompt, keep_hidden, tf32=False,
):  # fmt: skip
    """Computed by the reference; outputs that only a backward reads are empty or zero."""
    out, mean = reference.dynamic_adapter(
        x, down_weight, down_bias, up_weight, up_bias, norm_weight=norm_weight,
        norm_bias=norm_bias, scale_weight=scale_weight, scale_bias=scale_bias,
        static_scale=static_scale, mlp_out=mlp_out, residual=residual, path_factor=path_factor,
        activation=activation, prompt=prompt, eps=eps,
    )  # fmt: skip
    mean = x.new_zeros(0) if mean is None else mean
    return out, mean, x.new_zeros(0), torch.zeros_like(x[..., :3])  # the last two for the backward


def attention(qkv, num_heads):
    """The output, and the log-sum-exp of the scores."""
    q, k, v = qkv.unflatten(2, (3, num_heads, -1)).permute(2, 0, 3, 1, 4)  # [B, H, T, D]
    scores = q @ k.transpose(2, 3) * q.shape[3] ** -0.5
    out = (scores.softmax(3) @ v).transpose(1, 2).flatten(2)
    return out, scores.logsumexp(3)


def cdist(a, b, p=2.0, compute_mode=None):
    """Distances [B, M, N] between points.

    Args:
        a: [B, M, D].
        b: [B, N, D].
        p: The norm; only 2 is supported.
        compute_mode: Ignored.
    """
    if p != 2:
        raise UsageError(f"distances of the {p}-norm cannot be exported")
    return (a[:, :, None] - b[:, None]).square().sum(3).sqrt()  # [B, M, N]


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """Squared distance over the last dimension, in float32: fma(dz, dz, fma(dy, dy, dx * dx)).

    A product of float32 numbers is exact in float64, so the result equals the kernels' except when
    rounding twice makes a difference, about once in 2^29.

    Args:
        a: [..., D].
        b: [..., D].
    """
    first, *others = (a - b).double().unbind(-1)
    total = (first * first).float()
    for d in others:
        total = (d * d + total.double()).float()
    return total


def _rows(values: Tensor, idx: Tensor) -> Tensor:  # [B, N, C], [B, M] -> [B, M, C]
    return values.gather(1, idx[..., None].expand(-1, -1, values.shape[2]))
