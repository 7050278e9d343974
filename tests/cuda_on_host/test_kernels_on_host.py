"""The CUDA kernels run on the CPU in random thread order give exactly the CPU kernels' results."""

import re

import points_on_host
import pytest
import torch
from host_module import SANITIZE, on_host, plans

import dapt_ext

SEED = int(SANITIZE)  # `make sanitize` and `make test` run the threads in different orders


def check(kernel, expected, *args, **options):
    """Runs a kernel with threads in random order; results must have the bits of `expected`."""
    on_host.set_seed(SEED)
    results = kernel(*args, **options)
    results = results if isinstance(results, tuple) else (results,)
    for mine, theirs in zip(results, expected, strict=True):
        assert mine.dtype == theirs.dtype
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0, equal_nan=True)


# --- farthest point sampling ----------------------------------------------------------------------


def check_fps(points, M, lengths=None, starts=None, skip_near_origin=False, plan=None):
    idx = torch.ops.dapt.fps(points, M, lengths, starts, skip_near_origin=skip_near_origin)
    check(
        points_on_host.fps,
        (idx, dapt_ext.gather(points, idx)),
        points,
        M,
        lengths,
        starts,
        skip_near_origin=skip_near_origin,
        plan=plan,
    )


@pytest.mark.parametrize("N", [1, 2, 31, 33, 1000, 1025, 2048])
def test_fps(make_cloud, N):
    check_fps(make_cloud(2, N), min(N, 24))


@pytest.mark.parametrize("number", range(len(plans.every_fps(1, 100))))
def test_fps_by_every_kernel(number):
    points = torch.randn(3, 400, 3)
    points[0, 100:200] = points[0, 300:]  # some points coincide
    points[1] = (points[1] * 2).round()  # mostly ties
    lengths, starts = torch.tensor([400, 37, 399]), torch.tensor([3, 36, 0])
    plan = plans.every_fps(3, 400)[number]
    check_fps(points, 12, lengths, starts, plan=plan)
    points[:, ::2] *= 0.01
    check_fps(points, 9, lengths, starts, skip_near_origin=True, plan=plan)


@pytest.mark.parametrize(
    ("kernel", "N"),
    [("512 threads x 8 ", 8200), ("512 threads x 16 ", 8300), ("512 threads x 20 ", 10_300),
     ("1024 threads x all ", 2100)],
)  # fmt: skip
def test_fps_by_blocks_that_meet_in_global_memory(kernel, N):
    """Several blocks share a cloud, using mailboxes as the previous cloud has left them."""
    points = torch.randn(2, N, 3).round(decimals=1)
    few = plans.Device(multiprocessors=3, shared_per_block=227 * 1024, max_cluster=1, code=90)
    (plan,) = [
        plan
        for plan in plans.every_fps(2, N, few)
        if kernel in repr(plan) and not repr(plan).startswith("block")
    ]
    assert re.search(r": [23] blocks x .* 1 clouds at once", repr(plan))
    check_fps(points, 7, plan=plan)


@pytest.mark.parametrize("N, M, kernel", [(8192, 20, "cluster"), (40_684, 6, "cluster")])
def test_fps_of_large_clouds(scans, N, M, kernel):
    points = scans["scannet_room"][:, :N].contiguous()
    plan = plans.fps(1, N)
    assert repr(plan).startswith(kernel)
    check_fps(points, M, plan=plan)


def test_fps_chooses_every_point_once():
    check_fps(torch.zeros(1, 70, 3), 70)
    check_fps(torch.randn(2, 200, 3), 200)


# --- nearest neighbors ---------------------------------------------------------------------------


def check_knn(queries, points, k, lengths=None, plan=None):
    sq_dist, idx = dapt_ext.knn(queries, points, k, lengths)
    patches = dapt_ext.gather(points, idx) - queries[:, :, None]
    check(points_on_host.knn, (sq_dist, idx, patches), queries, points, k, lengths, plan=plan)


@pytest.mark.parametrize("N, k", [(1, 1), (2, 2), (31, 3), (33, 33), (1000, 32), (1025, 65)])
def test_knn(make_cloud, N, k):
    points = make_cloud(2, N)
    check_knn(points[:, :5].contiguous(), points, k)


