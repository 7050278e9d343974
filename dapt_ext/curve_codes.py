"""Positions of cells along space-filling curves."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dapt_ext._library import check_tensors, ops, register_fake

CURVES = ("z", "z-trans", "hilbert", "hilbert-trans")
CELL_BITS = 16  # per coordinate; the bits above all three hold the scene's number


def curve_codes(
    cells: Tensor,
    depth: int | Tensor,
    scenes: Tensor | None = None,
    curves: Sequence[str] = CURVES,
) -> Tensor:
    """Number cells along space-filling curves, so that sorting by number keeps neighbors close.

    Z-order interleaves the bits of x, y and z. The Hilbert curve steps from each cell to an
    adjacent one (Skilling, "Programming the Hilbert curve", 2004), along a different path for each
    depth. "trans" swaps x and y.

    Args:
        cells: int64 [M, 3], with coordinates in [0, 2^depth).
        depth: Bits per coordinate, 1 to 16: one number, or int64 [B] with one per scene.
        scenes: int64 [M] below 32,768; without it, all cells belong to one scene.
        curves: Names from `CURVES`.

    Returns:
        int64 [len(curves), M]: scene << 48 | position on the curve. Distinct cells have distinct
            codes.
    """
    unknown = [curve for curve in curves if curve not in CURVES]
    if isinstance(curves, str) or unknown:
        raise ValueError(f"curves must be names of {', '.join(CURVES)}, got {curves!r}")
    check_tensors(cells=cells, scenes=scenes)
    if isinstance(depth, int):
        depth = torch.full((1,), depth, device=cells.device)
    check_tensors(cells=cells, depth=depth)
    return ops.curve_codes(cells, depth, scenes, [CURVES.index(curve) for curve in curves])


@register_fake("dapt::curve_codes")
def _(cells, depths, scenes, curves):
    return cells.new_empty(len(curves), len(cells))
