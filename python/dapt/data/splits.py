"""Split datasets: validation splits, a share of the labels, few-shot episodes.

Vocabulary: S samples, C classes, U units (groups of samples that stay together, or single ones).
"""

import numpy as np

from dapt.data.dataset import PointDataset, Subset
from dapt.errors import UsageError

_FEW = 0xFE3  # makes the choice of labels independent of that of the validation split


def stratified(
    labels: np.ndarray, fraction: float, seed: int, groups: np.ndarray | None = None
) -> np.ndarray:
    """Choose the samples [S] to hold out: `fraction` of every class, the same for the same seed.

    Groups stay whole. A class of two or more groups is on both sides, as far as groups that span
    classes allow; a class of a single group stays in training.

    Args:
        labels: Classes [S].
        fraction: The fraction of each class, as nearly as groups allow.
        seed: The seed of the draw.
        groups: Group numbers [S]; None if every sample is its own group.
    """
    if not 0 < fraction < 1:
        raise UsageError(f"the share that is held out must lie between 0 and 1, got {fraction}")
    labels = np.asarray(labels)
    classes, labels = np.unique(labels, return_inverse=True)
    _, units = np.unique(np.arange(len(labels)) if groups is None else groups, return_inverse=True)
    cells, sizes = np.unique(np.stack([units, labels]), axis=1, return_counts=True)
    parts: dict[int, list] = {}  # unit -> its (class, samples)
    members: list[list] = [[] for _ in classes]  # class -> its units, each with its samples
    for unit, label, size in zip(*cells.tolist(), sizes.tolist(), strict=True):
        parts.setdefault(unit, []).append((label, size))
        members[label].append((unit, size))
    total = np.bincount(labels, minlength=len(classes))
    held, held_units = np.zeros(len(classes), dtype=int), set()

    def hold(unit: int) -> bool:
        if unit in held_units or any(held[c] + size >= total[c] for c, size in parts[unit]):
            return False  # a class keeps something to train on
        held_units.add(unit)
        for each, size in parts[unit]:
            held[each] += size
        return True

    for label, name in enumerate(classes.tolist()):
        wanted = round(fraction * total[label])
        order = np.random.default_rng([seed, name]).permutation(members[label]).tolist()
        for unit, size in order:
            if abs(held[label] + size - wanted) < abs(held[label] - wanted):
                hold(unit)
        for unit, _ in sorted(order, key=lambda each: each[1]):
            if held[label] or hold(unit):
                break
    return np.isin(units, list(held_units))


def split_validation(
    dataset: PointDataset, fraction: float, seed: int
) -> tuple[PointDataset, PointDataset]:
    """(train, validation): `fraction` of every class, the same for the same seed.

    A class of two or more samples is on both sides; a single sample stays in training. Samples of
    one scene or group stay together.

    Args:
        dataset: The dataset to split.
        fraction: The fraction of each class, for validation.
        seed: The seed of the draw.
    """
    if not 0 < fraction < 1:
        raise UsageError(f"the validation fraction must lie between 0 and 1, got {fraction}")
    validation = stratified(dataset.labels, fraction, seed, dataset.scenes)
    if not validation.any():
        kind = "sample" if dataset.scenes is None else "scene or group"
        raise UsageError(
            f"no validation split can be made: every class has a single {kind}, "
            "and at least one class needs two"
        )
    return (
        Subset(dataset, np.flatnonzero(~validation)),
        Subset(dataset, np.flatnonzero(validation)),
    )


def few_labels(dataset: PointDataset, share: float, seed: int) -> PointDataset:
    """A share of the samples of every class, one at least, the same for the same seed.

    A smaller share is a subset of a larger one.

    Args:
        dataset: The training set.
        share: The share of each class; 1 for all.
        seed: The seed of the draw.
    """
    if not 0 < share <= 1:
        raise UsageError(f"the share of labels must be above 0 and at most 1, got {share}")
    if share == 1:
        return dataset
    kept = []
    for label in np.unique(dataset.labels).tolist():
        members = np.flatnonzero(dataset.labels == label)
        order = np.random.default_rng([seed, _FEW, label]).permutation(members)
        kept.append(order[: max(round(share * len(members)), 1)])
    return Subset(dataset, np.sort(np.concatenate(kept)))


def few_shot_fold(
    dataset: PointDataset, way: int, shot: int, fold: int, seed: int = 0, queries: int = 20
) -> tuple[PointDataset, PointDataset]:
    """(train, test) of one episode: `way` classes, `shot` and `queries` samples of each.

    Labels are renumbered from 0 in the order of the draw.

    Args:
        dataset: The dataset to draw from.
        way: Classes per episode.
        shot: Training samples per class.
        fold: The number of the episode.
        seed: The seed of all episodes.
        queries: Test samples per class.
    """
    rng = np.random.default_rng([seed, fold])
    counts = np.bincount(dataset.labels, minlength=dataset.num_classes)
    usable = np.flatnonzero(counts >= shot + queries)
    if len(usable) < way:
        raise UsageError(
            f"{way}-way {shot}-shot with {queries} queries needs {way} classes of "
            f"{shot + queries} samples, and only {len(usable)} are that large"
        )
    classes = rng.choice(usable, way, replace=False)
    picks = np.stack(
        [
            rng.choice(np.flatnonzero(dataset.labels == label), shot + queries, replace=False)
            for label in classes
        ]
    )  # [way, shot + queries]
    names = [dataset.class_names[label] for label in classes]

    def episode(indices: np.ndarray) -> Subset:
        labels = np.repeat(np.arange(way), indices.shape[1])
        return Subset(dataset, indices.ravel(), labels, names)

    return episode(picks[:, :shot]), episode(picks[:, shot:])
