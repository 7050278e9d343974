"""The scores compared with loops over points that follow the definitions literally."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_jaccard_index

from dapt.tasks.metrics import ClassScores, PartScores, PointScores

# three categories with four, one and three parts
PARTS = [[0, 1, 2, 3], [4], [5, 6, 7]]


@pytest.fixture
def rng():
    return np.random.default_rng()


def own_parts(parts=PARTS):
    mask = torch.zeros(len(parts), 1 + max(map(max, parts)), dtype=torch.bool)
    for row, own in enumerate(parts):
        mask[row, own] = True
    return mask


def shape_iou(logs, truth, parts):
    """The mean IoU over the parts of the category of one cloud."""
    predicted = [max(parts, key=lambda part: row[part]) for row in logs]
    ious = []
    for part in parts:
        both = sum(p == part and t == part for p, t in zip(predicted, truth, strict=True))
        either = sum(p == part or t == part for p, t in zip(predicted, truth, strict=True))
        ious.append(both / either if either else 1.0)
    return sum(ious) / len(ious)


def clouds(rng, categories, points=17, spread=1.0):
    """Random log-probabilities and truths; with so few points, many parts are absent."""
    logs = rng.normal(scale=spread, size=(len(categories), points, 8))
    truth = np.array([rng.choice(PARTS[c][: rng.integers(1, 5)], points) for c in categories])
    return torch.from_numpy(logs).log_softmax(2).float(), torch.from_numpy(truth)


@pytest.mark.parametrize("categories", [[0, 1, 2, 0, 0, 2, 1], [1, 1], [0, 2, 2]], ids=str)
def test_part_scores(rng, categories):
    logs, truth = clouds(rng, categories)
    scores = PartScores(["cup", "ball", "lamp"], own_parts())
    labels = torch.tensor(categories)
    for part in torch.arange(len(categories)).split(2):  # several batches
        scores.update(logs[part], {"labels": labels[part], "part_labels": truth[part]})

    expected = [
        shape_iou(logs[i].tolist(), truth[i].tolist(), PARTS[category])
        for i, category in enumerate(categories)
    ]
    by_class = [
        np.mean([iou for iou, c in zip(expected, categories, strict=True) if c == category])
        for category in sorted(set(categories))
    ]
    summary = scores.summary()
    assert scores.samples == len(categories)
    assert summary["instance_miou"] == pytest.approx(np.mean(expected), abs=1e-12)
    assert torch.cat(scores.clouds).tolist() == pytest.approx(expected, abs=1e-12)
    assert summary["class_miou"] == pytest.approx(np.mean(by_class), abs=1e-12)
    loss = -logs.gather(2, truth[..., None]).double().mean()
    assert summary["loss"] == pytest.approx(float(loss), rel=1e-6)
    rows = {row["class"]: row for row in scores.per_class()}
    for category, name in enumerate(["cup", "ball", "lamp"]):
        assert rows[name]["samples"] == categories.count(category)
        assert (rows[name]["miou"] is None) == (category not in categories)


def test_a_part_absent_and_not_predicted_counts_one():
    logs = torch.full((1, 6, 8), -9.0)
    logs[0, :, 5] = 0.0  # every point is part 5, which is right; parts 6 and 7 are absent
    scores = PartScores(["cup", "ball", "lamp"], own_parts())
    truth = {"labels": torch.tensor([2]), "part_labels": torch.full((1, 6), 5)}
    scores.update(logs, truth)
    assert scores.summary()["instance_miou"] == 1.0
    logs[0, 0, 6] = 1.0  # one point is predicted as part 6, so the IoUs are 5/6, 0 and 1
    scores = PartScores(["cup", "ball", "lamp"], own_parts())
    scores.update(logs, truth)
    assert scores.summary()["instance_miou"] == pytest.approx((5 / 6 + 0 + 1) / 3)
    assert scores.summary()["accuracy"] == pytest.approx(5 / 6)


def test_parts_of_other_categories_are_never_predicted():
    logs = torch.zeros(1, 4, 8)
    logs[..., 0] = 100.0  # a part of cups, predicted on a ball
    scores = PartScores(["cup", "ball", "lamp"], own_parts())
    scores.update(logs, {"labels": torch.tensor([1]), "part_labels": torch.full((1, 4), 4)})
    assert scores.summary()["instance_miou"] == 1.0


def test_point_scores(rng):
    labels, names = 6, list("abcdef")
    truth = torch.from_numpy(rng.choice([0, 1, 2, 4], (5, 40)))  # 3 and 5 do not occur
    logs = torch.from_numpy(rng.normal(size=(5, 40, labels))).log_softmax(2).float()
    logs[..., 5] = -50.0  # nor is 5 predicted
    scores = PointScores(names, torch.device("cpu"))
    for part in torch.arange(5).split(2):
        scores.update(logs[part], {"part_labels": truth[part]})

    flat, predicted = truth.flatten().tolist(), logs.argmax(2).flatten().tolist()
    ious, recalls = {}, {}
    for label in range(labels):
        both = sum(p == label == t for p, t in zip(predicted, flat, strict=True))
        either = sum(label in pair for pair in zip(predicted, flat, strict=True))
        ious[label] = both / either if either else None
        recalls[label] = both / flat.count(label) if label in flat else None
    known = [iou for iou in ious.values() if iou is not None]
    summary = scores.summary()
    assert summary["miou"] == pytest.approx(np.mean(known), abs=1e-12)
    assert summary["accuracy"] == pytest.approx(np.mean(np.equal(predicted, flat)))
    right = (logs.argmax(2) == truth).double().mean(1)
    assert torch.cat(scores.clouds).tolist() == pytest.approx(right.tolist())
    recall = [value for value in recalls.values() if value is not None]
    assert summary["mean_class_accuracy"] == pytest.approx(np.mean(recall), abs=1e-12)
    for label, row in enumerate(scores.per_class()):
        assert row["points"] == flat.count(label)
        assert row["iou"] == (None if ious[label] is None else pytest.approx(ious[label]))
    assert scores.per_class()[5]["iou"] is None and scores.per_class()[3]["accuracy"] is None
    theirs = multiclass_jaccard_index(
        logs.argmax(2).flatten(), truth.flatten(), labels, average="none"
    )
    for label, iou in ious.items():
        assert float(theirs[label]) == pytest.approx(iou or 0.0, abs=1e-6)


def test_class_scores(rng):
    labels = torch.from_numpy(rng.choice([0, 1, 3], 50))  # no sample of class 2
    logs = torch.from_numpy(rng.normal(size=(50, 4))).log_softmax(1).float()
    scores = ClassScores(list("abcd"), torch.device("cpu"))
    for part in torch.arange(50).split(16):
        scores.update(logs[part], {"labels": labels[part]})
    right = (logs.argmax(1) == labels).double()
    recalls = [float(right[labels == label].mean()) for label in (0, 1, 3)]
    summary = scores.summary()
    assert summary["accuracy"] == pytest.approx(float(right.mean()))
    assert torch.cat(scores.clouds).equal(right)
    assert summary["mean_class_accuracy"] == pytest.approx(np.mean(recalls))
    rows = scores.per_class()
    assert rows[2] == {"class": "c", "samples": 0, "accuracy": None}
    assert [rows[i]["accuracy"] for i in (0, 1, 3)] == pytest.approx(recalls)


def test_nothing_counted_is_no_division_by_zero():
    for scores in (
        ClassScores(list("ab"), torch.device("cpu")),
        PointScores(list("ab"), torch.device("cpu")),
        PartScores(["cup", "ball", "lamp"], own_parts()),
    ):
        assert scores.samples == 0 and set(scores.summary().values()) == {0.0}
