"""The built-in world: objects of every family, their scans, and independence of order."""

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import dapt
from dapt.data import ArrayDataset, Subset, load, loader
from dapt.data.sampler import BatchSampler
from dapt.errors import UsageError
from dapt.inference.probe import linear_probe
from dapt.models import pretrained
from dapt.synthetic import FAMILIES, KINDS, SETS
from dapt.synthetic.grammars import grammar
from dapt.synthetic.shapes import Dice, sample
from dapt.synthetic.wide import POOL, warp


def dataset(split="train", name="synthetic", **options):
    return load(name, {"num_points": 256, "train_size": 60, "test_size": 30, **options}, split)


def wide(split="train", **options):
    return dataset(split, "synthetic_wide", **options)


def test_there_are_many_families_with_parts():
    assert len(FAMILIES) >= 40
    assert len(SETS["scan"]) == 15 and not set(SETS["scan"]) & set(SETS["pretraining"])
    assert set(SETS["parts"]) <= set(FAMILIES)


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_family(name):
    """Objects are complete, no two are alike, and every part of the family occurs."""
    family, seen, sizes = FAMILIES[name], set(), []
    for index in range(40):
        triangles, parts = family.surfaces(np.random.default_rng(index))
        assert np.isfinite(triangles).all() and len(triangles) == len(parts)
        seen |= set(parts.tolist())
        sizes.append(np.ptp(triangles.reshape(-1, 3), axis=0))
    assert seen == set(range(len(family.parts)))
    assert len(np.unique(np.round(sizes, 6), axis=0)) == 40
    assert np.std(sizes, axis=0).max() > 0.02 * np.mean(sizes)


@pytest.mark.parametrize("name", sorted(KINDS))
def test_kind_of_a_grammar(name):
    """Objects are complete, and no two are alike."""
    kind, sizes = KINDS[name], []
    for index in range(6):
        triangles, parts = kind.surfaces(np.random.default_rng(index))
        assert triangles.shape == (len(parts), 3, 3) and np.isfinite(triangles).all()
        sizes.append(np.ptp(triangles.reshape(-1, 3), axis=0))
        assert (sizes[-1] > 0).sum() >= 2
    assert len(np.unique(np.round(sizes, 6), axis=0)) == 6


def test_traits_are_drawn_for_each_object():
    drawn = []
    traits = dict(share=(0.5, 0.6), count=(2, 4), style=["a", "b"], each=((1, 2), (5.0, 6.0)))

    def build(r, **traits):
        drawn.append(traits)
        yield "all", np.zeros((1, 3, 3))

    try:
        grammar("all", kind_of_this_test=traits | {"plain": 7})(build)
        kind = KINDS.pop("kind_of_this_test")
    finally:
        KINDS.pop("kind_of_this_test", None)
    for index in range(40):
        kind.surfaces(np.random.default_rng(index))
    assert {row["count"] for row in drawn} == {2, 3, 4}
    assert {row["style"] for row in drawn} == {"a", "b"}
    assert all(0.5 <= row["share"] <= 0.6 and row["plain"] == 7 for row in drawn)
    assert all(row["each"][0] in (1, 2) and 5 <= row["each"][1] <= 6 for row in drawn)
    with pytest.raises(ValueError, match="two grammars build the kind oak"):
        grammar("all", oak={})(build)


def test_wide_world_is_wide_and_has_no_class_of_the_scan_task():
    clouds = wide()
    assert clouds.num_classes == len(POOL) > 350
    assert set(KINDS) <= set(POOL) and not set(SETS["scan"]) & set(POOL)
    points = clouds.batch(range(60))["points"]
    torch.testing.assert_close(points.norm(dim=2).amax(1), torch.ones(60))
    assert torch.equal(points[7], wide(train_size=20)[7]["points"])
    assert not torch.equal(points, wide(seed=1).batch(range(60))["points"])
    assert not torch.equal(points[:30], wide("test").batch(range(30))["points"])


