"""What else samples points and finds neighbors: every library that can be imported, by its name."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

Peers = Iterator[tuple[str, Callable]]
MATRIX = 600_000_000  # distances that fit in memory
TWO_PASSES = 100_000  # points, beyond which a way that looks at all of them takes minutes


def importable(name: str):
    """The module, or None where it is not installed or cannot be loaded."""
    try:
        return importlib.import_module(name)
    except (ImportError, OSError):
        return None


def fps_peers(points: Tensor, M: int) -> Peers:
    """Farthest point sampling of `points` [B, N, 3], from point 0; each gives indices [B, M]."""
    B, N, _ = points.shape
    if points.is_cpu:
        yield from _fpsample(points, M)
        if quick := importable("torch_quickfps"):
            for h in (None, 5, 7, 9):
                name = "torch-quickfps" + (f" h={h}" if h else "")
                yield name, lambda h=h: quick.sample_idx(points, M, h=h, start_idx=0)
    pointnet2 = importable("pointnet2_ops.pointnet2_utils")
    if pointnet2 and points.is_cuda:  # it has no way on the CPU
        yield "pointnet2_ops", lambda: pointnet2.furthest_point_sample(points, M)
    if (pytorch3d := importable("pytorch3d.ops")) and (points.is_cuda or N <= TWO_PASSES):
        yield "pytorch3d", lambda: pytorch3d.sample_farthest_points(points, K=M)[1]
    if (cluster := importable("torch_cluster")) and (points.is_cuda or N <= TWO_PASSES):
        ptr = N * torch.arange(B + 1, device=points.device)
        flat = points.reshape(-1, 3)

        def sample() -> Tensor:
            idx = cluster.fps(flat, ptr=ptr, ratio=M / N, random_start=False)
            return idx.view(B, -1) - ptr[:-1, None]

        yield "torch-cluster", sample


def _fpsample(points: Tensor, M: int) -> Peers:
    fpsample = importable("fpsample")
    if not fpsample:
        return
    clouds = list(points.numpy())
    ways = {"kdtree": lambda a: fpsample.bucket_fps_kdtree_sampling(a, M, start_idx=0)}
    if points.shape[1] <= TWO_PASSES:
        ways["fps"] = lambda a: fpsample.fps_sampling(a, M, start_idx=0)
    for h in (3, 5, 7, 9):
        ways[f"kdline h={h}"] = lambda a, h=h: fpsample.bucket_fps_kdline_sampling(
            a, M, h=h, start_idx=0
        )
    for name, sample in ways.items():
        yield f"fpsample {name}", lambda sample=sample: np.stack([sample(a) for a in clouds])


def knn_peers(queries: Tensor, points: Tensor, k: int, threads: int = 2) -> Peers:
    """Neighbors of `queries` [B, M, 3] in `points` [B, N, 3]; each gives their squared distances
    and indices [B, M, k]. A tree is built anew in every call, as ours is."""
    if points.is_cpu:
        yield from _trees(list(zip(queries.numpy(), points.numpy(), strict=True)), k, threads)
    if queries.shape[1] * points.shape[1] * len(points) < MATRIX:

        def cdist_topk():
            distance, idx = torch.cdist(queries, points).topk(k, largest=False)
            return distance.square(), idx

        yield "torch cdist+topk", cdist_topk
    if pytorch3d := importable("pytorch3d.ops"):
        yield "pytorch3d", lambda: pytorch3d.knn_points(queries, points, K=k)[:2]


def group_peers(points: Tensor, G: int, K: int) -> Peers:
    """Patches [B, G, K, 3] of `points` [B, N, 3] around farthest point samples, as the published
    code makes them: pointnet2_ops, KNN_CUDA, a gather and a subtraction."""
    pointnet2 = importable("pointnet2_ops.pointnet2_utils") if points.is_cuda else None
    knn_cuda = importable("knn_cuda") if points.is_cuda else None
    if pointnet2 and knn_cuda:
        nearest = knn_cuda.KNN(k=K, transpose_mode=True)
        rows = torch.arange(len(points), device=points.device)[:, None, None]

        def published() -> Tensor:
            samples = pointnet2.furthest_point_sample(points, G)
            channels = points.transpose(1, 2).contiguous()
            centers = pointnet2.gather_operation(channels, samples).transpose(1, 2).contiguous()
            idx = nearest(points, centers)[1]
            return points[rows, idx] - centers[:, :, None]

        yield "pointnet2_ops + KNN_CUDA", published


def ball_query_peers(queries: Tensor, points: Tensor, radius: float, K: int) -> Peers:
    """The first K points within `radius` of each query; each gives indices [B, M, K]."""
    pointnet2 = importable("pointnet2_ops.pointnet2_utils")
    if pointnet2 and points.is_cuda:
        yield "pointnet2_ops", lambda: pointnet2.ball_query(radius, K, points, queries).long()


def _trees(pairs: list[tuple[np.ndarray, np.ndarray]], k: int, threads: int) -> Peers:
    def each(search: Callable, pairs=pairs) -> Callable:
        def all_clouds():
            found = [search(q, p) for q, p in pairs]
            return tuple(torch.from_numpy(np.stack(part)) for part in zip(*found, strict=True))

        return all_clouds

    if spatial := importable("scipy.spatial"):

        def scipy(q, p):
            distance, idx = spatial.cKDTree(p).query(q, k, workers=threads)
            return np.square(distance), idx

        yield "scipy cKDTree", each(scipy)
    if pykdtree := importable("pykdtree.kdtree"):  # as many threads as OMP_NUM_THREADS says
        yield "pykdtree", each(lambda q, p: pykdtree.KDTree(p).query(q, k, sqr_dists=True))
    if flann := importable("flannrust"):
        for leaf in (10, 32):

            def flannrust(q, p, leaf=leaf):
                tree = flann.KDTree(p, leaf_size=leaf, threads=threads)
                return tree.query(q, k, workers=threads)

            yield f"flannrust leaf={leaf}", each(flannrust)
    if gicp := importable("small_gicp"):

        def small_gicp(q, p):
            idx, distance = gicp.KdTree(p, threads).batch_knn_search(q, k, threads)
            return distance, idx.astype(np.int64)

        doubles = [(q.astype(float), p.astype(float)) for q, p in pairs]  # all that it takes
        yield "small_gicp", each(small_gicp, doubles)
