"""Every dataset, read from small files in the layout that its owners distribute."""

import pickle
from pathlib import Path

import h5py
import jsonargparse
import numpy as np
import pytest

import dapt.data
from dapt.errors import DataError, UsageError

SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture
def rng():
    return np.random.default_rng()


def in_unit_ball(clouds):
    centered = clouds - clouds.mean(1, keepdims=True)
    return centered / np.linalg.norm(centered, axis=2).max(1)[:, None, None]


def everything(dataset):
    batch = dataset.batch(range(len(dataset)))
    return {key: values.numpy() for key, values in batch.items()}


def write_h5(path, data, label):
    path.parent.mkdir(exist_ok=True, parents=True)
    with h5py.File(path, "w") as file:
        file["data"], file["label"] = data, label
        file["mask"] = np.zeros(data.shape[:2], dtype=np.int32)


@pytest.mark.parametrize("nested", ["", "h5_files"])
@pytest.mark.parametrize(
    "variant, file",
    [
        ("bg", "main_split/{}_objectdataset.h5"),
        ("only", "main_split_nobg/{}_objectdataset.h5"),
        ("hardest", "main_split/{}_objectdataset_augmentedrot_scale75.h5"),
    ],
)
def test_scanobjectnn(tmp_path, rng, nested, variant, file):
    data = {split: rng.normal(size=(300, 12, 3)).astype("f4") for split in ("training", "test")}
    label = {split: rng.integers(0, 15, 300).astype("i4") for split in data}
    for split in data:
        write_h5(tmp_path / nested / file.format(split), data[split], label[split])
    options = {"root": tmp_path, "variant": variant}
    for split, name in (("train", "training"), ("test", "test")):
        dataset = dapt.data.load("scanobjectnn", options, split)
        assert len(dataset) == 300 and dataset.num_classes == 15 and dataset.num_points == 12
        assert dataset.class_names[0] == "bag" and dataset.class_names[14] == "toilet"
        batch = everything(dataset)
        np.testing.assert_array_equal(batch["points"], data[name])
        np.testing.assert_array_equal(batch["labels"], label[name])
        assert batch["points"].dtype == np.float32 and batch["labels"].dtype == np.int64


def write_modelnet(root, rng, split, shapes, num_points=20):
    clouds = {shape: rng.normal(size=(num_points, 6)).astype("f4") for shape in shapes}
    root.mkdir(exist_ok=True)
    (root / "modelnet40_shape_names.txt").write_text("airplane\nnight_stand\nxbox\n")
    (root / f"modelnet40_{split}.txt").write_text("".join(f"{shape}\n" for shape in shapes))
    for shape, cloud in clouds.items():
        folder = root / shape.rpartition("_")[0]
        folder.mkdir(exist_ok=True)
        np.savetxt(folder / f"{shape}.txt", cloud, delimiter=",", fmt="%.9g")
    return np.stack(list(clouds.values()))[:, :, :3]


def test_modelnet40_text(tmp_path, rng):
    train = write_modelnet(tmp_path, rng, "train", ["xbox_0001", "airplane_0002", "xbox_0007"])
    test = write_modelnet(tmp_path, rng, "test", ["night_stand_0001"])
    dataset = dapt.data.load("modelnet40", {"root": str(tmp_path)}, "train")
    assert dataset.class_names == ["airplane", "night_stand", "xbox"]
    assert dataset.labels.tolist() == [2, 0, 2]
    np.testing.assert_allclose(everything(dataset)["points"], in_unit_ball(train), atol=1e-6)
    raw = dapt.data.load("modelnet40", {"root": str(tmp_path), "normalize": False}, "test")
    assert raw.labels.tolist() == [1]
    np.testing.assert_array_equal(everything(raw)["points"], test)


