"""Every backbone trains and resumes bit for bit; scenes with color, from file to label."""

import re

import numpy as np
import pytest
import trimesh
import yaml

import dapt
from dapt import cli
from dapt.training import loop as training
from support.fixtures import PLAIN, SMALL
from support.runs import TINY, assert_same_run, lines

pytestmark = pytest.mark.usefixtures("one_thread")


class Killed(BaseException):
    """Raised like SIGKILL: the loop runs nothing after it."""


def kill_at(patch, number):
    step = training.Trainer._step

    def until(self, at, batch):
        if at == number:
            raise Killed
        step(self, at, batch)

    patch.setattr(training.Trainer, "_step", until)


def small(name):
    plain = {} if "dims" in SMALL[name] else PLAIN | {"depth": 2}
    fields = {key: list(v) if isinstance(v, tuple) else v for key, v in SMALL[name].items()}
    if "local_blocks" in fields:
        fields["local_blocks"] = [0, 1]
    return {"name": name, "checkpoint": "none", **plain, **fields}


FULL = {"method": "full", "rates": {"scales": 0.1}, "schedule": "one_cycle"}


@pytest.mark.parametrize(("name", "fields"), [*((n, {}) for n in SMALL), ("ptv3_tiny", FULL)])
def test_killed_and_resumed_is_uninterrupted(run, monkeypatch, name, fields):
    fields = fields | {
        "backbone": small(name),
        "epochs": 2,
        "batch_size": 14,
        "checkpoint_seconds": 0.0,
    }
    whole, code = run("whole", **fields)
    assert code == 0 and np.isfinite(lines(whole)[-1]["train_loss"])
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 3)
        run("parts", **fields)
    assert_same_run(whole, run("parts", "--resume", **fields)[0])


# --- scenes with color


def room(rng, count=1500):
    """The walls of a room, with red posters that differ from them only by color."""
    sides = np.array([3.0, 2.0, 2.0])
    points, axis = rng.uniform(0, 1, (count, 3)) * sides, rng.integers(0, 3, count)
    points[np.arange(count), axis] = np.where(rng.random(count) < 0.5, 0, sides[axis])
    labels = ((points[:, 0] % 1 < 0.5) ^ (points[:, 2] > 1)).astype(int)
    colors = np.where(labels[:, None], [220, 20, 20], [120, 120, 120]).astype(np.uint8)
    return points.round(3), labels, colors, np.eye(3)[axis]


@pytest.fixture
def scenes(tmp_path):
    rng = np.random.default_rng(0)
    for folder, count in (("train", 4), ("test", 1)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "classes.txt").write_text("wall\nposter\n")
        for number in range(count):
            points, labels, colors, normals = room(rng)
            content = {"points": points, "labels": labels, "colors": colors, "normals": normals}
            np.savez(tmp_path / folder / f"{number}.npz", **content)
    return tmp_path


def train(scenes, out, *words, method="full", **fields):
    backbone = small("ptv3_tiny") | {"up": "y", "center": True, "grid_size": 0.1}
    data = {"name": "scenes", "channels": "normal", "normalize": False, "num_points": 512}
    tree = {key: TINY[key] for key in TINY if key not in ("backbone", "method")}
    tree |= {"backbone": backbone, "data": data, "method": method, "batch_size": 4, "epochs": 6}
    tree |= {"augmentation": "rotate", "learning_rate": 3e-3, "task": "semantic_segmentation"}
    config = scenes / "config.yaml"
    config.write_text(yaml.safe_dump(tree | fields))
    paths = ["--data.train", str(scenes / "train"), "--data.test", str(scenes / "test")]
    return cli.main(["train", "--config", str(config), *paths, "--out", str(out), *words])


def saved(path, points, colors, normals):
    if path.suffix == ".ply":
        trimesh.PointCloud(points, colors=colors).export(path)
    elif path.suffix == ".npz":
        np.savez(path, points=points, colors=colors, normals=normals)
    elif path.suffix == ".npy":
        np.save(path, np.concatenate([points, colors, normals], 1))
    else:
        laspy = pytest.importorskip("laspy")
        las = laspy.create(point_format=2)
        las.header.scales = [0.001] * 3
        las.x, las.y, las.z = points.T
        las.red, las.green, las.blue = colors.T.astype(np.uint16) * 257
        las.write(path)
    return path


def test_scenes_with_color_from_file_to_label(scenes, caplog, capsys):
    assert train(scenes, scenes / "run") == 0
    assert lines(scenes / "run")[-1]["test_miou"] > 0.8  # color alone decides

    points, labels, colors, normals = room(np.random.default_rng(5))
    for suffix in (".npz", ".npy", ".ply", ".las"):
        scan = saved(scenes / f"scan{suffix}", points, colors, normals)
        caplog.clear()
        assert cli.main(["predict", str(scenes / "run"), str(scan)]) == 0
        got = np.load(scenes / "run" / "predictions" / "scan_labels.npy")
        assert (got == labels).mean() > 0.85, suffix
        said = [r.getMessage() for r in caplog.records if "using zeros" in r.getMessage()]
        if suffix in (".npz", ".npy"):
            assert not said
        else:
            assert said == [f"{scan} has no normals, which the model was trained with: using zeros"]

    model = dapt.load_run(scenes / "run")
    assert model.preprocessing.channels == "normal" and model.preprocessing.block == 1.0
    cloud = np.concatenate([points, colors, normals], 1)
    [answer] = model.predict(cloud)
    assert (answer.point_labels == labels).mean() > 0.85

    caplog.clear()
    np.save(scenes / "bare.npy", points)
    assert cli.main(["predict", str(scenes / "run"), str(scenes / "bare.npy")]) == 0
    assert "bare.npy has no colors and no normals, which the model was trained with" in caplog.text

    caplog.clear()
    model.predict(100 * cloud * np.repeat([1, 0.01, 0.01], 3), block=100.0)
    assert re.search(r"the cloud is \d+ times as large as the training clouds", caplog.text)


@pytest.mark.parametrize(
    "method, head",
    [("linear", "linear"), ("linear", "decoder"), ("dapt", "linear"), ("peft:lora", "linear")],
)
def test_published_recipes_on_scenes_resume(scenes, monkeypatch, method, head):
    if method.startswith("peft"):
        pytest.importorskip("peft")
    task = {"name": "semantic_segmentation", "head": head, "lovasz": 1.0, "decoder_depth": 1}
    fields = {"method": method, "task": task, "epochs": 2, "checkpoint_seconds": 0.0}
    assert train(scenes, scenes / "whole", **fields) == 0
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 4)
        train(scenes, scenes / "parts", **fields)
    assert train(scenes, scenes / "parts", "--resume", **fields) == 0
    assert_same_run(scenes / "whole", scenes / "parts")
