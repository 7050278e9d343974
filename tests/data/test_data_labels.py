"""Labels as they occur in people's files."""

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import dapt
from dapt.data import load
from dapt.data.labels import IGNORED
from dapt.errors import DataError, UsageError
from dapt.inference.prediction import clouds_of


@pytest.fixture
def saved(tmp_path):
    """A function that writes an .npz file of six clouds, with changed arrays, and returns
    options."""

    def save(name="a.npz", **changed):
        content = {"points": np.random.default_rng(0).normal(size=(6, 11, 3))}
        content["labels"] = np.arange(6) % 3
        np.savez(tmp_path / name, **content | changed)
        return {"train": tmp_path / name}

    return save


def labels_of(options):
    dataset = load("npz", options, "train")
    return dataset.labels.tolist(), dataset.class_names


def test_names_are_numbered_in_their_order(saved, tmp_path):
    options = saved(labels=np.array(["cup", "axe", "cup", "bag", "axe", "bag"]))
    assert labels_of(options) == ([2, 0, 2, 1, 0, 1], ["axe", "bag", "cup"])
    test = saved("b.npz", labels=np.array(["bag", "bag", "cup", "axe", "axe", "cup"]))
    both = options | {"test": test["train"]}
    assert load("npz", both, "test").labels.tolist() == [1, 1, 2, 0, 0, 2]
    both["test"] = saved("c.npz", labels=np.array(["hat"] * 6))["train"]
    with pytest.raises(DataError, match="hold 'hat', and the classes are axe, bag, cup"):
        load("npz", both, "test")


def test_whole_floats_and_columns_are_numbers(saved):
    wanted = ([0, 1, 2, 0, 1, 2], ["0", "1", "2"])
    assert labels_of(saved(labels=np.arange(6.0) % 3)) == wanted
    assert labels_of(saved("b.npz", labels=np.arange(6)[:, None] % 3)) == wanted