def test_modelnet40_dat_comes_before_text(tmp_path, rng):
    write_modelnet(tmp_path, rng, "train", ["xbox_0001"])
    clouds = [rng.normal(size=(16, 6)).astype("f4") for _ in range(5)]
    labels = [np.array([label], dtype=np.int32) for label in (0, 1, 1, 2, 0)]
    content = pickle.dumps([clouds, labels], protocol=3)
    (tmp_path / "modelnet40_train_8192pts_fps.dat").write_bytes(content)
    dataset = dapt.data.load("modelnet40", {"root": tmp_path}, "train")
    assert dataset.labels.tolist() == [0, 1, 1, 2, 0]
    expected = in_unit_ball(np.stack(clouds)[:, :, :3])
    np.testing.assert_allclose(everything(dataset)["points"], expected, atol=1e-6)
    assert len(dapt.data.load("modelnet40", {"root": tmp_path, "source": "text"}, "train")) == 1


@pytest.mark.parametrize("folder", ["5way_10shot", "5way10shot"])
def test_modelnet40_fewshot(tmp_path, rng, folder):
    def episode(count):
        return [
            (rng.normal(size=(16, 6)).astype("f4"), label, np.int32(30 + label))
            for label in range(5)
            for _ in range(count)
        ]

    content = {"train": episode(10), "test": episode(20)}
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "3.pkl").write_bytes(pickle.dumps(content))
    options = {"root": tmp_path, "way": 5, "shot": 10, "fold": 3}
    train = dapt.data.load("modelnet40_fewshot", options, "train")
    test = dapt.data.load("modelnet40_fewshot", options, "test")
    assert train.num_classes == 5 and train.class_names == ["30", "31", "32", "33", "34"]
    assert len(train) == 50 and np.bincount(test.labels).tolist() == [20] * 5
    expected = in_unit_ball(np.stack([points[:, :3] for points, _, _ in content["test"]]))
    np.testing.assert_allclose(everything(test)["points"], expected, atol=1e-6)


def test_shapenet55(tmp_path, rng):
    (tmp_path / "ShapeNet-55").mkdir()
    (tmp_path / "shapenet_pc").mkdir()
    names = {"train": ["04379243-b.npy", "02691156-a.npy"], "test": ["04379243-c.npy"]}
    clouds = {}
    for split, lines in names.items():
        (tmp_path / "ShapeNet-55" / f"{split}.txt").write_text("\n".join(lines))
        for line in lines:
            clouds[line] = rng.normal(size=(30, 3))
            np.save(tmp_path / "shapenet_pc" / line, clouds[line].astype("f4"))
    train = dapt.data.load("shapenet55", {"root": tmp_path}, "train")
    test = dapt.data.load("shapenet55", {"root": tmp_path}, "test")
    assert train.class_names == test.class_names == ["02691156", "04379243"]
    assert train.labels.tolist() == [1, 0] and test.labels.tolist() == [1]
    whole = dapt.data.load("shapenet55", {"root": tmp_path, "whole": True}, "train")
    expected = in_unit_ball(np.stack([clouds[line] for line in sum(names.values(), [])]))
    np.testing.assert_allclose(everything(whole)["points"], expected, atol=1e-6)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i4"])
def test_npz(tmp_path, rng, dtype):
    points = (rng.normal(size=(40, 25, 3)) * 10).astype(dtype)
    labels = np.arange(40) % 3
    parts = rng.integers(0, 4, (40, 25))
    parts[0, 0] = 3
    names = np.array(["cup", "mug", "jar"])
    np.savez(tmp_path / "a.npz", points=points, labels=labels, class_names=names, part_labels=parts)
    np.savez(tmp_path / "b.npz", points=points[:7], labels=labels[:7], part_labels=parts[:7])
    options = {"train": tmp_path / "a.npz", "test": tmp_path / "b.npz", "normalize": False}
    for split, count in (("train", 40), ("test", 7)):
        dataset = dapt.data.load("npz", options, split)
        assert dataset.class_names == ["cup", "mug", "jar"] and dataset.num_parts == 4
        batch = everything(dataset)
        np.testing.assert_array_equal(batch["points"], points[:count].astype("f4"))
        np.testing.assert_array_equal(batch["labels"], labels[:count])
        np.testing.assert_array_equal(batch["part_labels"], parts[:count])


