"""Datasets with point labels, read from small files in the layouts that their owners distribute."""

import json

import h5py
import numpy as np
import pytest

import dapt.data
from dapt.data.blocks import windows
from dapt.data.s3dis import CLASS_NAMES
from dapt.data.shapenetpart import PARTS
from dapt.errors import DataError, UsageError


@pytest.fixture
def rng():
    return np.random.default_rng()


def everything(dataset):
    return {k: v.numpy() for k, v in dataset.batch(range(len(dataset))).items()}


def rows(points, labels):
    """The labeled points of a cloud as a set, in any order."""
    table = np.column_stack([np.asarray(points, np.float32), labels])
    return {tuple(row) for row in table.tolist()}


# --- ShapeNetPart

SYNSETS = {"Airplane": "02691156", "Bag": "02773838", "Earphone": "03261776"}
FIRST_PART = {"Airplane": 0, "Bag": 4, "Earphone": 16}


def write_shapenetpart(root, rng, splits, size=30):
    """splits: split -> list of (category, id). Returns the table [N, 7] of each shape."""
    root.mkdir(exist_ok=True)
    lines = [f"{name}\t{synset}\n" for name, synset in SYNSETS.items()]
    (root / "synsetoffset2category.txt").write_text("".join(lines))
    lists, tables = root / "train_test_split", {}
    lists.mkdir()
    for split, shapes in splits.items():
        names = [f"shape_data/{SYNSETS[category]}/{name}" for category, name in shapes]
        (lists / f"shuffled_{split}_file_list.json").write_text(json.dumps(names))
        for category, name in shapes:
            parts = FIRST_PART[category] + rng.integers(0, PARTS[category], size)
            table = np.column_stack([rng.normal(size=(size, 6)).astype("f4"), parts])
            folder = root / SYNSETS[category]
            folder.mkdir(exist_ok=True)
            np.savetxt(folder / f"{name}.txt", table, fmt="%.6f")
            tables[name] = np.loadtxt(folder / f"{name}.txt")
    return tables


SPLITS = {
    "train": [("Bag", "b1"), ("Airplane", "a1")],
    "val": [("Earphone", "e1")],
    "test": [("Airplane", "a2")],
}


def test_shapenetpart(tmp_path, rng):
    tables = write_shapenetpart(tmp_path, rng, SPLITS)
    options = {"root": tmp_path, "num_points": 30, "normalize": False}
    train = dapt.data.load("shapenetpart", options, "train")
    test = dapt.data.load("shapenetpart", options, "test")
    assert len(PARTS) == train.num_classes == 16 and train.num_parts == 50
    assert train.labels.tolist() == [1, 0, 5] and test.labels.tolist() == [0]
    assert train.class_parts[0] == [0, 1, 2, 3] and train.class_parts[5] == [16, 17, 18]
    # motorbikes, in the customary numbering
    assert train.class_parts[10] == [30, 31, 32, 33, 34, 35]
    batch = everything(train)
    for row, name in enumerate(("b1", "a1", "e1")):
        np.testing.assert_array_equal(batch["points"][row], tables[name][:, :3].astype("f4"))
        np.testing.assert_array_equal(batch["part_labels"][row], tables[name][:, 6])


def test_shapenetpart_shapes_of_any_size(tmp_path, rng):
    tables = write_shapenetpart(tmp_path, rng, SPLITS)
    for count in (11, 50):  # fewer and more points than there are
        options = {"root": tmp_path, "num_points": count, "normalize": False}
        batch = everything(dapt.data.load("shapenetpart", options, "train"))
        assert batch["points"].shape == (3, count, 3)
        found = rows(batch["points"][0], batch["part_labels"][0])
        whole = rows(tables["b1"][:, :3], tables["b1"][:, 6])
        assert len(found) == min(count, 30) and found <= whole


def refused(name, options, split, words):
    with pytest.raises((DataError, UsageError), match=words) as error:
        dapt.data.load(name, options, split)
    assert "\n" not in str(error.value)