def test_wide_world_has_any_pose():
    """A spear stands in the upright pose, and may lie in any other."""
    heights = {}
    for pose in ("upright", "mixed", "any"):
        clouds = wide(families="spear", domain="clean", pose=pose)
        extents = [np.ptp(clouds.make(i)[0], axis=0) for i in range(40)]
        heights[pose] = np.mean([extent[1] > 0.9 * extent.max() for extent in extents])
    assert heights["upright"] == 1
    assert heights["any"] < 0.6 < heights["mixed"] < 1


def test_a_warp_bends_what_is_straight():
    line = np.linspace(-1, 1, 9)[:, None] * (0.0, 1.0, 0.0)
    triangles = np.repeat(line[:, None], 3, 1)  # [9, 3, 3]
    bends = []
    for index in range(60):
        warped = warp(triangles, Dice(np.random.default_rng(index)))[:, 0]
        chord = (warped[0] + warped[-1]) / 2
        bends.append(np.linalg.norm((warped[4] - chord)[[0, 2]]))
    assert 0.25 < np.mean(np.array(bends) > 1e-6) < 0.75 and max(bends) < 0.5


@pytest.mark.parametrize(
    ("variant", "domain", "total"),
    [
        ("only", "clean", 677.4333),
        ("only", "scan", 649.8376),
        ("bg", "scan", 638.1893),
        ("hardest", "scan", 605.5235),
    ],
)
def test_task_worlds_stay_what_they_are(variant, domain, total):
    """Published tables use these worlds, which a single changed random draw would alter."""
    points = dataset(variant=variant, domain=domain).batch([3, 17, 44])["points"]
    assert points.double().abs().sum().item() == pytest.approx(total, rel=1e-6)


def test_points_lie_evenly_by_area():
    """Two squares, one nine times as large as the other: a tenth of the points are on the small
    one."""
    square = np.array([[[0, 0, 0], [1, 0, 0], [1, 1, 0]], [[0, 0, 0], [1, 1, 0], [0, 1, 0]]], float)
    triangles = np.concatenate([square, 3 * square + (5, 0, 0)])
    points, which = sample(triangles, 20_000, np.random.default_rng(0))
    assert abs((which < 2).mean() - 0.1) < 0.01
    small = points[which < 2]
    assert (small[:, :2].min(0) >= 0).all() and (small[:, :2].max(0) <= 1).all()
    quarters, _, _ = np.histogram2d(small[:, 0], small[:, 1], bins=2, range=[[0, 1], [0, 1]])
    assert quarters.min() > 0.8 * quarters.max()


@pytest.mark.parametrize("domain", ["clean", "scan", "mixed"])
@pytest.mark.parametrize("variant", ["only", "bg", "hardest"])
def test_clouds(domain, variant):
    clouds = dataset(domain=domain, variant=variant)
    batch = clouds.batch(range(60))
    points = batch["points"]
    assert points.shape == (60, 256, 3) and points.dtype == torch.float32
    torch.testing.assert_close(points.norm(dim=2).amax(1), torch.ones(60))
    assert points.mean(1).abs().max() < 1e-5
    assert batch["labels"].tolist() == [i % 15 for i in range(60)]
    assert ("part_labels" in batch) == (domain == "clean")


def test_a_cloud_is_a_function_of_seed_and_index():
    forward, backward = dataset(), dataset()
    clouds = forward.batch(range(60))["points"]
    assert torch.equal(clouds, backward.batch(range(59, -1, -1))["points"].flip(0))
    assert torch.equal(clouds[7], dataset(train_size=20)[7]["points"])
    assert not torch.equal(clouds, dataset(seed=1).batch(range(60))["points"])
    assert not torch.equal(clouds[:30], dataset("test").batch(range(30))["points"])


def test_workers_make_the_same_clouds():
    clouds, sampler = dataset(), BatchSampler(60, 20, shuffle=False)
    alone = [batch["points"] for batch in loader(clouds, sampler)]
    shared = [batch["points"] for batch in loader(dataset(), sampler, num_workers=2)]
    assert torch.equal(torch.cat(alone), torch.cat(shared))


