"""Every point op against its PyTorch reference: awkward clouds and sizes, each instruction set.

Indices and squared distances must equal the reference to the last bit.
"""

import os
from collections.abc import Callable
from unittest import mock

import numpy as np
import torch
from torch import Tensor

import dapt_ext
from attack.harness import Budget, Tally, attack
from dapt_ext import reference
from support.awkward import KINDS

Call = Callable[[object], Tensor | tuple[Tensor, ...]]  # takes dapt_ext or its reference


def _call(rng: np.random.Generator) -> tuple[str, Call]:
    """(a description, a call that takes the module: `dapt_ext` or its reference)."""
    op = rng.choice(["farthest_point_sample", "knn", "group", "ball_query", "chamfer"])
    kind = rng.choice(list(KINDS))
    B, M = rng.integers(1, 4), int(rng.integers(1, 70))
    N = int(rng.choice([rng.integers(1, 40), rng.integers(1, 700)]))
    lengths = torch.from_numpy(rng.integers(1, N + 1, B)) if rng.random() < 0.5 else None
    fits = N if lengths is None else int(lengths.min())
    draw = torch.Generator().manual_seed(int(rng.integers(2**31)))
    points, queries = KINDS[kind](B, N, draw), KINDS[kind](B, M, draw)
    N, M = points.shape[1], queries.shape[1]  # a lattice may have fewer points
    fits = min(fits, N)
    lengths = None if lengths is None else lengths.clamp(max=N)
    k = int(rng.integers(1, min(fits, 300) + 1))
    if op == "farthest_point_sample":
        given = (points, k, lengths, int(rng.integers(fits)))
    elif op == "knn":
        given = (queries, points, k, lengths)
    elif op == "group":
        given = (points, int(rng.integers(1, fits + 1)), k, lengths, int(rng.integers(fits)))
    elif op == "ball_query":
        scale = points.square().sum(-1).sqrt().mean().item()
        radius = float(np.clip(scale * rng.choice([0.01, 0.3, 1.0, 3.0]), 1e-30, 1e30))
        given = (queries, points, radius, k, lengths)
    else:
        given = (points, queries, lengths)
    return f"{op} of {B} x {N} {kind}, {k}", lambda module: getattr(module, op)(*given)


@attack("ops", small=120)
def ops(budget: Budget) -> Tally:
    """Runs point ops against their references."""
    tally = Tally()
    for case, rng in budget.numbers():
        what, call = _call(rng)
        expected = call(reference)
        for isa in dapt_ext.build_info()["cpu_instruction_sets"]:
            with mock.patch.dict(os.environ, DAPT_CPU_ISA=isa):
                found = call(dapt_ext)
            pairs = zip(
                *(v if isinstance(v, tuple) else (v,) for v in (found, expected)), strict=True
            )
            if all(torch.equal(mine, twin) for mine, twin in pairs):
                tally.add(f"equal on {isa}")
            else:
                tally.fail(
                    f"case {case} of seed {budget.seed}, {isa}: {what} differs from the reference"
                )
    return tally
