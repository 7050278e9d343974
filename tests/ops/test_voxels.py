"""Cells of points in a grid, distinct cells, and the neighbors of cells."""

import pytest
import torch
from torch.library import opcheck

from dapt_ext import grid_sample, neighbor_map, reference, unique_cells


def assert_same(mine, expected):
    for got, wanted in zip(mine, expected, strict=True):
        assert got.dtype == wanted.dtype and torch.equal(got, wanted)


def surface(cells, scenes=1, side=40):
    """Cells of a bumpy sheet in each scene, in random order: int64 [M, 3] and [M]."""
    place = torch.randint(side, (cells, 2))
    height = ((place.sum(1) * 0.3).sin() * 5 + 6).long()
    return torch.cat([place, height[:, None]], 1), torch.randint(scenes, (cells,))


# --- grid_sample


@pytest.mark.parametrize("N", [1, 2, 33, 1000])
def test_grid_sample_equals_twin(on_each_isa, make_cloud, N):
    points = make_cloud(3, N)
    size = float((points.amax() - points.amin()).clamp_min(1e-30)) / 9
    lengths = torch.tensor([N, max(N // 3, 1), N])
    for given in (None, lengths):
        expected = reference.grid_sample(points, size, given)
        for mine in on_each_isa(grid_sample, points, size, given):
            assert_same(mine, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_grid_sample_of_any_dtype_and_strides(dtype):
    points = torch.randn(2, 3, 80).to(dtype).mT[:, ::2]
    assert_same(grid_sample(points, 0.3), grid_sample(points.float().contiguous(), 0.3))


def test_cells_hold_their_points(scans):
    points = scans["scannet_room"]
    cells = grid_sample(points, 0.05)
    corner = points.double().amin(1)
    index = (points[0].double() - corner) / 0.05
    assert torch.equal(cells.cells[cells.inverse[0]], index.floor().long())
    assert torch.equal(cells.inverse[0, cells.first], torch.arange(len(cells.first)))
    assert (cells.first.diff() > 0).all()  # in the order of their points
    assert torch.equal(cells.counts, torch.bincount(cells.inverse[0]))
    assert len(torch.unique(cells.cells, dim=0)) == len(cells.cells)


def test_a_cloud_does_not_depend_on_the_others():
    points = torch.randn(3, 200, 3)
    together = grid_sample(points, 0.5)
    for b in range(3):
        alone = grid_sample(points[b : b + 1], 0.5)
        own = together.scenes == b
        assert torch.equal(together.cells[own], alone.cells)
        assert torch.equal(together.first[own], alone.first + 200 * b)


def test_points_past_the_length_have_no_cell():
    points = torch.randn(2, 50, 3)
    points[1, 20:] = -100  # would move the corner if it counted
    cells = grid_sample(points, 0.5, torch.tensor([0, 20]))
    assert (cells.inverse[0] == -1).all() and (cells.inverse[1, 20:] == -1).all()
    assert torch.equal(cells.cells, grid_sample(points[1:, :20], 0.5).cells)


def test_empty_grid_sample():
    for shape in ((0, 5, 3), (2, 0, 3)):
        cells = grid_sample(torch.randn(shape), 0.1)
        assert cells.cells.shape == (0, 3) and cells.inverse.shape == shape[:2]


@pytest.mark.parametrize(
    "points, size, lengths, message",
    [
        (torch.randn(2, 4, 3), 0.0, None, "size must be above 0 and finite, got 0"),
        (torch.randn(2, 4, 3), float("nan"), None, "size must be above 0 and finite, got nan"),
        (torch.randn(4, 3), 0.1, None, r"points must be \[B, N, 3\], got \[4, 3\]"),
        (torch.full((1, 4, 3), torch.inf), 0.1, None, "points must be finite"),
        (
            torch.tensor([[[0.0, 0, 0], [0, 70000, 0]]]), 1.0, None,
            "size must be larger: cloud 0 has more than 65536 cells of 1 .* as far as point 1",
        ),
        (torch.tensor([[[0.0, 0, 0], [3e38, 0, 0]]]), 1e-30, None, "size must be larger"),
        (torch.randn(1, 4, 3), 0.1, torch.tensor([5]), r"lengths must lie in \[0, 5\), got 5"),
    ],
)  # fmt: skip
def test_bad_grid_sample(points, size, lengths, message):
    with pytest.raises(RuntimeError, match=message):
        grid_sample(points, size, lengths)


# --- unique_cells


@pytest.mark.parametrize("N, scenes", [(1, 1), (2, 1), (700, 1), (3000, 7)])
def test_unique_cells_equal_twin(on_each_isa, N, scenes):
    cells, of = surface(N, scenes)
    cells[torch.rand(N) < 0.1] = -1  # no cell
    is_one = cells[:, 0] >= 0
    first, numbers, counts = reference.unique_cells(cells[is_one], of[is_one])
    inverse = torch.full((N,), -1)
    inverse[is_one] = numbers
    expected = is_one.nonzero()[:, 0][first], inverse, counts
    for mine in on_each_isa(unique_cells, cells, of):
        assert_same(mine, expected)


def test_unique_cells_at_the_ends_of_the_grid():
    cells = torch.tensor([[0, 0, 65535], [65535, 65535, 65535], [0, 1, 0], [0, 0, 65535]])
    scenes = torch.tensor([0, 32767, 0, 0])
    first, inverse, counts = unique_cells(cells, scenes)
    assert first.tolist() == [0, 1, 2] and inverse.tolist() == [0, 1, 2, 0]
    assert counts.tolist() == [2, 1, 1]
    assert unique_cells(cells[:0])[0].shape == (0,)


def test_many_far_cells():
    """A table that grows, in which hardly any cube has two cells."""
    cells = torch.randint(65536, (20_000, 3))
    assert_same(unique_cells(cells), reference.unique_cells(cells))


# --- neighbor_map


@pytest.mark.parametrize("N, scenes", [(1, 1), (40, 1), (900, 1), (3000, 5)])
def test_neighbor_map_equals_twin(on_each_isa, N, scenes):
    cells, of = surface(N, scenes)
    first, _, _ = unique_cells(cells, of)
    cells, of = cells[first], of[first]
    expected = reference.neighbor_map(cells, of)
    for mine in on_each_isa(neighbor_map, cells, of):
        assert torch.equal(mine, expected)


def test_neighbors_are_mutual_and_where_they_should_be():
    cells = unique_rows(torch.randint(9, (300, 3)))
    neighbors = neighbor_map(cells)
    steps = torch.cartesian_prod(*[torch.arange(-1, 2)] * 3)
    assert torch.equal(neighbors[:, 13], torch.arange(len(cells)))
    row, tap = (neighbors >= 0).nonzero(as_tuple=True)
    assert torch.equal(cells[neighbors[row, tap]], cells[row] + steps[tap])
    assert torch.equal(neighbors[neighbors[row, tap], 26 - tap], row)
    pairs = (cells[:, None] - cells[None]).abs().amax(-1) <= 1
    assert pairs.sum() == len(row)  # none is missing


def unique_rows(cells):
    return cells[unique_cells(cells)[0]]


def test_neighbor_map_at_the_ends_of_the_grid():
    cells = torch.tensor([[0, 0, 0], [0, 0, 65535], [65535, 65535, 65535], [65535, 65534, 65534]])
    neighbors = neighbor_map(cells)
    assert torch.equal(neighbors, reference.neighbor_map(cells))
    assert (neighbors >= 0).sum() == 6  # themselves, and the last two each other


def test_neighbor_map_of_equal_cells_names_the_first():
    cells = torch.tensor([[4, 4, 4], [4, 4, 5], [4, 4, 4]])
    assert neighbor_map(cells)[:, 13].tolist() == [0, 1, 0]
    assert neighbor_map(cells)[:, 12].tolist() == [-1, 0, -1]
    assert neighbor_map(cells[:0]).shape == (0, 27)


def test_opcheck_and_compile(fresh_compiler):
    cells, scenes = surface(60, 3)
    opcheck(torch.ops.dapt.grid_cells, (torch.randn(2, 9, 3), 0.3, torch.tensor([9, 4])))
    opcheck(torch.ops.dapt.unique_cells, (cells, scenes))
    opcheck(torch.ops.dapt.neighbor_map, (cells, scenes))

    def around(cells, scenes):
        return neighbor_map(cells, scenes), torch.ops.dapt.unique_cells(cells, scenes)[1]

    compiled = torch.compile(around, fullgraph=True)
    assert_same(compiled(cells, scenes), around(cells, scenes))


@pytest.mark.parametrize("op", [unique_cells, neighbor_map])
@pytest.mark.parametrize(
    "cells, scenes, message",
    [
        (torch.zeros(3).long(), None, "cells must be .*, got .3."),
        (torch.zeros(3, 3), None, "cells must be int64, got float32"),
        (torch.full((3, 3), 65536), None, r"cells must lie in .*65536\), got 65536"),
        (torch.zeros(3, 3).long(), torch.zeros(2).long(), r"scenes must be \[3\], got \[2\]"),
        (torch.zeros(3, 3).long(), torch.full((3,), 2**15), r"scenes must lie in .*32768\)"),
        (torch.zeros(3, 3).long(), torch.zeros(3), "scenes must be int64"),
    ],
)
def test_bad_cells(op, cells, scenes, message):
    with pytest.raises(RuntimeError, match=message):
        op(cells, scenes)