def test_bad_shapenetpart(tmp_path, rng):
    write_shapenetpart(tmp_path, rng, SPLITS)
    options, lists = {"root": tmp_path}, tmp_path / "train_test_split"
    shape = tmp_path / SYNSETS["Bag"] / "b1.txt"
    good = shape.read_text()
    shape.write_text("0 0 0 1 0 0 50\n" * 9)
    refused("shapenetpart", options, "train", "b1.txt has part label 50 at point 0.*0 to 49")
    shape.write_text("0 0 0 1 0 0\n" * 9)
    refused("shapenetpart", options, "train", "x y z, normal and part label, got 6 columns")
    shape.write_text("0 0 0 1 zero 0 0\n")
    refused("shapenetpart", options, "train", "cannot read .*b1.txt")
    shape.write_text("")
    refused("shapenetpart", options, "train", "b1.txt")
    shape.write_text(good)
    path = lists / "shuffled_test_file_list.json"
    path.write_text('["shape_data/09999999/x"]')
    refused("shapenetpart", options, "test", "09999999")
    path.write_text('{"a": 1}')
    refused("shapenetpart", options, "test", "must hold a list of names")
    path.unlink()
    refused("shapenetpart", options, "test", "cannot read .*shuffled_test_file_list")
    (tmp_path / "synsetoffset2category.txt").write_text("Airship\t02691156\n")
    refused("shapenetpart", options, "train", "names the category 'Airship'")


# --- blocks of scenes


@pytest.mark.parametrize("size, stride", [(1.0, 0.5), (1.0, 1.0), (0.7, 0.31), (50.0, 1.0)])
@pytest.mark.parametrize("up", ["x", "y", "z"])
def test_windows_are_squares_and_leave_no_point_out(rng, size, stride, up):
    points = rng.uniform(-3, 4, (500, 3)).round(1)  # many lie on the edges of squares
    times = np.zeros(len(points), int)
    for index in windows(points, size, stride, up):
        assert len(index) and (np.diff(index) > 0).all()
        extent = np.delete(np.ptp(points[index], axis=0), "xyz".index(up))
        assert (extent <= size + 1e-9).all()
        times[index] += 1
    assert times.min() >= 1
    if size > 7:
        assert (times == 1).all()  # one window covers everything


def test_windows_are_all_the_squares_of_the_grid(rng):
    """Compared with a loop over the squares, for a scene that is a multiple of the stride."""
    points = rng.uniform(0, 1, (400, 3)) * (3.0, 2.0, 9.0)
    points[:4, :2] = [[0, 0], [3, 0], [0, 2], [3, 2]]
    got = [index.tolist() for index in windows(points, 1.0, 0.5)]
    expected = []
    for x in (0, 0.5, 1, 1.5, 2):
        for y in (0, 0.5, 1):
            inside = (points[:, 0] >= x) & (points[:, 0] <= x + 1)
            inside &= (points[:, 1] >= y) & (points[:, 1] <= y + 1)
            expected.append(np.flatnonzero(inside).tolist())
    assert got == expected


def test_rounding_loses_no_point():
    """Points right beside the edges of squares as they are computed, on scenes of any position and
    size, a few of which have gaps between their squares."""
    rng = np.random.default_rng(0)
    for _ in range(1000):
        low, size = rng.choice([-1, 1]) * 10 ** rng.uniform(-3, 6), 10 ** rng.uniform(-2, 1)
        high = low + size * rng.uniform(1, 9)
        edges = low + size * np.arange(10) + np.array([[0], [size]])
        values = np.stack([np.nextafter(edges, -np.inf), edges, np.nextafter(edges, np.inf)])
        values = np.concatenate([[low, high], values[(values > low) & (values < high)]])
        points = np.stack([values, np.full(len(values), low), np.zeros(len(values))], 1)
        for cloud in (points, points[:, [1, 0, 2]]):
            found = np.concatenate(list(windows(cloud, size, size)))
            assert set(found.tolist()) == set(range(len(values)))


def test_bad_windows():
    points = np.zeros((3, 3))
    for size, stride in ((1.0, 1.5), (1.0, 0.0), (0.0, 0.0)):
        with pytest.raises(UsageError, match="stride must be above 0 and at most"):
            list(windows(points, size, stride))
    with pytest.raises(UsageError, match="up must be x, y or z"):
        list(windows(points, 1.0, 0.5, "w"))


def room(rng, points=3000, size=(2.4, 1.7, 2.5)):
    cloud = (rng.uniform(0, 1, (points, 3)) * size).astype("f4")
    return cloud, rng.integers(0, 13, points)


BLOCKS = {"num_points": 64, "min_points": 20, "normalize": False, "up": "y"}


def assert_blocks_of(dataset, scenes, rng):
    """Every block comes from one scene, lies within a square, and has the right labels."""
    batch = everything(dataset)
    whole = [rows(points, labels) for points, labels in scenes]
    for points, labels, scene in zip(
        batch["points"], batch["part_labels"], dataset.scenes, strict=True
    ):
        assert points.shape == (64, 3) and rows(points, labels) <= whole[scene]
        assert (np.ptp(points[:, ::2], axis=0) <= 1 + 1e-6).all()


