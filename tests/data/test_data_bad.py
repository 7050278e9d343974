"""Invalid data is refused in one sentence that says where and what."""

import pickle

import h5py
import numpy as np
import pytest

import dapt.data
from dapt.errors import DataError


def refused(name, options, split, message, *parts):
    with pytest.raises(DataError, match=message) as caught:
        dapt.data.load(name, options, split)
    sentence = str(caught.value)
    assert "\n" not in sentence and all(str(part) in sentence for part in parts)


def good():
    rng = np.random.default_rng()
    return {"points": rng.normal(size=(6, 11, 3)), "labels": np.array([0, 1, 2, 0, 1, 2])}


def with_bad_point(value):
    points = good()["points"]
    points[4, 7, 1] = value
    return points


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"points": None}, "holds no 'points'"),
        ({"labels": None}, "holds no 'labels'"),
        ({"points": np.zeros((6, 11))}, r"points of .* \[S, N, 3\], got float64 \[6, 11\]"),
        ({"points": np.zeros((6, 11, 4))}, r"got float64 \[6, 11, 4\]"),
        ({"points": np.zeros((6, 11, 3), dtype=complex)}, "got complex128"),
        ({"points": np.zeros((6, 0, 3))}, "cloud 0 of .* must have points"),
        ({"points": np.zeros((0, 11, 3)), "labels": np.zeros(0, int)}, "holds no clouds"),
        ({"points": with_bad_point(np.nan)}, r"cloud 4 of .* not finite: point 7 is \[.*nan"),
        ({"points": with_bad_point(-np.inf)}, "cloud 4 of .* not finite: point 7"),
        ({"points": with_bad_point(1e39)}, "cloud 4 of .* not finite: point 7"),
        ({"labels": np.zeros(5, int)}, r"labels of .* \[6\], .* got \[5\]"),
        ({"labels": np.full(6, 0.5)}, "labels of .* whole numbers, got 0.5"),
        ({"labels": np.array([0, 1, -1, 0, 0, 0])}, "cloud 2 of .* label -1, .* 0 to 1"),
        ({"class_names": np.array(["a", "b"])}, "cloud 2 of .* label 2, .* 0 to 1"),
        ({"class_names": np.array(["a", {}], dtype=object)}, "allow_pickle"),
        ({"part_labels": np.zeros((6, 10), int)}, r"part_labels of .* \[6, 11\]"),
        ({"part_labels": np.full((6, 11), -1)}, "part label -1 at point 0"),
        ({"part_labels": np.full((6, 11), 1.5)}, "whole numbers, got 1.5"),
    ],
)
def test_npz(tmp_path, changes, message):
    arrays = {key: value for key, value in (good() | changes).items() if value is not None}
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays)
    refused("npz", {"train": path}, "train", message, path)
    assert not list((tmp_path / "dapt_cache").glob("*.tmp"))


def test_sentence_names_the_file_that_is_no_npz(tmp_path):
    path = tmp_path / "mine.npz"
    for content in (b"", b"not a zip file", pickle.dumps({"points": 1})):
        path.write_bytes(content)
        refused("npz", {"train": path}, "train", "cannot read", path)


def test_test_labels_are_those_of_training(tmp_path):
    train, test = tmp_path / "a.npz", tmp_path / "b.npz"
    np.savez(train, **good())
    np.savez(test, **(good() | {"labels": np.array([0, 1, 2, 3, 0, 0])}))
    refused("npz", {"train": train, "test": test}, "test", "cloud 3 of .*b.npz has label 3")
    np.savez(test, **good(), part_labels=np.zeros((6, 11), int))
    refused("npz", {"train": train, "test": test}, "test", "in both .* or in neither")
    np.savez(train, **good(), part_labels=np.full((6, 11), 2))
    np.savez(test, **good(), part_labels=np.full((6, 11), 3))
    refused("npz", {"train": train, "test": test}, "test", "part label 3 at point 0, .* 0 to 2")


def test_fewer_points_than_asked(tmp_path):
    path = tmp_path / "mine.npz"
    np.savez(path, **good())
    refused("npz", {"train": path, "num_points": 12}, "train", "has 11 points, fewer than .* 12")
    (tmp_path / "objects" / "cup").mkdir(parents=True)
    cloud = tmp_path / "objects" / "cup" / "a.npy"
    np.save(cloud, good()["points"][0])
    refused("folder", {"train": tmp_path / "objects"}, "train", "11 points, fewer than", cloud)


def test_scanobjectnn(tmp_path):
    path = tmp_path / "main_split" / "test_objectdataset.h5"
    options = {"root": tmp_path, "variant": "bg"}
    refused("scanobjectnn", options, "test", "No such file", path)
    path.parent.mkdir()
    path.write_bytes(b"not h5")
    refused("scanobjectnn", options, "test", "cannot read", path)
    with h5py.File(path, "w") as file:
        file["points"] = np.zeros((2, 4, 3))
    refused("scanobjectnn", options, "test", "'data' and 'label', and holds points", path)
    with h5py.File(path, "w") as file:
        file["data"], file["label"] = np.zeros((2, 4, 3)), np.zeros(3, int)
    refused("scanobjectnn", options, "test", r"got \[2, 4, 3\] and int64 \[3\]", path)
    with h5py.File(path, "w") as file:
        file["data"], file["label"] = np.zeros((2, 4, 3)), np.array([0, 15])
    refused("scanobjectnn", options, "test", "cloud 1 of .* label 15, .* 0 to 14", path)
    path.write_bytes(path.read_bytes()[:1500])
    refused("scanobjectnn", options, "test", "cannot read", path)


