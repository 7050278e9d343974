"""Augmentation: what each transform preserves, how it is distributed, and that it is repeatable."""

import math

import numpy as np
import pytest
import torch

from dapt.data import transforms as T
from dapt.data.clouds import unit_ball
from dapt.errors import UsageError

ALL = [
    T.Scale(),
    T.Scale(0.9, 1.1, per_axis=False),
    T.Translate(),
    T.Rotate(),
    T.Rotate("z", 0.3),
    T.RotateFreely(),
    T.Jitter(),
    T.FarthestPoints(20),
    T.Resample(20),
    T.Resample(37),
    T.RandomPoints(20),
    *T.AUGMENTATIONS.values(),
]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def clouds(batch, num_points=37, dtype=torch.float32):
    return torch.randn(batch, num_points, 3, dtype=dtype)


@pytest.mark.parametrize("transform", ALL, ids=repr)
def test_repeats_from_its_generator_alone(transform):
    points = clouds(5)
    kept = points.clone()
    before = torch.get_rng_state()
    first = transform(points, generator(3))
    assert torch.get_rng_state().equal(before) and points.equal(kept)
    assert first.dtype == points.dtype and first.shape[::2] == (5, 3)
    assert transform(points, generator(3)).equal(first)
    assert transform(clouds(0), generator(3)).shape[0] == 0
    half = transform(points.double(), generator(3))
    assert half.dtype == torch.float64
    torch.testing.assert_close(half.float(), first)


@pytest.mark.parametrize("transform", ALL, ids=repr)
@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_together_draw_what_one_draws(transform, world_size):
    points = clouds(4 * world_size)
    whole = transform(points, generator(7))
    parts = [
        transform(part, T.Share(generator(7), rank, world_size))
        for rank, part in enumerate(points.chunk(world_size))
    ]
    assert torch.cat(parts).equal(whole)


def test_scale_and_translate_stay_in_range_and_differ():
    points = clouds(4000, 2, torch.float64)
    factors = T.Scale()(points, generator()) / points  # [B, 2, 3]
    torch.testing.assert_close(factors[:, 0], factors[:, 1])
    check_uniform(factors[:, 0], 2 / 3, 3 / 2)
    assert T.Scale(per_axis=False)(points, generator()).div(points).std(2).max() < 1e-6
    shift = T.Translate(0.2)(points, generator()) - points
    torch.testing.assert_close(shift[:, 0], shift[:, 1])
    check_uniform(shift[:, 0], -0.2, 0.2)


def check_uniform(values, low, high):
    """Checks [B, 3]: within the range, with its mean and deviation, and columns independent."""
    assert values.min() >= low - 1e-6 and values.max() <= high + 1e-6
    deviation = (high - low) / math.sqrt(12)
    error = 6 / math.sqrt(len(values))  # six standard errors
    assert ((values.mean(0) - (low + high) / 2).abs() < error * deviation).all()
    assert ((values.std(0) / deviation - 1).abs() < error).all()
    assert (values.T.corrcoef() - torch.eye(3)).abs().max() < error


def distances(points):
    return (points[:, :, None] - points[:, None]).norm(dim=-1)  # [B, N, N]


@pytest.mark.parametrize("axis", "xyz")
def test_rotation_turns_about_its_axis(axis):
    place = "xyz".index(axis)
    points = clouds(500, dtype=torch.float64)
    turned = T.Rotate(axis)(points, generator())
    assert turned[..., place].equal(points[..., place])
    # Rigid, not mirrored: distances and the triple product are preserved.
    torch.testing.assert_close(distances(turned), distances(points))
    torch.testing.assert_close(torch.linalg.det(turned[:, :3]), torch.linalg.det(points[:, :3]))
    unit = torch.zeros(4000, 1, 3)
    unit[..., (place + 1) % 3] = 1
    turned = T.Rotate(axis, 0.5)(unit, generator())[:, 0]
    angle = torch.atan2(turned[:, (place + 2) % 3], turned[:, (place + 1) % 3])
    assert angle.min() >= -0.5001 and angle.max() <= 0.5001
    assert angle.min() < -0.49 and angle.max() > 0.49
    with pytest.raises(UsageError, match="x, y or z, got 'up'"):
        T.Rotate("up")


def test_free_rotation_is_rigid_and_even():
    points = clouds(500, dtype=torch.float64)
    turned = T.RotateFreely()(points, generator())
    torch.testing.assert_close(distances(turned), distances(points))
    torch.testing.assert_close(torch.linalg.det(turned[:, :3]), torch.linalg.det(points[:, :3]))
    for axis in torch.eye(3):  # for uniform directions, each coordinate is uniform in [-1, 1]
        check_uniform(T.RotateFreely()(axis.expand(4000, 1, 3), generator())[:, 0], -1, 1)


def test_jitter_is_clipped_noise():
    noise = T.Jitter(0.02, 0.05)(torch.zeros(100, 100, 3), generator())
    assert noise.abs().max() == pytest.approx(0.05) and abs(noise.std().item() - 0.02) < 0.001