def test_s3dis_rooms_as_arrays(tmp_path, rng):
    rooms = {name: room(rng) for name in ("Area_1_office_1", "Area_1_hallway_2", "Area_5_wc_1")}
    for name, (points, labels) in rooms.items():
        color = rng.integers(0, 256, points.shape)
        np.save(tmp_path / f"{name}.npy", np.column_stack([points, color, labels]))
    train = dapt.data.load("s3dis", {"root": tmp_path} | BLOCKS, "train")
    test = dapt.data.load("s3dis", {"root": tmp_path} | BLOCKS, "test")
    assert train.part_names == CLASS_NAMES and train.num_parts == 13
    assert set(train.labels) == {0} and set(test.labels) == {4}
    assert_blocks_of(train, [rooms["Area_1_hallway_2"], rooms["Area_1_office_1"]], rng)
    assert_blocks_of(test, [rooms["Area_5_wc_1"]], rng)
    other = dapt.data.load("s3dis", {"root": tmp_path, "test_area": 1} | BLOCKS, "test")
    assert set(other.labels) == {0} and len(other) < len(train)  # its blocks hardly overlap


def test_s3dis_rooms_as_its_owners_text(tmp_path, rng):
    points = np.round(rng.uniform(0, 0.9, (300, 3)), 3).astype("f4")
    labels = np.repeat([CLASS_NAMES.index(n) for n in ("chair", "clutter", "wall")], 100)
    for name, kind in (("chair_1", "chair"), ("stairs_1", "clutter"), ("wall_3", "wall")):
        folder = tmp_path / "Area_2" / "office_7" / "Annotations"
        folder.mkdir(parents=True, exist_ok=True)
        own = points[labels == CLASS_NAMES.index(kind)]
        table = np.column_stack([own, rng.integers(0, 256, own.shape)])
        np.savetxt(folder / f"{name}.txt", table, fmt="%.3f %.3f %.3f %d %d %d")
    dataset = dapt.data.load("s3dis", {"root": tmp_path} | BLOCKS | {"num_points": 300}, "train")
    batch = everything(dataset)
    assert len(dataset) == 1 and dataset.labels.tolist() == [1]
    assert rows(batch["points"][0], batch["part_labels"][0]) == rows(points, labels)


def test_blocks_are_turned_upright(tmp_path, rng):
    points, labels = room(rng, size=(0.9, 0.9, 3.0))
    np.savez(tmp_path / "a.npz", points=points, labels=labels)
    options = {"train": tmp_path, "num_points": 3000, "normalize": False}
    dataset = dapt.data.load("scenes", options, "train")  # z is up in the file
    x, y, z = points.T
    turned = np.stack([x, z, -y], 1)
    batch = everything(dataset)
    assert rows(batch["points"][0], batch["part_labels"][0]) == rows(turned, labels)


def test_s3dis_blocks_as_h5(tmp_path, rng):
    rooms = ["Area_1_office_1"] * 3 + ["Area_5_wc_1"] * 2 + ["Area_6_office_2"] * 2
    data = rng.normal(size=(7, 64, 9)).astype("f4")
    label = rng.integers(0, 13, (7, 64)).astype("u1")
    for number, part in enumerate((slice(0, 4), slice(4, 7))):
        with h5py.File(tmp_path / f"ply_data_all_{number}.h5", "w") as file:
            file["data"], file["label"] = data[part], label[part]
    listed = [f"indoor3d_sem_seg_hdf5_data/ply_data_all_{number}.h5\n" for number in (0, 1)]
    (tmp_path / "all_files.txt").write_text("".join(listed))
    (tmp_path / "room_filelist.txt").write_text("\n".join(rooms) + "\n")
    options = {"root": tmp_path} | BLOCKS
    train = dapt.data.load("s3dis", options, "train")
    test = dapt.data.load("s3dis", options, "test")
    batch = everything(train)
    np.testing.assert_array_equal(batch["points"], data[[0, 1, 2, 5, 6], :, :3])
    np.testing.assert_array_equal(batch["part_labels"], label[[0, 1, 2, 5, 6]])
    assert train.labels.tolist() == [0, 0, 0, 5, 5] and train.scenes.tolist() == [0, 0, 0, 2, 2]
    np.testing.assert_array_equal(everything(test)["points"], data[3:5, :, :3])
    (tmp_path / "room_filelist.txt").write_text("\n".join(rooms[:-1]) + "\n")
    refused("s3dis", options, "train", "more blocks than room_filelist.txt has lines")


