"""Whole rooms through a network that was trained on blocks, and scans on the command line."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
import yaml

import dapt
import dapt_ext
from dapt import cli
from dapt.data.blocks import windows
from dapt.errors import DataError, UsageError
from dapt.inference.rooms import label_room
from support.runs import TINY, labeled

pytestmark = pytest.mark.usefixtures("one_thread")

SCANS = Path(__file__).parents[3] / "shared" / "data" / "scans.npz"


@pytest.fixture
def rng():
    return np.random.default_rng()


def model_of(small_backbone, classes=5):
    torch.manual_seed(0)
    return dapt.attach(small_backbone(), dapt.Dapt(rank=3), dapt.SemanticSegmentation(classes))


def test_each_point_gets_the_mean_vote_of_its_blocks(small_backbone, rng):
    """Compared with whole blocks passed through the model one by one."""
    model = model_of(small_backbone).eval()
    room = rng.uniform(0, 1, (700, 3)) * (2.2, 1.6, 2.0)
    got = label_room(model, room, num_points=64, block=1.0, stride=0.5)
    votes, times = np.zeros((700, 5)), np.zeros(700, int)
    for index in windows(room, 1.0, 0.5):
        x, y, z = (room[index] - room[index].mean(0)).T
        block = np.stack([x, z, -y], 1)  # the network was trained with y up
        block = torch.from_numpy(block / np.linalg.norm(block, axis=1).max()).float()[None]
        if len(index) < 64:
            seen = torch.from_numpy(np.resize(block[0].numpy(), (64, 3)))[None]
        else:
            seen = dapt_ext.gather(block, dapt_ext.farthest_point_sample(block, 64))
        with torch.no_grad():
            votes[index] += model(seen, queries=block)[0].softmax(1).numpy()
        times[index] += 1
    assert got.labels.shape == (700,) and times.min() >= 1
    mean = votes / times[:, None]
    np.testing.assert_allclose(got.confidence, mean[np.arange(700), got.labels], atol=1e-5)
    clear = np.sort(mean, 1)
    clear = clear[:, -1] - clear[:, -2] > 1e-5
    assert (got.labels == mean.argmax(1))[clear].all() and clear.mean() > 0.9


def test_odd_blocks_are_labeled_whole(small_backbone, rng):
    """Blocks with repeated and coincident points, a tower of points, a single point."""
    model = model_of(small_backbone)
    room = rng.uniform(0, 3, (300, 3))
    room[100:140] = room[100]
    room[140:150, :2] = 2.0
    room = np.concatenate([room, [[9.0, 9.0, 1.0]]])
    result = label_room(model, room, num_points=64, block=1.0, stride=1.0)
    assert result.labels.shape == (301,) and np.isfinite(result.confidence).all()
    assert (result.confidence > 0).all() and (result.confidence <= 1).all()
    assert len(set(result.labels[100:140])) == 1


@pytest.mark.parametrize(
    "room, words",
    [
        (np.zeros((30, 3)), "has 30 points, and the network was trained on 64"),
        (np.random.default_rng(0).uniform(0, 0.5, (99, 3)), "smaller than a block of 1.0"),
        (np.zeros((99, 2)), r"points \[N, 3\], got \[99, 2\]"),
        (np.full((99, 3), np.inf), "the room has a point that is not finite: point 0"),
    ],
    ids=["sparse", "small", "flat", "infinite"],
)
def test_rooms_that_cannot_be_labeled(small_backbone, room, words):
    with pytest.raises(DataError, match=words):
        label_room(model_of(small_backbone), room, num_points=64)


WHOLE_ROOM = """
import resource, sys
import numpy as np, torch
import dapt
from dapt.inference.rooms import label_room