def test_part_labels_belong_to_the_class():
    clouds = dataset(families="parts", domain="clean")
    assert clouds.num_parts == sum(map(len, clouds.class_parts)) == len(clouds.part_names)
    batch = clouds.batch(range(32))
    for label, parts in zip(batch["labels"].tolist(), batch["part_labels"], strict=True):
        assert set(parts.tolist()) <= set(clouds.class_parts[label])


def test_a_scan_sees_one_side_and_the_room():
    """Nothing behind a closed box is visible; bg has points that are not the object's."""
    clouds = dataset(families="cabinet", variant="only", num_points=1024)
    whole = dataset(families="cabinet", domain="clean", num_points=1024)
    spread = [np.linalg.svd(c.make(i)[0])[1].min() for c in (clouds, whole) for i in range(20)]
    assert np.mean(spread[:20]) < np.mean(spread[20:])
    assert all((clouds.make(i)[1] >= 0).all() for i in range(10))
    background = [(dataset(variant="bg").make(i)[1] < 0).mean() for i in range(15)]
    # At most three in five of the candidate points belong to the background.
    assert 0.05 < np.mean(background) < 0.6 and max(background) < 0.7


def test_a_linear_probe_needs_the_shipped_weights():
    card = pretrained.card("point_mae_tiny")
    for accuracy in card["linear_probe_accuracy"].values():
        assert accuracy["pretrained"] - accuracy["random"] >= 0.15
    backbone = dapt.create_backbone("point_mae_tiny", checkpoint="shipped")
    assert backbone.load_report.layout == "dapt backbone"
    with pytest.raises(UsageError, match="those of point_mae_tiny do"):
        dapt.create_backbone("point_mae", checkpoint="shipped")


def test_shipped_file_is_the_card_s():
    path = pretrained.shipped_checkpoint("point_mae_tiny")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == pretrained.card(path.stem)["sha256"]
    assert path.stat().st_size < 8 << 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"families": "chair,unicorn"}, "no family of objects is called 'unicorn'"),
        ({"domain": "dirty"}, "domain must be clean, scan or mixed, got 'dirty'"),
        ({"variant": "easy"}, "variant must be only, bg or hardest, got 'easy'"),
        ({"train_size": 0}, "train_size must be at least 1, got 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(UsageError, match=message):
        dataset(**options)


def test_bad_options_of_the_wide_world():
    with pytest.raises(UsageError, match="variant must be only, bg, hardest or any, got 'easy'"):
        wide(variant="easy")
    with pytest.raises(UsageError, match="pose must be upright, any or mixed, got 'lying'"):
        wide(pose="lying")
    with pytest.raises(UsageError, match="no family of objects is called 'unicorn': choose wide"):
        wide(families="unicorn")


def test_no_test_split():
    assert not dapt.data.has_split("synthetic", {"test_size": 0}, "test")
    with pytest.raises(UsageError, match="no test split"):
        dataset("test", test_size=0)


def test_linear_probe_tells_what_features_tell():
    """Features that contain the class score 1, others no better than guessing."""

    class Network(torch.nn.Module):
        def __init__(self, knows: bool):
            super().__init__()
            self.weight, self.knows = torch.nn.Parameter(torch.ones(1)), knows

        def forward(self, points):
            hint = points[:, :4] if self.knows else torch.randn(len(points), 4, 3)
            return SimpleNamespace(patches=self.weight * hint)

    labels = np.arange(300) % 3
    points = np.random.default_rng(0).normal(size=(300, 8, 3)).astype(np.float32)
    points[:, :, 0] += 10 * (labels == 1)[:, None]
    points[:, :, 1] += 10 * (labels == 2)[:, None]
    clouds = ArrayDataset({"points": points, "labels": labels}, "abc")
    train, test = Subset(clouds, range(200)), Subset(clouds, range(200, 300))
    assert linear_probe(Network(knows=True), train, test) == 1
    assert linear_probe(Network(knows=False), train, test) < 0.6
