"""Positions of cells along space-filling curves, and the defining properties of the curves."""

import pytest
import torch
from torch.library import opcheck

from dapt_ext import CURVES, curve_codes, reference


def all_cells(depth):
    side = torch.arange(2**depth)
    return torch.cartesian_prod(side, side, side)


@pytest.mark.parametrize("M", [1, 63, 64, 65, 1000])
@pytest.mark.parametrize("depth", [1, 2, 5, 9, 16])
def test_equals_twin(on_each_isa, M, depth):
    cells = torch.randint(2**depth, (M, 3))
    expected = reference.curve_codes(cells, depth)
    for codes in on_each_isa(curve_codes, cells, depth):
        assert torch.equal(codes, expected)


def test_scenes_have_depths_of_their_own(on_each_isa):
    depths, scenes = torch.tensor([3, 16, 1, 7]), torch.randint(4, (200,))
    cells = torch.randint(2**16, (200, 3)) % (1 << depths[scenes])[:, None]
    expected = reference.curve_codes(cells, depths, scenes)
    for codes in on_each_isa(curve_codes, cells, depths, scenes):
        assert torch.equal(codes, expected)
    for scene in range(4):
        alone = curve_codes(cells[scenes == scene], int(depths[scene]))
        assert torch.equal(codes[:, scenes == scene], alone | scene << 48)


def test_one_depth_for_many_scenes():
    cells, scenes = torch.randint(16, (90, 3)), torch.randint(2**15, (90,))
    assert torch.equal(curve_codes(cells, 4, scenes), curve_codes(cells, 4) | scenes << 48)


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_every_cell_has_a_place(curve, depth):
    codes = curve_codes(all_cells(depth), depth, curves=[curve])[0]
    assert torch.equal(codes.sort().values, torch.arange(8**depth))


@pytest.mark.parametrize("curve", ["hilbert", "hilbert-trans"])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_hilbert_goes_from_each_cell_to_one_beside_it(curve, depth):
    cells = all_cells(depth)
    along = cells[curve_codes(cells, depth, curves=[curve])[0].argsort()]
    assert (along.diff(dim=0).abs().sum(1) == 1).all()


def test_z_order_is_by_the_bits():
    codes = curve_codes(torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [2, 0, 0]]), 2)
    assert codes[0].tolist() == [4, 2, 1, 32]
    assert codes[1].tolist() == [2, 4, 1, 16]  # with x and y swapped


def test_any_strides_and_choice_of_curves():
    cells = torch.randint(256, (3, 40)).mT
    codes = curve_codes(cells[::2], 8, curves=["hilbert", "z", "hilbert"])
    assert torch.equal(codes[0], codes[2])
    assert torch.equal(codes, reference.curve_codes(cells[::2], 8)[[2, 0, 2]])


def test_empty():
    none = torch.zeros(0, 3, dtype=torch.long)
    assert curve_codes(none, 3).shape == (4, 0)
    assert curve_codes(none, none[:, 0], none[:, 0]).shape == (4, 0)
    assert curve_codes(torch.zeros(5, 3, dtype=torch.long), 3, curves=[]).shape == (0, 5)


def test_opcheck_and_compile(fresh_compiler):
    cells, depths, scenes = torch.randint(8, (30, 3)), torch.tensor([3, 4]), torch.randint(2, (30,))
    opcheck(torch.ops.dapt.curve_codes, (cells, depths, scenes, [0, 3]))
    compiled = torch.compile(curve_codes, fullgraph=True)
    assert torch.equal(compiled(cells, depths, scenes), curve_codes(cells, depths, scenes))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((torch.zeros(4, 2).long(), 3), r"cells must be \[M, 3\], got \[4, 2\]"),
        ((torch.zeros(4, 3), 3), "cells must be int64, got float32"),
        ((torch.full((4, 3), -1), 3), r"cells must lie in \[0, 8\) for a depth of 3, got -1"),
        ((torch.full((4, 3), 9), 3), r"cells must lie in \[0, 8\) for a depth of 3, got 9 for"),
        ((torch.zeros(4, 3).long(), 17), r"depths must lie in \[1, 17\), got 17"),
        ((torch.zeros(4, 3).long(), torch.tensor([2, 3])), r"depths must be \[1\] without scenes"),
        (
            (torch.zeros(2, 3).long(), torch.tensor([2, 3]), torch.tensor([0, 2])),
            r"scenes must lie in \[0, 2\), got 2",
        ),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(RuntimeError, match=message):
        curve_codes(*arguments)


def test_unknown_curves():
    for curves in (["peano"], "z"):
        with pytest.raises(ValueError, match="curves must be names of z, z-trans, hilbert"):
            curve_codes(torch.zeros(1, 3).long(), 1, curves=curves)
