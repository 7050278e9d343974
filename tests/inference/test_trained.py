"""Trained models, and the preprocessing of their training, applied to users' own files."""

import json

import numpy as np
import pytest
import torch
import yaml

import dapt
import dapt_ext
from dapt import cli
from dapt.data.channels import beside
from dapt.data.preprocessing import Preprocessing, measures
from dapt.errors import DaptError, DataError, UsageError
from support.runs import TINY, clouds, labeled

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def moved_run(tmp_path):
    """A run on clouds with x up, far from the origin and a hundred times too large."""
    path = clouds(tmp_path / "a.npz", size=48)
    with np.load(path) as file:
        content = dict(file)
    content["points"] = 100 * content["points"] + 700
    np.savez(path, **content)
    tree = TINY | {"method": "full", "epochs": 1, "num_points": 32}
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(tree | {"data": {"name": "npz", "up": "x"}}))
    out = tmp_path / "run"
    words = ["train", "--config", str(config), "--data.train", str(path), "--out", str(out)]
    assert cli.main(words) == 0
    return out, content


def test_a_run_predicts_clouds_as_they_are_in_files(moved_run, tmp_path, capsys):
    folder, content = moved_run
    model = dapt.load_run(folder)
    assert isinstance(model, dapt.AdaptedModel)
    trained = model.preprocessing
    assert (trained.num_points, trained.normalize, trained.up) == (32, True, "x")
    assert trained.channels == "xyz" and trained.block is None and 0 < trained.spacing < 2

    points = content["points"][:9]
    answers = model.predict(points)
    labels = [int(answer.label) for answer in answers]
    turned = np.stack([-points[..., 1], points[..., 0], points[..., 2]], 2).astype(float)
    centered = turned - turned.mean(1, keepdims=True)
    in_ball = centered / np.linalg.norm(centered, axis=2).max(1)[:, None, None]
    ready = torch.from_numpy(in_ball.astype(np.float32))
    seen = dapt_ext.gather(ready, dapt_ext.farthest_point_sample(ready, 32))
    with torch.no_grad():
        wanted = model.eval()(seen).softmax(1)
        raw = model(torch.from_numpy(points)[:, :32]).softmax(1)
    got = torch.tensor([list(answer.probabilities.values()) for answer in answers])
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(got, raw, atol=1e-3)  # the preprocessing matters
    assert labels == wanted.argmax(1).tolist()
    assert all(abs(sum(answer.probabilities.values()) - 1) < 1e-5 for answer in answers)
    assert answers[4].where == "cloud 4" and answers[4].point_labels is None
    assert answers[4].probability == max(answers[4].probabilities.values())

    same = model.predict(torch.from_numpy(points))
    assert same == answers
    np.save(tmp_path / "one.npy", points[1])
    np.savez(tmp_path / "many.npz", points=points)
    files = [tmp_path / "one.npy", str(tmp_path / "many.npz"), points[2]]
    of_files = model.predict(files)
    assert [answer.probabilities for answer in of_files[1:10]] == [a.probabilities for a in answers]
    assert of_files[0].probabilities == answers[1].probabilities
    assert of_files[10].probabilities == answers[2].probabilities

    capsys.readouterr()
    assert cli.main(["predict", str(folder), str(tmp_path / "many.npz")]) == 0
    said = [line.split(": ")[1][0] for line in capsys.readouterr().out.splitlines()]
    assert said == [str(label) for label in labels]


def test_an_adapter_brings_its_preprocessing(moved_run, tmp_path):
    folder, content = moved_run
    written = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert written["preprocessing"]["up"] == "x" and written["preprocessing"]["num_points"] == 32

    run = dapt.load_run(folder)
    backbone = dapt.detach(dapt.load_run(folder))
    model = dapt.load_adapter(folder / "adapter", backbone)
    points = content["points"][:5]
    assert model.predict(points) == run.predict(points)
    model.save_adapter(tmp_path / "again")
    again = json.loads((tmp_path / "again" / "adapter_config.json").read_text())
    assert again["preprocessing"] == written["preprocessing"]

    # Older adapters record nothing: a run falls back on its settings, an adapter alone refuses.
    del written["preprocessing"]
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(written))
    assert dapt.load_run(folder).predict(points) == run.predict(points)
    old = dapt.load_adapter(folder / "adapter", dapt.detach(dapt.load_run(folder)))
    with pytest.raises(UsageError, match="does not record how its training clouds were prepared"):
        old.predict(points)
    written["preprocessing"] = {"num_points": "many"}
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(written))
    with pytest.raises(DaptError, match="preprocessing: num_points must be int, got 'many'"):
        dapt.load_adapter(folder / "adapter", dapt.detach(run))


