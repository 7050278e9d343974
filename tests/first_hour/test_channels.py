"""Channels beside the coordinates, in every kind of file; clouds of different lengths."""

import json

import numpy as np
import pytest
import torch
import trimesh
import yaml

import dapt
from dapt import cli
from dapt.data.channels import beside, read_beside, taken_apart
from dapt.data.clouds import read_cloud
from dapt.data.ground import above_ground
from support.runs import clouds

laspy = pytest.importorskip("laspy")
pytestmark = pytest.mark.usefixtures("one_thread")

N = 60


@pytest.fixture
def known():
    """Coordinates and the other channels of the same points."""
    rng = np.random.default_rng(4)
    normals = rng.normal(size=(N, 3))
    return {
        "points": rng.uniform(-5, 5, (N, 3)).round(3),
        "colors": rng.integers(0, 256, (N, 3)),
        "normals": normals / np.linalg.norm(normals, axis=1, keepdims=True),
        "intensity": rng.integers(0, 65536, N),
        "labels": rng.integers(0, 3, N),
    }


def las(path, points, colors=None, intensity=None, classes=None, labels=None, normals=None):
    header = laspy.LasHeader(point_format=2)
    header.scales, header.offsets = [1e-3] * 3, points.min(0)
    file = laspy.LasData(header)
    file.x, file.y, file.z = points.T
    if colors is not None:
        file.red, file.green, file.blue = (np.asarray(colors) * 257).T
    if intensity is not None:
        file.intensity = intensity
    for values in (classes, labels):
        if values is not None:
            file.classification = values
    file.write(path)


HEADER = "x y z red green blue nx ny nz intensity".split()


def text(path, known, delimiter):
    table = np.c_[known["points"], known["colors"], known["normals"], known["intensity"]]
    np.savetxt(path, table, "%.17g", delimiter, header=delimiter.join(HEADER), comments="")


def ply(path, known):
    kinds = ["float"] * 3 + ["uchar"] * 3 + ["float"] * 3 + ["ushort"]
    lines = [f"property {kind} {name}" for kind, name in zip(kinds, HEADER, strict=True)]
    head = ["ply", "format ascii 1.0", f"element vertex {N}", *lines, "end_header"]
    rows = zip(*(known[name] for name in ("points", "colors", "normals", "intensity")), strict=True)
    rows = [" ".join(map(str, [*p, *c, *n, i])) for p, c, n, i in rows]
    path.write_text("\n".join([*head, *rows]) + "\n")


def pcd(path, known):
    kinds = "F F F U U U F F F U".split()
    head = ["VERSION .7", f"FIELDS {' '.join(HEADER)}", "SIZE" + " 4" * 10]
    head += [f"TYPE {' '.join(kinds)}", "COUNT" + " 1" * 10, f"WIDTH {N}", "HEIGHT 1"]
    rows = zip(*(known[name] for name in ("points", "colors", "normals", "intensity")), strict=True)
    rows = [" ".join(map(str, [*p, *c, *n, i])) for p, c, n, i in rows]
    path.write_text("\n".join([*head, f"POINTS {N}", "DATA ascii", *rows]) + "\n")


WRITE = {
    "a.csv": lambda path, known: text(path, known, ","),
    "a.txt": lambda path, known: text(path, known, " "),
    "a.ply": ply,
    "a.pcd": pcd,
    "a.npy": lambda path, known: np.save(
        path, np.c_[known["points"], known["colors"], known["normals"]]
    ),
    "a.las": lambda path, known: las(
        path, known["points"], known["colors"], known["intensity"], known["labels"]
    ),
}
LACKS = {"a.npy": {"intensity"}, "a.las": {"normal"}}


@pytest.mark.parametrize("channels", ["color", "normal", "intensity"])
@pytest.mark.parametrize("name", WRITE)
def test_every_reader_tells_color_normal_and_intensity(tmp_path, known, name, channels):
    path = tmp_path / name
    WRITE[name](path, known)
    assert np.allclose(read_cloud(path), known["points"], atol=1e-3)
    found, lacking = read_beside(path, channels, N)
    wanted = {
        "color": known["colors"] / 255,
        "normal": np.c_[known["colors"] / 255, known["normals"]],
        "intensity": known["intensity"][:, None] / 65535,
    }[channels]
    if channels in LACKS.get(name, ()):
        assert lacking
        known_width = 3 if channels == "normal" else 0
        assert np.allclose(found[:, :known_width], wanted[:, :known_width], atol=1e-6)
        assert not found[:, known_width:].any()
    else:
        assert not lacking and np.allclose(found, wanted, atol=1e-6)


