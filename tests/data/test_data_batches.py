"""The order of samples: validation splits, few-shot folds, the sampler and the loader."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dapt.data
from dapt.data import (
    ArrayDataset,
    BatchSampler,
    few_labels,
    few_shot_fold,
    loader,
    split_validation,
    stratified,
)
from dapt.errors import UsageError


def dataset_of(labels, num_points=5):
    labels = np.asarray(labels)
    points = np.random.default_rng().normal(size=(len(labels), num_points, 3)).astype("f4")
    points[:, 0, 0] = np.arange(len(labels))  # a sample encodes its index
    names = [f"class {label}" for label in range(max(labels, default=0) + 1)]
    return ArrayDataset({"points": points, "labels": labels}, names)


def ids(dataset):
    return dataset.batch(range(len(dataset)))["points"][:, 0, 0].int().tolist()


@given(
    counts=st.lists(st.integers(0, 30), min_size=1, max_size=6).filter(lambda c: max(c) > 1),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**31),
)
def test_split_is_stratified_and_repeatable(counts, fraction, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    dataset = dataset_of(labels)
    train, validation = split_validation(dataset, fraction, seed)
    assert sorted(ids(train) + ids(validation)) == list(range(len(labels)))
    for label, count in enumerate(counts):
        held = (validation.labels == label).sum()
        assert abs(held - fraction * count) <= 1 and (held < count or count == 0)
        assert held >= 1 or count < 2
    again = split_validation(dataset, fraction, seed)[1]
    assert ids(again) == ids(validation)
    assert train.num_classes == dataset.num_classes and train.num_points == 5


def test_split_depends_on_the_seed_and_batches_follow():
    dataset = dataset_of(np.arange(200) % 4)
    train, validation = split_validation(dataset, 0.25, 0)
    assert ids(validation) != ids(split_validation(dataset, 0.25, 1)[1])
    batch = validation.batch([3, 0])
    expected = dataset.batch(validation.indices[[3, 0]])
    assert batch["points"].equal(expected["points"]) and batch["labels"].equal(expected["labels"])
    inner = split_validation(train, 0.5, 0)[1]  # a split of a split
    assert set(ids(inner)) <= set(ids(train))


@settings(deadline=None)  # a slow machine is not a failure
@given(
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=60),
    classes=st.integers(1, 5),
    fraction=st.floats(0.05, 0.8),
    seed=st.integers(0, 2**31),
)
def test_groups_stay_on_one_side(sizes, classes, fraction, seed):
    rng = np.random.default_rng(seed)
    order = rng.permutation(sum(sizes))
    groups = np.repeat(100 + rng.permutation(len(sizes)), sizes)[order]
    of_group = rng.integers(0, classes, 100 + len(sizes))
    labels = of_group[groups]  # each group belongs to one class
    held = stratified(labels, fraction, seed, groups)
    assert not set(groups[held]) & set(groups[~held])
    for label in np.unique(labels):
        own = np.unique(groups[labels == label], return_counts=True)[1]
        share = held[labels == label].sum()
        assert share < own.sum()
        if len(own) > 1:
            # As close as whole groups allow, but at least one group is left for training.
            assert 1 <= share and abs(share - fraction * own.sum()) <= own.max() + 1
    assert np.array_equal(held, stratified(labels, fraction, seed, groups))


def test_groups_of_several_classes_leave_each_class_something_to_learn_from():
    groups, labels = np.array([0, 0, 1, 1, 2, 2, 3]), np.array([0, 1, 0, 1, 0, 2, 2])
    for seed in range(20):
        held = stratified(labels, 0.5, seed, groups)
        assert held.any() and not set(groups[held]) & set(groups[~held])
        assert set(labels[~held]) == {0, 1, 2}


def test_few_labels_are_a_share_of_every_class_and_a_part_of_more():
    dataset = dataset_of(np.repeat([0, 1, 2], [200, 40, 3]))
    few, more = few_labels(dataset, 0.05, 7), few_labels(dataset, 0.1, 7)
    assert np.bincount(few.labels).tolist() == [10, 2, 1]
    assert np.bincount(more.labels).tolist() == [20, 4, 1]
    assert set(ids(few)) < set(ids(more)) and ids(few) == ids(few_labels(dataset, 0.05, 7))
    assert ids(few) != ids(few_labels(dataset, 0.05, 8))
    assert few_labels(dataset, 1.0, 7) is dataset
    for share in (0, 1.1, float("nan")):
        with pytest.raises(UsageError, match="share of labels"):
            few_labels(dataset, share, 0)


def test_split_that_cannot_be_made():
    for fraction in (0, 1, -0.5, float("nan")):
        with pytest.raises(UsageError, match="between 0 and 1"):
            split_validation(dataset_of([0, 0]), fraction, 0)
    with pytest.raises(UsageError, match="single sample"):
        split_validation(dataset_of([0, 1, 2]), 0.5, 0)


def test_few_shot_fold():
    dataset = dataset_of(np.arange(400) % 8)
    train, test = few_shot_fold(dataset, way=5, shot=10, fold=3, queries=20)
    assert np.bincount(train.labels).tolist() == [10] * 5
    assert np.bincount(test.labels).tolist() == [20] * 5
    assert not set(ids(train)) & set(ids(test)) and len(set(ids(test))) == 100
    for part in (train, test):
        assert part.batch(range(len(part)))["labels"].tolist() == part.labels.tolist()
        original = dataset.labels[ids(part)]
        assert [f"class {label}" for label in original] == [
            part.class_names[label] for label in part.labels
        ]
    assert ids(few_shot_fold(dataset, 5, 10, 3)[0]) == ids(train)
    assert ids(few_shot_fold(dataset, 5, 10, 4)[0]) != ids(train)
    assert ids(few_shot_fold(dataset, 5, 10, 3, seed=1)[0]) != ids(train)
    with pytest.raises(UsageError, match="needs 5 classes of 51 samples, and only 0"):
        few_shot_fold(dataset, 5, 31, 0)


settings = {
    "length": st.integers(0, 100),
    "part": st.integers(1, 7),
    "world_size": st.integers(1, 4),
    "seed": st.integers(0, 2**40),
    "shuffle": st.booleans(),
}


@given(**settings)
def test_every_sample_once_and_ranks_share_the_batch(length, part, world_size, seed, shuffle):
    size = part * world_size
    single = BatchSampler(length, size, seed, shuffle)
    batches = list(single)
    assert len(batches) == len(single)
    assert all(len(batch) == size for batch in batches[:-1])
    assert sorted(sum(batches, [])) == list(range(length))
    ranks = [
        list(BatchSampler(length, size, seed, shuffle, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    assert [sum(parts, []) for parts in zip(*ranks, strict=True)] == batches
    sizes = [len(parts) for rank in ranks for parts in rank[:-1]]
    assert set(sizes) <= {part}
    full = list(BatchSampler(length, size, seed, shuffle, drop_last=True)) if length >= size else []
    assert full == [batch for batch in batches if len(batch) == size]


@given(**settings, epoch=st.integers(0, 1000), data=st.data())
def test_resumes_in_mid_epoch(length, part, world_size, seed, shuffle, epoch, data):
    size = part * world_size
    sampler = BatchSampler(length, size, seed, shuffle, rank=world_size - 1, world_size=world_size)
    sampler.set_position(epoch)
    batches = list(sampler)
    step = data.draw(st.integers(0, len(batches)))
    resumed = BatchSampler(length, size, seed, shuffle, rank=world_size - 1, world_size=world_size)
    resumed.set_position(epoch, step)
    assert list(resumed) == batches[step:]
    assert len(resumed) == len(sampler)


def test_order_depends_on_epoch_and_seed():
    def order(seed, epoch, shuffle=True):
        sampler = BatchSampler(100, 10, seed, shuffle)
        sampler.set_position(epoch)
        return list(sampler)

    orders = [order(seed, epoch) for seed in range(4) for epoch in range(4)]
    assert len({str(batches) for batches in orders}) == 16
    assert order(1, 2) == order(1, 2)
    assert order(0, 0, shuffle=False) == order(5, 3, shuffle=False)
    assert sum(order(0, 0, shuffle=False), []) == list(range(100))


def test_sampler_that_cannot_be():
    with pytest.raises(UsageError, match="multiple of the 4 processes, got 6"):
        BatchSampler(100, 6, world_size=4)
    with pytest.raises(UsageError, match="multiple of the 1 processes, got 0"):
        BatchSampler(100, 0)
    with pytest.raises(UsageError, match="rank must lie in 0 to 1, got 2"):
        BatchSampler(100, 6, rank=2, world_size=2)
    with pytest.raises(UsageError, match="7 samples do not fill one batch of 8"):
        BatchSampler(7, 8, drop_last=True)
    with pytest.raises(UsageError, match="step must lie in 0 to 10, got 11"):
        BatchSampler(100, 10).set_position(0, 11)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loader_follows_the_sampler(num_workers):
    dataset = dataset_of(np.arange(23) % 3)
    sampler = BatchSampler(23, 4, seed=1)
    before = torch.get_rng_state()
    batches = list(loader(dataset, sampler, num_workers))
    assert torch.get_rng_state().equal(before)
    assert len(batches) == 6
    for batch, rows in zip(batches, sampler, strict=True):
        expected = dataset.batch(rows)
        assert batch["points"].equal(expected["points"])
        assert batch["labels"].equal(expected["labels"])


def test_batch_takes_any_indices():
    dataset = dataset_of(np.arange(23) % 3)
    expected = dataset.batch([4, 4, 0])
    for indices in (np.array([4, 4, 0]), torch.tensor([4, 4, 0]), (4, 4, 0)):
        assert dataset.batch(indices)["points"].equal(expected["points"])
    assert dataset.batch([])["points"].shape == (0, 5, 3)
    assert dataset[4]["points"].equal(expected["points"][0]) and dataset[4]["labels"] == 1
    with pytest.raises(IndexError):
        dataset.batch([23])


def test_a_dataset_of_ones_own():
    """A dataset that computes its clouds needs only a constructor and `batch`."""

    class Spheres(dapt.data.PointDataset):
        def batch(self, indices):
            points = [
                np.random.default_rng(index).normal(size=(self.num_points, 3)) for index in indices
            ]
            points = torch.tensor(np.array(points), dtype=torch.float32)
            return {
                "points": points / points.norm(dim=2, keepdim=True),
                "labels": torch.from_numpy(self.labels[list(indices)]),
            }

    train, validation = split_validation(Spheres(np.arange(12) % 2, ["a", "b"], 9), 0.5, 0)
    batches = list(loader(validation, BatchSampler(len(validation), 4), num_workers=1))
    assert [len(batch["points"]) for batch in batches] == [4, 2]
    rows = sum(BatchSampler(len(validation), 4), [])
    expected = train.dataset.batch(validation.indices[rows])
    assert torch.cat([batch["points"] for batch in batches]).equal(expected["points"])