@pytest.mark.parametrize(
    "clouds, message",
    [
        (np.zeros(9), r"clouds must be \[N, D\] or \[S, N, D\], got \[9\]"),
        (np.zeros((40, 4)), r"\[N, 9\] with color and normal, got float64 \[40, 4\]"),
        (np.zeros((20, 3)), "the cloud has 20 points, and the network was trained on 32"),
        (np.full((40, 3), np.nan), "the cloud has a point that is not finite: point 0"),
        ("nowhere.ply", "cannot read nowhere.ply"),
        (7, "clouds must be files or arrays of points, got a int"),
    ],
)
def test_bad_clouds(moved_run, clouds, message):
    with pytest.raises(DaptError, match=message):
        dapt.load_run(moved_run[0]).predict(clouds)


def test_labels_of_points(tmp_path):
    path = labeled(tmp_path / "a.npz")
    config = tmp_path / "config.yaml"
    tree = TINY | {"task": "part_segmentation", "epochs": 1, "num_points": 32, "method": "linear"}
    config.write_text(yaml.safe_dump(tree))
    out = tmp_path / "run"
    words = ["train", "--config", str(config), "--data.train", str(path), "--out", str(out)]
    assert cli.main(words) == 0
    model = dapt.load_run(out)
    points = np.random.default_rng(0).normal(size=(50, 3))
    [answer] = model.predict(points, category="plate")
    assert set(answer.point_labels) <= {2, 3} and answer.point_probabilities.shape == (50,)
    assert answer.label in ("2", "3") and abs(sum(answer.probabilities.values()) - 1) < 1e-6
    with pytest.raises(UsageError, match="choose one of cup, plate, lamp"):
        model.predict(points)
    with pytest.raises(UsageError, match="votes are for models that label whole clouds"):
        model.predict(points, votes=2, category="cup")
    with torch.no_grad():
        next(model.adapter.head.parameters()).fill_(torch.nan)
    with pytest.raises(DataError, match="the probabilities of .* are not numbers"):
        model.predict(points, category="plate")


# --- clouds that differ a lot


def ball(count, seed=0):
    points = np.random.default_rng(seed).normal(size=(count, 3))
    return torch.from_numpy(points / np.linalg.norm(points, axis=1).max()).float()[None]


def test_measures_are_those_of_brute_force():
    cloud = ball(200)[0].double()
    distance = torch.cdist(cloud, cloud).fill_diagonal_(torch.inf)
    extent, spacing = measures(cloud[None])
    assert abs(spacing - distance.amin(1).sort().values[99]) < 1e-6  # torch's lower median
    assert abs(extent - (cloud - cloud.mean(0)).norm(dim=1).max()) < 1e-6


@pytest.mark.parametrize(
    "normalize, seen, words",
    [
        (True, ball(256), None),
        (True, 50 * ball(256), None),  # size does not matter in the unit ball
        (False, ball(256), None),
        (False, 100 * ball(256, seed=1), "100 times as large as the training clouds"),
        (False, 0.1 * ball(256, seed=1), "1/10 as large as the training clouds"),
        (True, ball(3), "times as far apart as the training's clouds had"),
        (True, ball(256)[:, :1].repeat(1, 256, 1), None),
    ],
)
def test_clouds_that_differ_much_are_pointed_out(caplog, normalize, seen, words):
    extent, spacing = measures(ball(256, seed=1))
    trained = Preprocessing(256, normalize, extent=extent, spacing=spacing)
    if normalize:
        seen = trained.ready(seen[0].numpy())
    trained.compare("scan.ply", seen)
    assert [record.getMessage() for record in caplog.records] == [] if words is None else True
    if words:
        [record] = caplog.records
        assert record.getMessage().startswith("scan.ply ") and words in record.getMessage()
        assert "\n" not in record.getMessage()


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"num_points": 0}, "num_points must be at least 1, got 0"),
        ({"num_points": 9, "up": "w"}, "up must be x, y or z"),
        ({"num_points": 9, "channels": "rgb"}, "channels must be xyz, color, normal"),
    ],
)
def test_bad_preprocessing(fields, message):
    with pytest.raises(UsageError, match=message):
        Preprocessing(**fields)


def test_colors_of_bytes_and_of_shares():
    colors = np.array([[0, 128, 255], [1, 2, 3]], np.uint8)
    told = beside("x", "color", 2, {"colors": colors})
    np.testing.assert_array_equal(told, colors / 255)
    np.testing.assert_array_equal(beside("x", "color", 2, {"colors": told}), told)
    with pytest.raises(DataError, match="got -0.5 to 0"):
        beside("x", "color", 2, {"colors": np.array([[0, -0.5, 0]] * 2)})