def test_unit_ball():
    for cloud in (clouds(6) * 1e3 + 50).double().numpy():
        ball = unit_ball(cloud)
        assert np.abs(ball.mean(0)).max() < 1e-9
        assert np.linalg.norm(ball, axis=1).max() == pytest.approx(1)
    assert not unit_ball(np.full((5, 3), 7.0)).any()  # one repeated point


def test_farthest_points():
    points = clouds(3)
    kept = T.FarthestPoints(20)(points)
    for cloud, chosen in zip(points, kept, strict=True):
        pool = list(range(37))
        expected = [0]
        while len(expected) < 20:
            distance = torch.cdist(cloud.double(), cloud[expected].double()).amin(1)
            expected.append(max(pool, key=lambda index: distance[index].item()))
        assert chosen.equal(cloud[expected])
    assert T.FarthestPoints(37)(points) is points


@pytest.mark.parametrize("num_points, total, pool", [(64, 1000, 75), (64, 70, 70), (64, 64, 64)])
def test_resample_chooses_from_farthest_points(num_points, total, pool):
    points = clouds(8, total)
    chosen = T.Resample(num_points).indices(points, generator())
    assert chosen.shape == (8, num_points)
    assert T.Resample(num_points)(points, generator()).equal(
        torch.stack([cloud[rows] for cloud, rows in zip(points, chosen, strict=True)])
    )
    assert all(len(set(rows.tolist())) == num_points for rows in chosen)
    assert len({tuple(sorted(rows.tolist())) for rows in chosen}) == (
        1 if pool == num_points else 8
    )
    same = T.Resample(num_points).indices(points[:1].expand(8, -1, -1), generator())
    reached = len(same.unique())  # the sampling starts at a random point of each cloud
    assert reached > pool if pool < total else reached == pool
    if pool < total:  # evenly spread: the 64 are farther apart than 64 random points
        spread = [
            torch.cdist(cloud[rows], cloud[rows]).fill_diagonal_(9).min()
            for cloud, rows in zip(points, chosen, strict=True)
        ]
        random = T.RandomPoints(num_points)(points, generator())
        closest = [torch.cdist(cloud, cloud).fill_diagonal_(9).min() for cloud in random]
        assert min(spread) > max(closest)


@pytest.mark.parametrize("num_points, pool", [(1024, 1200), (2048, 2400), (4096, 4800)])
def test_resample_has_the_field_s_pools(monkeypatch, num_points, pool):
    asked = []

    def sample(points, count, start):
        asked.append(count)
        return torch.arange(count).expand(len(points), count)

    monkeypatch.setattr(T.dapt_ext, "farthest_point_sample", sample)
    T.Resample(num_points)(clouds(2, 8192), generator())
    T.Resample(8192)(clouds(1, 8192), generator())
    assert asked == [pool]


def test_random_points():
    points = clouds(50)
    kept = T.RandomPoints(20)(points, generator())
    members = (kept[:, :, None] == points[:, None]).all(3)  # [B, 20, N]
    assert members.sum(2).eq(1).all() and members.sum(1).max() == 1
    assert members.any(1).any(0).all()  # every position is chosen in some cloud


@pytest.mark.parametrize("transform", [T.FarthestPoints, T.Resample, T.RandomPoints])
def test_more_points_than_there_are(transform):
    with pytest.raises(UsageError, match="at most the 37 points of the clouds, got 38"):
        transform(38)(clouds(2), generator())


def test_augmentations_by_name():
    assert T.augmentation("none")(points := clouds(2), generator()) is points
    assert not T.augmentation("scale_translate")(points, generator()).equal(points)
    with pytest.raises(UsageError, match="unknown augmentation 'flip'.*scale_translate"):
        T.augmentation("flip")


def test_occlusion_cuts_off_one_side():
    """The remaining points are those on one side of a plane; none is new."""
    points = torch.randn(12, 400, 3)
    cut = T.Occlude(0.5)(points, torch.Generator().manual_seed(0))
    assert cut.shape == points.shape
    shares = []
    for before, after in zip(points, cut, strict=True):
        same = (before[:, None] == after).all(2)  # [before, after]
        kept = same.any(1)
        assert same.any(0).all()
        shares.append(float(kept.float().mean()))
        sides = torch.where(kept, 1.0, -1.0)
        if kept.all():
            continue
        weight = torch.zeros(4, requires_grad=True)  # a perceptron finds a plane between the two
        rows = torch.cat([before, torch.ones(400, 1)], 1)
        optimizer = torch.optim.LBFGS([weight], max_iter=500, line_search_fn="strong_wolfe")

        def closure(rows=rows, sides=sides, weight=weight, optimizer=optimizer):
            optimizer.zero_grad()
            loss = torch.nn.functional.softplus(-sides * (rows @ weight)).mean()
            loss.backward()
            return loss

        optimizer.step(closure)
        assert ((rows @ weight > 0) == kept).float().mean() > 0.99
    assert min(shares) < 0.8 and all(0.5 <= share <= 1 for share in shares)
    assert torch.equal(cut, T.Occlude(0.5)(points, torch.Generator().manual_seed(0)))