def test_meshes_tell_the_normals_and_colors_of_their_faces(tmp_path):
    box = trimesh.creation.box((1, 2, 3))
    box.visual.face_colors = np.where(box.face_normals[:, :1] > 0.5, 200, 20).repeat(3, 1)
    box.export(tmp_path / "a.ply")
    box.export(tmp_path / "a.off")
    for name in ("a.ply", "a.off"):
        points = read_cloud(tmp_path / name, 300, seed=5)
        found, _ = read_beside(tmp_path / name, "normal", 300, seed=5)
        sides = points / [0.5, 1, 1.5]
        axis = np.abs(np.abs(sides) - 1).argmin(1)
        rows = np.arange(300)
        wanted = np.zeros((300, 3))
        wanted[rows, axis] = np.sign(sides[rows, axis])
        assert np.allclose(found[:, 3:], wanted, atol=1e-6)


@pytest.mark.parametrize(
    "values, wanted",
    [
        (np.array([0, 51, 255]), [0, 0.2, 1]),
        (np.array([0, 51, 255], np.uint16), [0, 51 / 65535, 255 / 65535]),
        (np.array([0.0, 0.5, 1.0]), [0, 0.5, 1]),
        (np.array([0, 6553.5, 65535]), [0, 0.1, 1]),
    ],
)
def test_an_intensity_is_a_share_of_the_most_that_its_kind_holds(values, wanted):
    found = beside("it", "intensity", 3, {"intensity": values})
    assert np.allclose(found[:, 0], wanted)
    for bad in (-1.0, 1e6, np.nan):
        with pytest.raises(dapt.DaptError, match="intensity"):
            beside("it", "intensity", 1, {"intensity": np.array([bad])})


def terrain(rng, count=40_000):
    """A slope with hills, a house and trees: points and their heights above the ground."""
    place = rng.uniform(0, 60, (count, 2))
    ground = 0.1 * place[:, 0] + np.sin(place[:, 1] / 10)
    heights = np.zeros(count)
    house = (abs(place - 30) < [8, 5]).all(1)
    tree = (rng.random(count) < 0.3) & ~house
    heights[house], heights[tree] = 6, rng.uniform(0, 12, tree.sum())
    return np.c_[place, ground + heights] + [5e5, 4e6, 300], heights


def test_heights_above_the_ground_of_a_slope_with_a_house(tmp_path):
    points, heights = terrain(np.random.default_rng(0))
    found = above_ground(points)
    assert np.abs(found - heights).mean() < 0.2 and np.abs(found - heights)[heights == 6].max() < 1
    classes = np.where(heights == 0, 2, 1)
    assert np.abs(above_ground(points, classes) - heights).mean() < 0.05
    las(tmp_path / "a.las", points, classes=classes)
    told, lacking = read_beside(tmp_path / "a.las", "height", len(points))
    assert not lacking and np.abs(told[:, 0] - heights).mean() < 0.05
    one = above_ground(points[:1])
    assert one.shape == (1,) and abs(one[0]) < 1e-6


def test_scenes_of_las_files_train_on_heights_and_are_labeled(run, tmp_path, capsys):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        points, heights = terrain(np.random.default_rng(len(split)), 6000)
        classes = np.where(heights == 0, 0, np.where(heights == 6, 1, 2))
        las(tmp_path / split / "a.las", points, intensity=np.full(6000, 9), labels=classes)
    data = {"name": "scenes", "train": str(tmp_path / "train"), "test": str(tmp_path / "test")}
    data |= {"channels": "height", "block": 30.0, "stride": 30.0, "num_points": 64}
    backbone = {"name": "point_mae", "checkpoint": "none", "in_channels": 4, "class_token": False}
    backbone |= {"dim": 12, "depth": 2, "num_heads": 2, "encoder_dim": 12}
    backbone |= {"encoder_widths": [4, 8, 8], "num_groups": 6, "group_size": 5}
    fields = {"data": data, "backbone": backbone, "method": "full", "validation": 0.0}
    config = tmp_path / "c.yaml"
    tree = fields | {"task": "semantic_segmentation", "epochs": 1, "batch_size": 2}
    config.write_text(yaml.safe_dump(tree | {"accelerator": "cpu", "tensorboard": False}))
    words = ["train", "--config", str(config), "--out", str(tmp_path / "run")]
    assert cli.main(words) == 0, capsys.readouterr().err
    written = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text())
    assert written["preprocessing"]["channels"] == "height"
    assert cli.main(["predict", str(tmp_path / "run"), str(tmp_path / "test" / "a.las")]) == 0


def ragged(path, rng, lengths=(40, 25, 33, 28, 60, 30), **more):
    flat = [[1, 1, 0.1 + row % 2] for row in range(len(lengths))]
    points = [rng.normal(size=(n, 3)) * scale for n, scale in zip(lengths, flat, strict=True)]
    ends = np.cumsum(lengths)
    arrays = {"points": np.concatenate(points), "offsets": np.append(0, ends)}
    np.savez(path, **arrays | {"labels": np.arange(len(lengths)) % 2} | more)
    return points