def test_thinning_keeps_part_labels_with_their_points(tmp_path, rng):
    points = rng.normal(size=(6, 50, 3)).astype("f4")
    parts = rng.integers(0, 9, (6, 50))
    np.savez(tmp_path / "a.npz", points=points, labels=np.arange(6) % 2, part_labels=parts)
    options = {"train": tmp_path / "a.npz", "num_points": 20, "normalize": False}
    batch = everything(dapt.data.load("npz", options, "train"))
    assert batch["points"].shape == (6, 20, 3)
    for cloud, kept, part, kept_part in zip(
        points, batch["points"], parts, batch["part_labels"], strict=True
    ):
        places = [np.flatnonzero((cloud == point).all(1)).item() for point in kept]
        assert places[0] == 0 and len(set(places)) == 20
        np.testing.assert_array_equal(kept_part, part[places])


def test_npz_without_names_or_test(tmp_path, rng, caplog):
    np.savez(tmp_path / "a.npz", points=rng.normal(size=(4, 9, 3)), labels=np.array([1, 1, 3, 0]))
    options = {"train": tmp_path / "a.npz"}
    dataset = dapt.data.load("npz", options, "train")
    assert dataset.class_names == ["0", "1", "2", "3"] and dataset.num_parts == 0
    assert "part_labels" not in dataset[0]
    assert "has no cloud of 2" in caplog.text
    assert dapt.data.has_split("npz", options, "train")
    assert not dapt.data.has_split("npz", options, "test")
    with pytest.raises(UsageError, match="no test file"):
        dapt.data.load("npz", options, "test")


@pytest.mark.parametrize("up", ["x", "y", "z"])
def test_upright(tmp_path, rng, up):
    """The vertical axis becomes y by a rotation: nothing is mirrored."""
    points = rng.normal(size=(4, 9, 3)).astype("f4")
    np.savez(tmp_path / "a.npz", points=points, labels=np.arange(4) % 2)
    for row, cloud in enumerate(points):
        (tmp_path / "clouds" / str(row % 2)).mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "clouds" / str(row % 2) / f"{row}.npy", cloud)
    options = {"up": up, "normalize": False}
    turned = everything(dapt.data.load("npz", {"train": tmp_path / "a.npz", **options}, "train"))
    np.testing.assert_array_equal(turned["points"][..., 1], points[..., "xyz".index(up)])
    turn = np.linalg.lstsq(points.reshape(-1, 3), turned["points"].reshape(-1, 3), rcond=None)[0]
    np.testing.assert_allclose(np.linalg.det(turn), 1, atol=1e-5)
    options |= {"train": tmp_path / "clouds", "num_points": 9}
    from_files = everything(dapt.data.load("folder", options, "train"))
    np.testing.assert_array_equal(from_files["points"], turned["points"][[0, 2, 1, 3]])
    with pytest.raises(UsageError, match="up must be x, y or z, got 'w'"):
        dapt.data.load("npz", {"train": tmp_path / "a.npz", "up": "w"}, "train")