def test_data_and_label_in_an_h5_file(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = np.random.default_rng(0).normal(size=(6, 11, 3))
        file["label"] = (np.arange(6) % 3)[:, None]
    assert labels_of({"train": tmp_path / "a.h5"}) == ([0, 1, 2, 0, 1, 2], ["0", "1", "2"])


@pytest.mark.parametrize("field", ["labels", "part_labels"])
def test_a_label_far_beyond_the_others_is_refused(saved, field):
    changed = {"part_labels": np.zeros((6, 11), int)}
    changed |= {field: changed.get(field, np.arange(6) % 3).copy()}
    changed[field].flat[0] = 10**8
    with pytest.raises(DataError, match="up to 100000000, .* or set ignore_label=100000000"):
        load("npz", saved(**changed), "train")


def test_clouds_with_the_ignored_label_are_left_out(saved):
    labels = np.array([0, 1, 255, 1, 0, 255])
    assert labels_of(saved(labels=labels) | {"ignore_label": 255}) == ([0, 1, 1, 0], ["0", "1"])


def test_ignored_points_count_in_no_loss_and_no_score(saved):
    parts = np.random.default_rng(1).integers(0, 3, (6, 11))
    hidden = np.random.default_rng(2).random((6, 11)) < 0.3
    parts[:, 0], hidden[:, 0] = 2, False
    options = saved(labels=np.zeros(6, int), part_labels=np.where(hidden, 9, parts))
    dataset = load("npz", options | {"ignore_label": 9}, "train")
    batch = dataset.batch(range(6))
    assert dataset.num_parts == 3
    assert torch.equal(batch["part_labels"] == IGNORED, torch.from_numpy(hidden))
    assert dataset.part_counts().tolist() == np.bincount(parts[~hidden]).tolist()

    logits = torch.randn(6, 11, 3)
    seen = torch.from_numpy(~hidden)
    wanted = F.cross_entropy(logits[seen], torch.from_numpy(parts)[seen])
    right = logits.argmax(2)[seen] == torch.from_numpy(parts)[seen]
    for task in (dapt.PartSegmentation(1, 3), dapt.SemanticSegmentation(3)):
        torch.testing.assert_close(task.loss(logits, batch), wanted)
        scores = task.scores(torch.device("cpu"))
        scores.update(logits.log_softmax(2), batch)
        summary = scores.summary()
        assert summary["accuracy"] == pytest.approx(float(right.float().mean()))
        assert summary["loss"] == pytest.approx(float(wanted))


def test_scenes_have_ignored_points_too(tmp_path):
    points = np.random.default_rng(0).uniform(0, 2, (500, 3))
    labels = np.arange(500) % 4
    np.savez(tmp_path / "room.npz", points=points, labels=np.where(labels == 3, 255, labels))
    options = {"train": tmp_path, "num_points": 64, "ignore_label": 255, "min_points": 1}
    dataset = load("scenes", options, "train")
    assert dataset.part_names == ["0", "1", "2"]
    assert (dataset.batch([0])["part_labels"] == IGNORED).any()
    with pytest.raises(DataError, match="ignore_label=255"):
        load("scenes", options | {"ignore_label": None}, "train")


@pytest.mark.parametrize("scale, kind", [(1, np.float32), (255, np.uint8)])
def test_points_with_color(tmp_path, saved, scale, kind):
    """`points` [S, N, 6] are taken as they are if the network reads color, else refused."""
    rng = np.random.default_rng(1)
    points = np.concatenate([rng.normal(size=(6, 11, 3)), rng.random((6, 11, 3))], 2)
    stored = points.astype(np.float32)
    if kind is np.uint8:
        stored[..., 3:] = (points[..., 3:] * 255).round()
    options = saved(points=stored)
    with pytest.raises(DataError, match=r"keep points\[..., :3\], or, .* data.channels to color"):
        load("npz", options, "train")
    dataset = load("npz", options | {"channels": "color", "normalize": False, "up": "z"}, "train")
    got = dataset.batch(range(6))["points"].numpy()
    np.testing.assert_allclose(got[..., 3:], points[..., 3:], atol=0.5 / 255 if scale > 1 else 1e-6)
    turned = load("npz", saved(points=stored[..., :3]) | {"normalize": False, "up": "z"}, "train")
    np.testing.assert_array_equal(got[..., :3], turned.batch(range(6))["points"].numpy())
    with pytest.raises(DataError, match=r"must be numbers \[S, N, 6\], got float32 \[6, 11, 3\]"):
        load("npz", saved(points=stored[..., :3]) | {"channels": "color"}, "train")


def test_color_is_for_networks_that_read_it(tmp_path, run):
    rng = np.random.default_rng(1)
    points = np.concatenate([rng.normal(size=(24, 24, 3)), rng.random((24, 24, 3))], 2)
    np.savez(tmp_path / "color.npz", points=points, labels=np.arange(24) % 3)
    where = ("--data.train", str(tmp_path / "color.npz"), "--data.channels", "color")
    _, code = run("plain", *where)
    assert code == 2
    backbone = {
        "name": "uni3d_tiny",
        "checkpoint": "none",
        "dim": 12,
        "depth": 2,
        "num_heads": 2,
        "hidden": 24,
    }
    backbone |= {"encoder_dim": 12, "encoder_widths": [4, 8, 8], "num_groups": 6, "group_size": 5}
    folder, code = run("colored", *where, backbone=backbone)
    assert code == 0
    paths = [tmp_path / "color.npz"]
    clouds = list(clouds_of(paths[0], "color"))
    assert len(clouds) == 24 and clouds[3][1].shape == (24, 6)
    np.testing.assert_allclose(clouds[3][1], points[3], atol=1e-6)
    with pytest.raises(UsageError, match="this network reads coordinates only"):
        dapt.create_backbone("point_mae")(torch.rand(1, 2048, 6))