@pytest.mark.parametrize("last", [True, False])
def test_clouds_of_different_lengths_lie_one_after_another(tmp_path, last):
    lengths = (40, 25, 33, 28, 60, 30)
    offsets = np.append(0, np.cumsum(lengths))
    parts = np.arange(sum(lengths)) % 3
    path = tmp_path / "a.npz"
    points = ragged(
        path, np.random.default_rng(0), offsets=offsets if last else offsets[:-1], part_labels=parts
    )
    data = dapt.data.load("npz", {"train": path, "num_points": 20}, "train")
    assert len(data) == 6 and data.num_points == 20
    for row, cloud in enumerate(points):
        np.savez(
            tmp_path / "one.npz",
            points=cloud[None],
            labels=[0],
            part_labels=parts[offsets[row] : offsets[row + 1]][None],
        )
        alone = dapt.data.load("npz", {"train": tmp_path / "one.npz", "num_points": 20}, "train")
        for key in ("points", "part_labels"):
            assert torch.equal(data.batch([row])[key], alone.batch([0])[key])
    with pytest.raises(dapt.DaptError, match="set num_points"):
        dapt.data.load("npz", {"train": path}, "train")


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"offsets": [1, 40]}, "offsets of .* must begin with 0"),
        ({"offsets": [0, 40, 40, 216]}, "no cloud is empty"),
        ({"offsets": [0, 300]}, "increase to the 216 points"),
        ({"offsets": [[0]]}, "must begin with 0"),
        ({"labels": [0, 1]}, "labels of .* must be .6., one for each cloud"),
        ({"part_labels": [0, 1]}, "part_labels"),
        ({"points": np.zeros((3, 5, 3))}, r"with offsets \[T, 3\]"),
    ],
)
def test_offsets_that_cannot_be_are_one_sentence(tmp_path, changed, words):
    ragged(tmp_path / "a.npz", np.random.default_rng(0), **changed)
    with pytest.raises(dapt.DaptError, match=words):
        dapt.data.load("npz", {"train": tmp_path / "a.npz", "num_points": 9}, "train")


def test_clouds_one_after_another_without_offsets_say_what_is_missing(tmp_path):
    np.savez(tmp_path / "a.npz", points=np.zeros((9, 3)), labels=[0])
    with pytest.raises(dapt.DaptError, match="need `offsets`"):
        dapt.data.load("npz", {"train": tmp_path / "a.npz"}, "train")


def test_a_run_on_clouds_of_different_lengths_labels_such(run, tmp_path):
    clouds(tmp_path / "a.npz")
    path = tmp_path / "ragged.npz"
    ragged(path, np.random.default_rng(0), labels=[0, 1, 0, 1, 0, 1])
    words = [f"--data.train={path}", "--data.num_points=20"]
    folder, code = run("x", *words, validation=0.4, batch_size=2, epochs=1)
    assert code == 0
    out = tmp_path / "p.json"
    assert cli.main(["predict", str(folder), str(path), "--out", str(out)]) == 0
    found = [each["file"] for each in json.loads(out.read_text())]
    assert found == [f"{path}[{row}]" for row in range(6)]


def colored(path, rng):
    """Two classes that differ only in color."""
    labels = np.arange(32) % 2
    points = rng.normal(size=(32, 24, 6))
    points[..., 3:] = rng.uniform(0, 0.2, (32, 24, 3)) + 0.7 * labels[:, None, None]
    np.savez(path, points=points, labels=labels)
    return path


def test_further_channels_are_zero_columns_until_they_train(run, tmp_path, capsys):
    narrow = dapt.create_backbone("point_mae_tiny").eval()
    wide = dapt.create_backbone("point_mae_tiny", in_channels=6).eval()
    points = torch.rand(2, 99, 6)
    assert torch.equal(narrow(points[..., :3]).cls, wide(points).cls)
    assert "further channels" in str(wide.load_report)
    path = colored(tmp_path / "c.npz", np.random.default_rng(0))
    words = [f"--data.train={path}", "--data.channels=color", "--backbone=point_mae_tiny"]
    tiny = {"backbone": "point_mae_tiny", "epochs": 2, "learning_rate": 1e-3}
    folder, code = run("three", *words, **tiny)
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert code == 2 and "reads 3: set data.channels to xyz, or backbone.in_channels to 6" in told
    folder, code = run("frozen", *words, "--backbone.in_channels=6", **tiny)
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert code == 2 and "dapt does not train the layer that would read more channels" in told
    words += ["--backbone.in_channels=6", "--backbone.num_groups=6", "--backbone.group_size=9"]
    folder, code = run("full", *words, "--method=full", **tiny | {"method": "full"})
    assert code == 0
    model = dapt.load_run(folder)
    learned = model.adapter.network.tokenizer.encoder.first[0].weight[:, 3:]
    assert learned.abs().max() > 0
    cloud = np.load(path)["points"][0]
    dark, light = (
        model.predict(np.c_[cloud[:, :3], np.full((24, 3), shade)])[0].probabilities["1"]
        for shade in (0.1, 0.8)
    )
    assert dark != light


def test_columns_are_taken_apart_as_they_were_put_together():
    values = np.random.default_rng(0).uniform(size=(9, 6))
    known = taken_apart("normal", values)
    assert np.array_equal(beside("it", "normal", 9, known), values)