@pytest.mark.parametrize("pattern", ["{split}", "*/{split}"])
def test_folder_of_clouds_and_meshes(tmp_path, rng, pattern):
    clouds = {}
    for split in ("train", "test"):
        for name in ("chair", "lamp"):
            parts = (name, split) if "*" in pattern else (split, name)
            folder = tmp_path.joinpath("objects", *parts)
            folder.mkdir(parents=True)
            clouds[split, name] = rng.normal(size=(64, 3))
            np.save(folder / "b.npy", clouds[split, name])
            (folder / "a.off").write_text(
                "OFF\n4 2 0\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n3 0 1 2\n3 0 2 3\n"
            )
            (folder / "notes.md").write_text("not a cloud")
    options = {
        "train": tmp_path / "objects" / pattern.format(split="train"),
        "test": tmp_path / "objects" / pattern.format(split="test"),
        "num_points": 64,
    }
    dataset = dapt.data.load("folder", options, "test")
    assert dataset.class_names == ["chair", "lamp"] and dataset.labels.tolist() == [0, 0, 1, 1]
    batch = everything(dataset)
    expected = in_unit_ball(np.stack([clouds["test", "chair"], clouds["test", "lamp"]]))
    np.testing.assert_allclose(batch["points"][1::2], expected, atol=1e-6)
    assert (batch["points"][::2, :, 2] == 0).all()  # the mesh is a square in the plane z = 0
    assert len(dapt.data.load("folder", options, "train")) == 4
    parts = ("bowl", "train") if "*" in pattern else ("train", "bowl")
    bowl = tmp_path.joinpath("objects", *parts)
    bowl.mkdir(parents=True)
    np.save(bowl / "a.npy", rng.normal(size=(64, 3)))
    (bowl / "._a.npy").write_text("what a Mac leaves beside it")
    if "*" in pattern:
        bowl.with_name("test").mkdir()
        np.save(bowl.with_name("test") / "a.npy", rng.normal(size=(64, 3)))
    dataset = dapt.data.load("folder", options, "test")  # the new class renumbers both splits
    assert dataset.class_names == ["bowl", "chair", "lamp"]
    assert dataset.labels.tolist()[-4:] == [1, 1, 2, 2]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real data is not available")
def test_real_modelnet10(tmp_path):
    path = SHARED / "modelnet10_train.npz"
    dataset = dapt.data.load("npz", {"train": path, "cache": tmp_path}, "train")
    with np.load(path) as file:
        assert len(dataset) == 3733 and dataset.class_names == file["class_names"].tolist()
        np.testing.assert_array_equal(dataset.labels, file["labels"])
        points = file["points"].astype(np.float64)
    rows = np.random.default_rng().integers(0, 3733, 33)
    batch = dataset.batch(rows)
    assert batch["points"].shape == (33, 1024, 3)
    np.testing.assert_allclose(batch["points"], in_unit_ball(points[rows]), atol=1e-6)


def test_registered_names_and_options():
    names = {"scanobjectnn", "modelnet40", "modelnet40_fewshot", "shapenet55", "npz", "folder"}
    assert names <= set(dapt.data.DATASETS)
    with pytest.raises(UsageError, match="unknown dataset 'scan'.*scanobjectnn"):
        dapt.data.load("scan", {}, "train")
    with pytest.raises(UsageError, match="no option 'trian': did you mean 'train'"):
        dapt.data.load("npz", {"trian": "a.npz"}, "train")
    with pytest.raises(UsageError, match="needs the option 'root'"):
        dapt.data.load("modelnet40", {"normalize": True}, "train")
    with pytest.raises(UsageError, match="must be 'train' or 'test', got 'val'"):
        dapt.data.load("npz", {"train": "a.npz"}, "val")
    with pytest.raises(UsageError, match="variant must be one of"):
        dapt.data.load("scanobjectnn", {"root": ".", "variant": "easy"}, "train")
    with pytest.raises(ValueError, match="twice"):
        dapt.data.register("npz")(dapt.data.DATASETS["npz"])
    with pytest.raises(DataError, match="objects.npz: No such file"):
        dapt.data.load("npz", {"train": "objects.npz"}, "train")


NEED_FILES = sorted(name for name in dapt.data.DATASETS if not name.startswith("synthetic"))


@pytest.mark.parametrize("name", NEED_FILES)
def test_options_are_flags(name):
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--data", type=dapt.data.options_of(name))
    required = dict.fromkeys(("npz", "folder", "scenes"), "train").get(name, "root")
    flags = [f"--data.{required}=here", "--data.num_points=12", "--data.normalize=true"]
    options = parser.instantiate(parser.parse_args(flags)).data
    assert type(options) is dapt.data.options_of(name)
    assert getattr(options, required) == Path("here") and options.num_points == 12