def test_modelnet(tmp_path):
    options = {"root": tmp_path}
    refused("modelnet40", options, "train", "modelnet40_train.txt: No such file")
    (tmp_path / "modelnet40_train.txt").write_text("\n\n")
    refused("modelnet40", options, "train", "modelnet40_train.txt is empty")
    (tmp_path / "modelnet40_train.txt").write_text("cup_0001\n")
    (tmp_path / "modelnet40_shape_names.txt").write_text("mug\n")
    refused("modelnet40", options, "train", "cup_0001.txt: No such file")
    (tmp_path / "cup").mkdir()
    (tmp_path / "cup" / "cup_0001.txt").write_text("1,2,3\n4,5\n")
    refused("modelnet40", options, "train", "lists shapes of 'cup', which .* does not name")
    (tmp_path / "modelnet40_shape_names.txt").write_text("cup\n")
    refused("modelnet40", options, "train", "cannot read .*cup_0001.txt")
    dat = tmp_path / "modelnet40_train_8192pts_fps.dat"
    for content in ([1, 2, 3], [[np.zeros((4, 3))], []], [[3], [0]], {"a": 1}):
        dat.write_bytes(pickle.dumps(content))
        refused("modelnet40", options, "train", "a list of clouds and a list of labels", dat)


def test_fewshot(tmp_path):
    path = tmp_path / "5way_10shot" / "0.pkl"
    refused("modelnet40_fewshot", {"root": tmp_path}, "train", "No such file", path)
    path.parent.mkdir()
    cloud = np.zeros((4, 3))
    for content in (
        [],
        {"train": []},
        {"train": [(cloud, 0)], "test": []},
        {"train": 3, "test": 3},
    ):
        path.write_bytes(pickle.dumps(content))
        refused("modelnet40_fewshot", {"root": tmp_path}, "test", "dict of 'train' and 'test'")
    path.write_bytes(pickle.dumps({"train": [(cloud, 5, 0)], "test": []}))
    refused("modelnet40_fewshot", {"root": tmp_path}, "train", "train cloud 0 of .* label 5")


def test_shapenet(tmp_path):
    (tmp_path / "ShapeNet-55").mkdir()
    (tmp_path / "shapenet_pc").mkdir()
    (tmp_path / "ShapeNet-55" / "train.txt").write_text("1-a.npy\n")
    (tmp_path / "ShapeNet-55" / "test.txt").write_text("2-b.npy\n")
    refused("shapenet55", {"root": tmp_path}, "train", "1-a.npy: No such file")
    np.save(tmp_path / "shapenet_pc" / "2-b.npy", np.zeros((4, 3)))
    refused("shapenet55", {"root": tmp_path}, "test", "no shape of class '2' is in .*train.txt")
    np.save(tmp_path / "shapenet_pc" / "1-a.npy", np.zeros(4))
    refused("shapenet55", {"root": tmp_path}, "train", "cannot read .*1-a.npy")


def test_folder(tmp_path):
    objects = tmp_path / "objects"
    options = {"train": objects, "num_points": 4}
    refused("folder", options, "train", "does not exist", objects)
    objects.mkdir()
    refused("folder", options, "train", "has no folders", objects)
    (objects / "cup").mkdir()
    refused("folder", options, "train", "class 'cup' is empty")
    np.save(objects / "cup" / "a.npy", np.random.default_rng().normal(size=(9, 3)))
    (tmp_path / "test" / "mug").mkdir(parents=True)
    np.save(tmp_path / "test" / "mug" / "a.npy", np.zeros((9, 3)))
    refused(
        "folder", options | {"test": tmp_path / "test"}, "test", "class 'mug' .* is not a class"
    )


def test_clouds_of_different_size_need_num_points(tmp_path):
    for name, count in (("a", 20), ("b", 30)):
        cloud = np.random.default_rng().normal(size=(count, 6))
        (tmp_path / "cup").mkdir(exist_ok=True)
        np.savetxt(tmp_path / "cup" / f"cup_{name}.txt", cloud, delimiter=",")
    (tmp_path / "modelnet40_train.txt").write_text("cup_a\ncup_b\n")
    (tmp_path / "modelnet40_shape_names.txt").write_text("cup\n")
    options = {"root": tmp_path}
    refused("modelnet40", options, "train", "cup_b.txt has 30 points .* have 20: set num_points")
    dataset = dapt.data.load("modelnet40", options | {"num_points": 20}, "train")
    assert dataset.num_points == 20
