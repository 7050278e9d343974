"""Ball query compared with its reference and brute force."""

import pytest
import torch
from torch.library import opcheck

from dapt_ext import ball_query, reference


@pytest.mark.parametrize("N, K", [(1, 1), (2, 7), (31, 32), (33, 70), (1000, 7), (8192, 32)])
def test_equals_twin(make_cloud, on_each_isa, N, K):
    points = make_cloud(2, N)
    queries = torch.cat([points[:, :15], make_cloud(2, 5)], dim=1)
    for radius in (0.3, 1.0):
        expected = reference.ball_query(queries, points, radius, K)
        for idx in on_each_isa(ball_query, queries, points, radius, K):
            assert torch.equal(idx, expected)


def test_real_scans(scans, on_each_isa):
    for points in scans.values():
        queries = points[:, ::701].contiguous()
        for radius in (0.1, 0.5):
            expected = reference.ball_query(queries, points, radius, 32)
            for idx in on_each_isa(ball_query, queries, points, radius, 32):
                assert torch.equal(idx, expected)


def test_rows_are_hits_in_index_order_then_the_first_hit():
    points = torch.tensor([[[0.0, 0, 0], [5, 0, 0], [0.1, 0, 0], [1, 0, 0]]])
    queries = torch.tensor([[[0.0, 0, 0], [9, 9, 9], [4.5, 0, 0]]])
    idx = ball_query(queries, points, 1.0, 3)
    # A point at exactly the radius is outside.
    assert idx.tolist() == [[[0, 2, 0], [-1, -1, -1], [1, 1, 1]]]


@pytest.mark.parametrize("N", [70, 6000])
def test_lengths(on_each_isa, N):
    points, lengths = torch.randn(4, N, 3), torch.tensor([N, 0, 1, N // 2])
    queries = torch.cat([points[:, :9], points[:, -9:]], dim=1)
    expected = reference.ball_query(queries, points, 0.6, 12, lengths)
    for idx in on_each_isa(ball_query, queries, points, 0.6, 12, lengths):
        assert torch.equal(idx, expected)
        assert (idx < lengths[:, None, None]).all() and (idx[1] == -1).all()


def test_half_and_strides():
    points, queries = torch.randn(2, 3, 90).half().mT, torch.randn(2, 5, 3).half()
    expected = ball_query(queries.float(), points.float().contiguous(), 0.7, 8)
    assert torch.equal(ball_query(queries, points, 0.7, 8), expected)


def test_empty():
    assert ball_query(torch.empty(0, 4, 3), torch.empty(0, 9, 3), 1.0, 2).shape == (0, 4, 2)
    assert (ball_query(torch.zeros(1, 2, 3), torch.empty(1, 0, 3), 1.0, 2) == -1).all()


def test_opcheck():
    opcheck(torch.ops.dapt.ball_query, (torch.randn(2, 5, 3), torch.randn(2, 40, 3), 0.5, 4))
    lengths = torch.tensor([40, 3])
    arguments = (torch.randn(2, 5, 3), torch.randn(2, 40, 3), 0.5, 4, lengths)
    opcheck(torch.ops.dapt.ball_query, arguments)


def test_compiles_without_graph_breaks():
    compiled = torch.compile(lambda q, p: ball_query(q, p, 0.5, 4) + 1, fullgraph=True)
    assert compiled(torch.randn(2, 5, 3), torch.randn(2, 40, 3)).shape == (2, 5, 4)