torch.set_num_threads(1)
backbone = dapt.create_backbone("point_mae", num_groups=128, class_token=False)
model = dapt.attach(backbone, dapt.Dapt(rank=30), dapt.SemanticSegmentation(13))
room = np.load(sys.argv[1])["scannet_room"]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
result = label_room(model, room, num_points=2048, stride=float(sys.argv[2]))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(len(result.labels), result.labels.min(), result.labels.max(), (peak - before) // 1024)
"""


@pytest.mark.slow
def test_a_whole_room_in_bounded_memory():
    """The published size, untrained: every point exactly once, in a few hundred MiB for any
    room."""
    if not SCANS.is_file():
        pytest.skip("the real scans are not available")
    command = [sys.executable, "-c", WHOLE_ROOM, str(SCANS), "1.0"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    count, low, high, grown = map(int, done.stdout.split())
    assert count == 40_684 and 0 <= low <= high < 13
    assert grown < 600, f"{grown} MiB"


def train(tmp_path, task, train_folder=None, **fields):
    config = tmp_path / f"{task}.yaml"
    tree = TINY | {"task": task, "epochs": 1, "num_points": 32, "method": "linear"} | fields
    config.write_text(yaml.safe_dump(tree))
    words = ["--data.train", str(train_folder or labeled(tmp_path / "a.npz"))]
    folder = tmp_path / f"run_{task}"
    assert cli.main(["train", "--config", str(config), *words, "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def room_model(tmp_path, rng):
    scenes = tmp_path / "scenes"
    scenes.mkdir()
    (scenes / "classes.txt").write_text("floor\nwall\nlamp\n")
    for number in range(3):
        points = rng.uniform(0, 1, (600, 3)) * (2.0, 2.0, 1.0)
        np.savez(scenes / f"{number}.npz", points=points, labels=(3 * points[:, 2]).astype(int))
    data = {"name": "scenes", "num_points": 64, "min_points": 10}
    return train(tmp_path, "semantic_segmentation", scenes, data=data)


@pytest.mark.parametrize("suffix", [".npy", ".ply", ".pcd", ".las"])
def test_predict_labels_a_scan(room_model, tmp_path, rng, capsys, suffix):
    points = (rng.uniform(0, 1, (900, 3)) * (2.5, 1.5, 1.0)).round(3)
    scan = tmp_path / f"scan{suffix}"
    if suffix == ".npy":
        np.save(scan, points)
    elif suffix == ".ply":
        trimesh.PointCloud(points).export(scan)
    elif suffix == ".pcd":
        header = "VERSION .7\nFIELDS x y z\nSIZE 8 8 8\nTYPE F F F\nCOUNT 1 1 1\nWIDTH 900\n"
        header += "HEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS 900\nDATA ascii\n"
        scan.write_text(header + "\n".join(" ".join(map(str, p)) for p in points.tolist()) + "\n")
    else:
        import laspy

        las = laspy.create()
        las.header.scales = [0.001] * 3
        las.x, las.y, las.z = points.T
        las.write(scan)
    capsys.readouterr()
    assert cli.main(["predict", str(room_model), str(scan)]) == 0
    printed = capsys.readouterr().out
    assert "scan: 900 points: " in printed and "%" in printed
    labels = np.load(room_model / "predictions" / "scan_labels.npy")
    assert labels.shape == (900,) and set(labels) <= {0, 1, 2}
    cloud = trimesh.load(room_model / "predictions" / "scan_labels.ply")
    np.testing.assert_allclose(cloud.vertices, points, atol=1e-5)
    colors = np.asarray(cloud.colors)[:, :3]
    for label in set(labels):  # distinct labels have distinct colors
        assert len(np.unique(colors[labels == label], axis=0)) == 1
    assert len(np.unique(colors, axis=0)) == len(set(labels))


def test_predict_takes_blocks_and_a_folder(room_model, tmp_path, rng, capsys):
    np.save(tmp_path / "scan.npy", rng.uniform(0, 1, (200, 3)) * (0.6, 1.0, 0.5))
    words = ["predict", str(room_model), str(tmp_path / "scan.npy")]
    assert cli.main(words) == 1 and "smaller than a block" in capsys.readouterr().err
    words += ["--block", "0.5", "--stride", "0.25", "--up", "y", "--out", str(tmp_path / "out")]
    assert cli.main(words) == 0 and (tmp_path / "out" / "scan_labels.ply").is_file()
    assert cli.main([*words, "--stride", "0.6"]) == 2
    assert "stride must be above 0" in capsys.readouterr().err
    assert cli.main([*words, "--out", "x.csv"]) == 2 and "folder" in capsys.readouterr().err
    assert cli.main([*words, "--votes", "2"]) == 2
    assert cli.main(["predict", str(room_model), "a/scan.npy", "b/scan.ply"]) == 2
    assert "two files are called scan" in capsys.readouterr().err


def test_predict_labels_parts_of_a_category(tmp_path, rng, capsys):
    folder = train(tmp_path, "part_segmentation")
    np.savez(tmp_path / "two.npz", points=rng.normal(size=(2, 77, 3)))
    words = ["predict", str(folder), str(tmp_path / "two.npz")]
    assert cli.main(words) == 2 and "choose one of cup, plate, lamp" in capsys.readouterr().err
    assert cli.main([*words, "--category", "mug"]) == 2
    assert "unknown category 'mug'" in capsys.readouterr().err
    for category, parts in {"cup": {0, 1}, "plate": {2, 3}, "lamp": {4, 5, 6}}.items():
        out = tmp_path / category
        assert cli.main([*words, "--category", category, "--out", str(out)]) == 0
        for row in (0, 1):
            labels = np.load(out / f"two_{row}_labels.npy")
            assert labels.shape == (77,) and set(labels) <= parts
    np.save(tmp_path / "few.npy", rng.normal(size=(20, 3)))
    few = ["predict", str(folder), str(tmp_path / "few.npy"), "--category", "cup"]
    assert cli.main(few) == 1 and "has 20 points" in capsys.readouterr().err


def test_a_trained_model_labels_a_new_room_right(tmp_path, rng):
    """From scenes with z up to the labels of a new one: floor, wall and lamp, told by height."""
    scenes = tmp_path / "scenes"
    scenes.mkdir()

    def scene(size):
        points = rng.uniform(0, 1, (1500, 3)) * (*size, 1.0)
        return points, (3 * points[:, 2]).astype(int)

    for number in range(4):
        points, labels = scene((2.0, 1.5))
        np.savez(scenes / f"{number}.npz", points=points, labels=labels)
    data = {"name": "scenes", "num_points": 128, "min_points": 10}
    still = {"method": "full", "epochs": 12, "augmentation": "none", "batch_size": 4}
    folder = train(tmp_path, "semantic_segmentation", scenes, data=data, **still)
    points, labels = scene((1.7, 2.4))
    np.save(tmp_path / "new.npy", points)
    assert cli.main(["predict", str(folder), str(tmp_path / "new.npy")]) == 0
    got = np.load(folder / "predictions" / "new_labels.npy")
    assert (got == labels).mean() > 0.75  # a third would be chance


def test_labels_of_no_probability_are_refused(small_backbone, rng):
    model = model_of(small_backbone)
    with torch.no_grad():
        next(model.adapter.head.parameters()).fill_(torch.nan)
    with pytest.raises(DataError, match="probabilities of attic are not numbers"):
        label_room(model, rng.random((300, 3)) * [2, 2, 1], 64, where="attic")


def test_stride_is_checked_in_python_too(small_backbone, rng):
    with pytest.raises(UsageError, match="stride must be above 0"):
        label_room(model_of(small_backbone), rng.uniform(0, 3, (99, 3)), 64, stride=2.0)


@pytest.mark.parametrize("away", [1e4, 1e9, 1e30])
def test_a_stray_point_far_away_costs_nothing(away):
    """Only squares that contain points are made."""
    room = np.random.default_rng(0).uniform(0, 3, (2000, 3))
    begun = time.monotonic()
    found = list(windows(np.vstack([room, [[away, away, 0]]]), 1.0, 0.5))
    assert time.monotonic() - begun < 5
    assert set(np.concatenate(found)) == set(range(2001))
    for index in found:
        assert index.tolist() == [2000] or np.ptp(room[index, :2], axis=0).max() <= 1.0


def test_squares_are_those_of_the_whole_grid():
    rng = np.random.default_rng(1)
    points = np.concatenate([rng.uniform(0, 2, (300, 3)), rng.uniform(7, 8, (300, 3))])
    for size, stride in ((1.0, 0.5), (1.0, 1.0), (0.7, 0.3)):
        got = [set(index.tolist()) for index in windows(points, size, stride)]
        starts = [
            np.append(
                low + stride * np.arange(int(np.ceil(max(high - low - size, 0) / stride))),
                max(high - size, low),
            )
            for low, high in zip(points.min(0), points.max(0), strict=True)
        ]
        wanted = []
        for x in starts[0]:
            for y in starts[1]:
                inside = (points[:, 0] >= x) & (points[:, 0] <= x + size)
                inside &= (points[:, 1] >= y) & (points[:, 1] <= y + size)
                if inside.any():
                    wanted.append(set(np.flatnonzero(inside).tolist()))
        assert got == wanted
