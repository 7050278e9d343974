"""Cases of `ops.py` for the ops on scene cells, against the same in plain torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from measure import Case
from torch import Tensor

import dapt_ext
from dapt_ext import reference

SCANS = Path(__file__).parents[2] / "shared" / "data" / "scans.npz"
SIZE = 0.05  # of a cell, in meters; at 0.02, hardly any cells of this thinned scan are adjacent


def room(device: str) -> tuple[str, Tensor]:
    """A scanned room [1, N, 3] or, if it is not available, a bumpy sheet of as many points."""
    if SCANS.exists():
        with np.load(SCANS) as file:
            return "ScanNet room", torch.from_numpy(file["scannet_room"])[None].to(device)
    ground = 8 * torch.rand(1, 40_684, 2, generator=torch.Generator().manual_seed(0))
    height = ground.sin().prod(-1, keepdim=True)
    return "sheet", torch.cat([ground, height], -1).to(device)


def stages(device: str, count: int) -> list[Tensor]:
    """The room's cells in a grid and in ever coarser ones, each with twice the cell size."""
    cells = [dapt_ext.grid_sample(room(device)[1], SIZE).cells]
    while len(cells) < count:
        halves = cells[-1] // 2
        cells.append(halves[dapt_ext.unique_cells(halves)[0]])
    return cells


def assert_equal(name: str, ours, theirs) -> None:
    assert torch.equal(torch.cat(list(ours), -1), torch.cat(list(theirs), -1)), name


def voxels_cases(device: str) -> Iterator[Case]:
    name, points = room(device)
    yield Case(
        op="voxels",
        name=f"{name}, grid of {points.shape[1]} points",
        ours=lambda: dapt_ext.grid_sample(points, SIZE).inverse,
        peers={"torch unique": lambda: reference.grid_sample(points, SIZE).inverse},
        check=assert_equal,
        threads=1,
    )
    cells = stages(device, 1)[0]
    yield Case(
        op="voxels",
        name=f"{name}, neighbors of {len(cells)} cells",
        ours=lambda: dapt_ext.neighbor_map(cells),
        peers={"torch sort+searchsorted": lambda: reference.neighbor_map(cells)},
        check=assert_equal,
        threads=1,
    )


def codes_cases(device: str) -> Iterator[Case]:
    name, cells = room(device)[0], stages(device, 1)[0]
    depth = int(cells.max() + 1).bit_length()
    for curves in (["z"], ["hilbert"], dapt_ext.CURVES):
        yield Case(
            op="codes",
            name=f"{name}, {len(cells)} cells, {'all' if len(curves) > 1 else curves[0]}",
            ours=lambda curves=curves: dapt_ext.curve_codes(cells, depth, curves=curves),
            peers={"torch eager": lambda c=curves: reference.curve_codes(cells, depth, curves=c)},
            check=assert_equal,
            threads=1,
            goal=10,
        )


def conv_cases(device: str) -> Iterator[Case]:
    """The convolutions of PTv3's five stages, small and base; the first also with gradients."""
    for cells, widths in zip(stages(device, 5), WIDTHS, strict=True):
        neighbors = dapt_ext.neighbor_map(cells)
        for C in widths:
            yield conv_case(neighbors, C, device, with_gradients=False)
        yield conv_case(neighbors, widths[0], device, with_gradients=True)


WIDTHS = ((32, 48), (64, 96), (128, 192), (256, 384), (512,))


def conv_case(neighbors: Tensor, C: int, device: str, with_gradients: bool) -> Case:
    rng = torch.Generator().manual_seed(C)
    x = torch.randn(len(neighbors), C, generator=rng).to(device)
    weight = (torch.randn(C, 3, 3, 3, C, generator=rng) / (27 * C) ** 0.5).to(device)
    inputs = [tensor.requires_grad_(with_gradients) for tensor in (x, weight)]
    grad = torch.randn(len(neighbors), C, generator=rng).to(device)
    # Not timed: all layers of a stage share these.
    pairs = [(column >= 0).nonzero()[:, 0] for column in neighbors.T]
    sources = [neighbors[rows, tap] for tap, rows in enumerate(pairs)]

    def scatter(x, weight):
        out = torch.zeros(len(x), C, device=x.device)
        for tap, (rows, source) in enumerate(zip(pairs, sources, strict=True)):
            product = F.linear(x[source], weight.flatten(1, 3)[:, tap])
            out = out.index_add(0, rows, product)
        return out

    padded = neighbors.where(neighbors >= 0, len(neighbors))

    def gather_all(x, weight):
        around = F.pad(x, (0, 0, 0, 1))[padded].flatten(1)  # [M, 27 C]
        return F.linear(around, weight.flatten(1))

    def run(convolve):
        out = convolve(x, weight)
        return torch.autograd.grad(out, inputs, grad) if with_gradients else (out,)

    def check(name: str, ours, theirs) -> None:
        for mine, other in zip(ours, theirs, strict=True):  # float32 sums in a different order
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=5e-3, msg=lambda t: name + t)

    return Case(
        op="conv",
        name=f"{len(neighbors)} cells, {C} channels{', gradients' * with_gradients}",
        ours=lambda: run(lambda x, w: dapt_ext.submanifold_conv(x, w, None, neighbors)),
        peers={
            "torch gather+matmul+scatter": lambda: run(scatter),
            "torch gather all+matmul": lambda: run(gather_all),
        },
        check=check,
        threads=1,
        goal=5,
    )