def test_blocks_of_one_scene_stay_on_one_side_of_the_split(tmp_path, rng):
    for number in range(6):
        points, labels = room(rng, points=800)
        np.savez(tmp_path / f"{number}.npz", points=points, labels=labels)
    dataset = dapt.data.load("scenes", {"train": tmp_path} | BLOCKS, "train")
    train, validation = dapt.data.split_validation(dataset, 0.3, seed=1)
    assert len(train) + len(validation) == len(dataset)
    assert not set(train.scenes) & set(validation.scenes)
    assert len(set(validation.scenes)) == 2
    alone = dapt.data.Subset(dataset, np.flatnonzero(dataset.scenes == 0))
    with pytest.raises(UsageError, match="single scene"):
        dapt.data.split_validation(alone, 0.3, seed=1)


def test_scenes(tmp_path, rng):
    train, test = tmp_path / "train", tmp_path / "test"
    train.mkdir(), test.mkdir()
    first, second, third = (room(rng) for _ in range(3))
    np.savez(train / "a.npz", points=first[0], labels=first[1])
    np.save(train / "b.npy", np.column_stack([*second[0].T, np.ones(3000), second[1]]))
    np.savez(test / "c.npz", points=third[0], labels=third[1])
    options = {"train": train, "test": test} | BLOCKS
    dataset = dapt.data.load("scenes", options, "train")
    assert dataset.part_names == [str(label) for label in range(13)]
    assert_blocks_of(dataset, [first, second], rng)
    assert_blocks_of(dapt.data.load("scenes", options, "test"), [third], rng)
    assert len(dataset.part_counts()) == 13
    assert dataset.part_counts().sum() == len(dataset) * 64
    (train / "classes.txt").write_text("\n".join(CLASS_NAMES))
    assert dapt.data.load("scenes", options, "train").part_names == CLASS_NAMES
    (train / "classes.txt").write_text("floor\nwall\n")
    refused("scenes", options, "train", "part label .* go from 0 to 1")


def test_sparse_blocks_repeat_their_points(tmp_path, rng):
    points, labels = room(rng, points=30, size=(0.5, 2.0, 0.5))
    np.savez(tmp_path / "a.npz", points=points, labels=labels)
    options = {"train": tmp_path} | BLOCKS
    batch = everything(dapt.data.load("scenes", options, "train"))
    assert batch["points"].shape == (1, 64, 3)
    assert rows(batch["points"][0], batch["part_labels"][0]) == rows(points, labels)
    refused("scenes", options | {"min_points": 31}, "train", "holds no clouds")


@pytest.mark.parametrize(
    "content, words",
    [
        ({"points": np.zeros((0, 3)), "labels": np.zeros(0, int)}, r"must have points \[N, 3\]"),
        ({"points": np.zeros((9, 3)), "labels": np.zeros(8, int)}, "a label for each of its 9"),
        ({"points": np.zeros((9, 3))}, "must hold 'points' and 'labels', it holds points"),
        ({"points": np.zeros((9, 3)), "labels": np.full(9, 0.5)}, "whole numbers"),
        ({"points": np.full((9, 3), np.nan), "labels": np.zeros(9, int)}, "not finite: point 0"),
        ({"points": np.zeros((99, 3)), "labels": np.full(99, -1)}, "part label -1"),
    ],
    ids=["empty", "few labels", "no labels", "float", "nan", "negative"],
)
def test_bad_scenes(tmp_path, content, words):
    np.savez(tmp_path / "a.npz", **content)
    (tmp_path / "classes.txt").write_text("floor\nwall\n")
    refused("scenes", {"train": tmp_path} | BLOCKS, "train", words)


def test_bad_folders(tmp_path):
    refused("scenes", {"train": tmp_path}, "train", "holds no scenes")
    refused("scenes", {"train": tmp_path}, "test", "name no test folder")
    refused("s3dis", {"root": tmp_path}, "test", "holds nothing for Area_5")
    refused("s3dis", {"root": tmp_path, "test_area": 7}, "test", "test_area must lie in 1 to 6")
    np.save(tmp_path / "Area_5_office_1.npy", np.zeros((20, 6)))
    refused("s3dis", {"root": tmp_path}, "test", r"x y z r g b label, \[N, 7\], got \[20, 6\]")
    options = {"root": tmp_path, "stride": 2.0}
    refused("s3dis", options, "test", "stride must be above 0 and at most the block of 1.0")