@pytest.mark.parametrize("k", [1, 4, 5, 32, 33, 64, 128, 200, 256, 512, 513, 700])
def test_knn_for_any_k(k):
    points = torch.randn(1, 700, 3)
    points[0, 350:] = points[0, :350]  # every distance occurs twice
    check_knn(points[:, :3].contiguous(), points, k)


@pytest.mark.parametrize("D", [1, 2, 5, 33])
@pytest.mark.parametrize("N, k", [(1, 1), (33, 33), (90, 40), (300, 150)])
def test_knn_in_any_dimension(D, N, k):
    points, lengths = torch.randn(2, N, D), torch.tensor([N, k])
    points[0, N // 2 :] = points[0, : N - N // 2].clone()  # every distance occurs twice
    queries = torch.randn(2, 5, D)
    expected = dapt_ext.knn(queries, points, k, lengths)
    check(points_on_host.knn, expected, queries, points, k, lengths)


def test_knn_in_any_dimension_by_several_passes():
    points = torch.randn(1, 1100, 2).round(decimals=1)
    expected = dapt_ext.knn(points[:, :2], points, 1050)
    check(points_on_host.knn, expected, points[:, :2], points, 1050)


@pytest.mark.parametrize("k", [1, 3, 16])
def test_knn_costs_no_more_for_points_in_one_place(k):
    """Counts accesses to shared memory: each point is visited once, and later ones at the same
    distance are not among the nearest."""
    apart, counts = torch.randn(1, 1500, 3), []
    for points in (apart, apart[:, :1].repeat(1, 1500, 1), apart[:, torch.arange(1500) % 7]):
        before = on_host.accesses_watched()
        points_on_host.knn(points[:, :20].contiguous(), points, k)
        counts.append(on_host.accesses_watched() - before)
    assert 0 < max(counts[1:]) <= 1.1 * counts[0], counts


@pytest.mark.parametrize("warp_per_query", [False, True])
@pytest.mark.parametrize("tile, splits", [(128, 1), (256, 1), (1024, 1)])
def test_knn_by_plan(warp_per_query, tile, splits):
    points, lengths = torch.randn(2, 600, 3), torch.tensor([600, 130])
    k = 30 if warp_per_query else 4
    keys = 1 if warp_per_query else 4
    plan = plans.knn_of(warp_per_query, keys=keys, warps=2, tile=tile, splits=splits)
    check_knn(points[:, 40:75].contiguous(), points, k, lengths, plan)


@pytest.mark.parametrize("splits", [2, 3, 7])
def test_knn_of_a_split_cloud(splits):
    points = torch.randn(1, 2000, 3).round(decimals=1)
    plan = plans.knn_of(True, keys=1, warps=4, tile=256, splits=splits)
    check_knn(points[:, :6].contiguous(), points, 32, plan=plan)


def test_knn_of_a_large_scan(scans):
    points = scans["scannet_room"]
    check_knn(points[:, ::9000].contiguous(), points, 32)


@pytest.mark.parametrize("N", [1, 33, 1025])
@pytest.mark.parametrize("K", [1, 7, 40])
def test_ball_query(make_cloud, N, K):
    points = make_cloud(2, N)
    queries = torch.cat([points[:, :5], make_cloud(2, 2)], dim=1)
    radius = torch.tensor(0.7)
    sq_radius = float(radius.square())
    idx = dapt_ext.ball_query(queries, points, float(radius), K)
    check(points_on_host.ball_query, (idx,), queries, points, sq_radius, K)
    lengths = torch.tensor([N // 2, N])
    idx = dapt_ext.ball_query(queries, points, float(radius), K, lengths)
    check(points_on_host.ball_query, (idx,), queries, points, sq_radius, K, lengths)


@pytest.mark.parametrize("N, M", [(1, 1), (2, 31), (200, 333), (1025, 40)])
def test_chamfer(make_cloud, N, M):
    a, b = make_cloud(2, N), make_cloud(2, M)
    check(points_on_host.chamfer, torch.ops.dapt.chamfer(a, b), a, b)
    lengths = torch.tensor([1, N]), torch.tensor([M, (M + 1) // 2])
    check(points_on_host.chamfer, torch.ops.dapt.chamfer(a, b, *lengths), a, b, *lengths)


# --- rows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("C", [1, 3, 4, 16, 130])
def test_gather(C):
    values, idx = torch.randn(2, 40, C), torch.randint(-1, 40, (2, 90))
    check(points_on_host.gather, (dapt_ext.gather(values, idx),), values, idx)


def test_gather_ignores_what_lies_outside():
    """A device cannot raise, so an index out of range gives a row of zeros, and memory stays
    safe."""
    values, idx = torch.ones(1, 4, 3), torch.tensor([[4, -7, 1, 2**40]])
    assert points_on_host.gather(values, idx)[0].sum(-1).tolist() == [0, 0, 3, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("N, Q, k, C", [(5, 300, 1, 3), (60, 70, 3, 33), (1, 9, 1, 1)])
def test_gather_backward(dtype, N, Q, k, C):
    grad = torch.randn(2, Q, C).to(dtype)
    idx, weights = torch.randint(-1, N, (2, Q, k)), torch.rand(2, Q, k)
    of_rows = idx if k > 1 else idx[..., 0]
    expected = torch.ops.dapt.gather_backward(grad, of_rows, N, weights if k > 1 else None)
    check(
        points_on_host.gather_backward,
        (expected,),
        grad,
        idx,
        N,
        weights if k > 1 else None,
    )


@pytest.mark.parametrize("k, C", [(1, 1), (3, 5), (3, 64), (8, 130)])
def test_interpolate(k, C):
    values, weights = torch.randn(2, 30, C), torch.rand(2, 50, k)
    idx = torch.randint(30, (2, 50, k))
    expected = torch.ops.dapt.interpolate(values, idx, weights)
    check(points_on_host.interpolate, (expected,), values, idx, weights)


@pytest.mark.skipif(SANITIZE, reason="the sanitizers watch instead")
def test_each_access_to_shared_memory_is_watched():
    """The race detector sees it; test_broken_kernels.py shows that races fail a launch."""
    before = on_host.accesses_watched()
    points_on_host.knn(torch.zeros(1, 3, 3), torch.zeros(1, 64, 3), 4)
    assert on_host.accesses_watched() - before > 64 * 3 * 3


# --- robustness -----------------------------------------------------------------------------------


def test_nan_stays_in_its_cloud():
    clean = torch.randn(3, 200, 3)
    dirty = clean.clone()
    dirty[1, 50] = torch.nan
    idx, _ = points_on_host.fps(dirty, 20)
    assert (idx >= 0).all() and (idx < 200).all()
    expected = dapt_ext.farthest_point_sample(clean, 20)
    assert torch.equal(idx[[0, 2]], expected[[0, 2]])
    _, idx, _ = points_on_host.knn(dirty[:, :9], dirty, 12)
    assert (idx >= 0).all() and (idx < 200).all()
    expected = dapt_ext.knn(clean[:, :9], clean, 12)[1]
    assert torch.equal(idx[[0, 2]], expected[[0, 2]])


def test_lengths_out_of_range_stay_in_memory():
    """Lengths on a device are not checked, so kernels must survive any."""
    points, lengths = torch.randn(3, 50, 3), torch.tensor([-5, 0, 2**40])
    idx, _ = points_on_host.fps(points, 10, lengths)
    assert (idx >= 0).all() and (idx < 50).all()
    _, idx, _ = points_on_host.knn(points[:, :4], points, 10, lengths)
    assert (idx >= -1).all() and (idx < 50).all()
    _, idx = points_on_host.knn(points[:, :4, :2], points[..., :2], 10, lengths)
    assert (idx >= 0).all() and (idx < 50).all()
    idx = points_on_host.ball_query(points[:, :4], points, 1.0, 10, lengths)
    assert (idx >= -1).all() and (idx < 50).all()
    _, idx_ab, _, idx_ba = points_on_host.chamfer(points, points, lengths, lengths.flip(0))
    for idx in (idx_ab, idx_ba):
        assert (idx >= -1).all() and (idx < 50).all()


# --- scenes -> cells ------------------------------------------------------------------------------


@pytest.mark.parametrize("N", [1, 33, 1000])
def test_grid_cells(make_cloud, N):
    points = make_cloud(3, N)
    size = float((points.amax() - points.amin()).clamp_min(1e-30)) / 9
    for lengths in (None, torch.tensor([N, 0, max(N // 3, 1)])):
        cells = torch.ops.dapt.grid_cells(points, size, lengths)
        check(points_on_host.grid_cells, (cells,), points, size, lengths)


def test_grid_cells_of_what_is_no_number():
    """A NaN point has no cell, one too far away gets the last; all others keep their cells."""
    points = torch.rand(2, 90, 3)
    expected = torch.ops.dapt.grid_cells(points, 0.2, None)
    points[0, 4, 1], points[0, 7] = torch.nan, torch.inf
    cells = points_on_host.grid_cells(points, 0.2)
    assert (cells[0, 4] == -1).all() and (cells[0, 7] == 65536).all()
    assert torch.equal(cells[1], expected[1])


def sheet(M, scenes):
    cells = torch.cat([torch.randint(17, (M, 2)), torch.randint(3, (M, 1))], 1)
    return cells, torch.randint(scenes, (M,))


@pytest.mark.parametrize("M, scenes", [(0, 1), (1, 1), (32, 1), (257, 3), (9000, 40)])
def test_unique_cells(M, scenes):
    cells, of = sheet(M, scenes)
    cells[torch.rand(M) < 0.1] = -1
    for given in (None, of):
        expected = torch.ops.dapt.unique_cells(cells, given)
        check(points_on_host.unique_cells, expected, cells, given)


@pytest.mark.parametrize("M, scenes", [(1, 1), (32, 1), (257, 3), (1500, 8)])
def test_neighbor_map(M, scenes):
    cells, of = sheet(M, scenes)
    cells[::7] = 65535 - cells[::7]
    for given in (None, of):
        expected = torch.ops.dapt.neighbor_map(cells, given)
        check(points_on_host.neighbor_map, (expected,), cells, given)


@pytest.mark.parametrize("M", [1, 255, 700])
def test_curve_codes(M):
    depths, scenes = torch.tensor([3, 16, 1, 9]), torch.randint(4, (M,))
    cells = torch.randint(2**16, (M, 3)) % (1 << depths[scenes])[:, None]
    expected = torch.ops.dapt.curve_codes(cells, depths, scenes, [0, 1, 2, 3])
    check(points_on_host.curve_codes, (expected,), cells, depths, scenes, [0, 1, 2, 3])
    expected = torch.ops.dapt.curve_codes(cells, depths[1:2], None, [3, 2])
    check(points_on_host.curve_codes, (expected,), cells, depths[1:2], None, [3, 2])


def test_cells_out_of_range_stay_in_memory():
    """Cells on a device are not checked, so kernels must survive any."""
    cells, scenes, depths = (torch.randint(-(2**62), 2**62, n) for n in ((40, 3), (40,), (3,)))
    first, inverse, counts, total = points_on_host.unique_cells(cells, scenes)
    assert total == 0 and (inverse == -1).all() and (first == -1).all() and (counts == 0).all()
    assert (points_on_host.neighbor_map(cells, scenes) == -1).all()
    points_on_host.curve_codes(cells, depths, scenes, [0, 3])


# --- launch plans ---------------------------------------------------------------------------------


def test_plans_are_what_the_workload_wants():
    assert repr(plans.fps(32, 2048)).startswith("block")
    assert repr(plans.fps(32, 8192)).startswith("cluster")
    assert repr(plans.fps(32, 8192, plans.A100)).startswith("block")  # no clusters before 9.0
    assert repr(plans.fps(1, 1_000_000)).startswith("grid")
    assert repr(plans.fps(1, 100_000_000)).startswith("streamed")
    assert "warp per query, 1 keys a lane" in repr(plans.knn(32, 128, 2048, 32))
    assert "16 keys a lane" in repr(plans.knn(32, 128, 2048, 512))


def test_code_compiled_for_an_older_gpu_is_launched_as_such():
    """PTX for 8.0 has no clusters, even when the driver compiles it for a GPU that has them."""
    older = plans.Device(multiprocessors=132, shared_per_block=227 * 1024, max_cluster=16, code=80)
    points = torch.randn(1, 8192, 3)
    assert repr(plans.fps(1, 8192)).startswith("cluster")
    on_host.play_device(older, major=9)
    try:
        check_fps(points, 4)  # a cluster would be refused
    finally:
        on_host.play_device()


def test_a_kernel_without_the_right_to_launch_is_refused():
    """A plan for a device with clusters does not run on one without."""
    tiny = plans.Device(multiprocessors=4, shared_per_block=48 * 1024, max_cluster=1, code=75)
    for N in (100, 5000, 10**6):
        assert not repr(plans.fps(8, N, tiny)).startswith("cluster")
