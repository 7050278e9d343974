"""Valid arguments of every op in `torch.ops.dapt`, by the names of their schemas."""

from __future__ import annotations

from typing import Any

import torch

from dapt_ext._library import names_of_ops
from dapt_ext.dynamic_adapter import Gradients

ops = torch.ops.dapt
B, N, M, C, R = 2, 9, 4, 6, 3  # clouds, points, queries or tokens, channels, rank
A = 3  # adapters


def names() -> list[str]:
    """Every op with arguments, that is, all except build_info()."""
    return [name for name in names_of_ops() if schema(name).arguments]


def schema(name: str) -> torch._C.FunctionSchema:
    return getattr(ops, name).default._schema


def samples() -> dict[str, dict[str, Any]]:
    """Arguments by op and name, with every tensor present, even the optional ones."""
    rng = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=rng)

    def index(*shape, below=N):
        return torch.randint(below, shape, generator=rng)

    points, queries, lengths = normal(B, N, 3), normal(B, M, 3), torch.tensor([N, N - 2])
    adapter = {
        "x": normal(B, M, C),
        "norm_weight": normal(C),
        "norm_bias": normal(C),
        "down_weight": normal(R, C),
        "down_bias": normal(R),
        "scale_weight": normal(1, C),
        "scale_bias": normal(1),
        "up_weight": normal(C, R),
        "up_bias": normal(C),
        "path_factor": normal(B),
        "seed": torch.tensor(5),
        "activation": "gelu",
        "static_scale": 1.0,
        "dropout": 0.2,
        "eps": 1e-5,
        "compute": torch.float32,
        "tf32": False,
    }
    out, stats = normal(B, M, C), normal(B, M, 3)
    neighbors = ops.neighbor_map(torch.cartesian_prod(*3 * [torch.arange(3)])[::3])  # [N, 27]
    return {
        "fps": dict(points=points, num_samples=3, lengths=lengths, starts=index(B, below=5)),
        "knn": dict(queries=queries, points=points, k=3, lengths=lengths),
        "group": dict(
            points=points, num_groups=3, group_size=2, lengths=lengths, starts=index(B, below=5)
        ),
        "ball_query": dict(
            queries=queries, points=points, radius=0.7, max_neighbors=3, lengths=lengths
        ),
        "grid_cells": dict(points=points, size=0.3, lengths=lengths),
        "unique_cells": dict(cells=index(N, 3), scenes=index(N, below=B)),
        "neighbor_map": dict(cells=index(N, 3), scenes=index(N, below=B)),
        "curve_codes": dict(
            cells=index(N, 3), depths=torch.tensor([4, 5]), scenes=index(N, below=B), curves=[0, 3]
        ),
        "gather": dict(values=normal(B, N, C), idx=index(B, M, 2)),
        "gather_backward": dict(
            grad=normal(B, M, C), idx=index(B, M, 2), num_points=N, weights=normal(B, M, 2)
        ),
        "interpolate": dict(values=normal(B, N, C), idx=index(B, M, 2), weights=normal(B, M, 2)),
        "patch_encoder": dict(
            patches=normal(B, M, N, 3), conv1=normal(4, 3), bias1=normal(4), conv2=normal(5, 4),
            conv3_global=normal(C, 5), conv3_local=normal(C, 4), bias3=normal(C),
            conv4=normal(7, C), bias4=normal(7), compute=torch.float32, tf32=False,
        ),  # fmt: skip
        "dynamic_adapter": adapter | dict(
            mlp_out=out, residual=normal(B, M, C), out_dtype=torch.float32, prompt=True,
            keep_hidden=True,
        ),  # fmt: skip
        "dynamic_adapters": dict(
            x=normal(B, M, C), adapters=torch.tensor([2, 0]), norm_weight=normal(A, C),
            norm_bias=normal(A, C), down_weight=normal(A, R, C), down_bias=normal(A, R),
            scale_weight=normal(A, 1, C), scale_bias=normal(A, 1), up_weight=normal(A, C, R),
            up_bias=normal(A, C), mlp_out=out, residual=normal(B, M, C), activation="gelu",
            static_scale=1.0, eps=1e-5, compute=torch.float32, out_dtype=torch.float32,
            prompt=True, tf32=False,
        ),  # fmt: skip
        "dynamic_adapter_backward": adapter | dict(
            grad_out=out, grad_prompt=normal(B, C), stats=stats, hidden=normal(B, M, R),
            mlp_dtype=torch.float32, wanted=list(Gradients._fields),
        ),  # fmt: skip
        "submanifold_conv": dict(
            x=normal(N, C), weight=normal(R, 3, 3, 3, C), bias=normal(R), neighbors=neighbors,
            tf32=False,
        ),
        "submanifold_conv_input_grad": dict(
            grad=normal(N, R), weight=normal(R, 3, 3, 3, C), neighbors=neighbors, tf32=False
        ),
        "submanifold_conv_weight_grad": dict(
            grad=normal(N, R), x=normal(N, C), neighbors=neighbors, tf32=False
        ),
        "scale_shift_fold": dict(
            weight=normal(R, C), bias=normal(R), scale=normal(R), shift=normal(R),
            dtype=torch.float32,
        ),
        "scale_shift_fold_grad": dict(
            grad_folded=normal(R, C), grad_offset=normal(R), weight=normal(R, C), bias=normal(R)
        ),
        "scale_shift_grad": dict(
            grad=out, output=normal(B, M, C), scale=normal(C), shift=normal(C), least_scale=0.0
        ),
        "attention": dict(qkv=normal(B, M, 3 * C), num_heads=2),
        "attention_backward": dict(
            grad=out, qkv=normal(B, M, 3 * C), out=normal(B, M, C), log_sum=normal(B, 2, M),
            num_heads=2,
        ),  # fmt: skip
        "chamfer": dict(
            a=points, b=queries, a_lengths=lengths, b_lengths=torch.tensor([M - 1, M])
        ),
    }  # fmt: skip


def call(name: str, arguments: dict[str, Any]) -> tuple[torch.Tensor, ...]:
    result = getattr(ops, name)(**arguments)
    return result if isinstance(result, tuple) else (result,)


def arguments_of(kind: type) -> list[tuple[str, str]]:
    """(op, argument) for all arguments of a given type."""
    return [
        (op, name)
        for op, arguments in samples().items()
        for name, value in arguments.items()
        if type(value) is kind
    ]
