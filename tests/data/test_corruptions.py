"""Corrupted clouds: what each kind does, how strongly, and that the seed decides."""

import json

import numpy as np
import pytest
import yaml

from dapt import cli
from dapt.data import ArrayDataset
from dapt.data.corruptions import CORRUPTIONS, DENSITY, DROPOUT, JITTER, OCCLUSION, Corrupted
from dapt.errors import UsageError
from support.runs import TINY, clouds


@pytest.fixture
def dataset():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(6, 200, 9)).astype(np.float32)
    arrays = {
        "points": points,
        "labels": np.arange(6) % 2,
        "part_labels": np.tile(range(200), (6, 1)),
    }
    return ArrayDataset(arrays, ["a", "b"], [str(i) for i in range(200)])


def suffered(dataset, kind, severity, rows=range(6), **options):
    options = {"normalize": False} | options
    return Corrupted(dataset, kind, severity, **options).batch(rows)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_the_seed_and_the_cloud_decide_not_the_batch(dataset, kind):
    whole = suffered(dataset, kind, 3)
    alone = suffered(dataset, kind, 3, [4, 1])
    assert alone["points"].equal(whole["points"][[4, 1]])
    assert alone["labels"].equal(whole["labels"][[4, 1]])
    other = suffered(dataset, kind, 3, seed=1)["points"]
    assert not other.equal(whole["points"])
    clean = dataset.batch(range(6))
    assert Corrupted(dataset, kind, 3).num_points == whole["points"].shape[1]
    # a point keeps its label and its other attributes
    kept = whole["part_labels"][..., None].expand(-1, -1, 9)
    columns = [3, 4, 5] if kind == "rotation" else [3, 4, 5, 6, 7, 8]
    before = clean["points"].gather(1, kept)
    np.testing.assert_allclose(whole["points"][..., columns], before[..., columns], atol=1e-6)
    if kind not in ("jitter", "rotation"):
        assert whole["points"].equal(before)


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_how_much(dataset, severity):
    clean = dataset.batch(range(6))["points"][..., :3].numpy()
    noise = suffered(dataset, "jitter", severity)["points"][..., :3].numpy() - clean
    assert noise.std() == pytest.approx(JITTER[severity - 1], rel=0.05)
    for kind, left in {
        "dropout": 1 - DROPOUT[severity - 1],
        "occlusion": 1 - OCCLUSION[severity - 1],
        "density": DENSITY[severity - 1],
    }.items():
        assert suffered(dataset, kind, severity)["points"].shape[1] == round(left * 200)
    turned = suffered(dataset, "rotation", severity)["points"].double().numpy()
    for columns in (slice(0, 3), slice(6, 9)):
        before = dataset.batch(range(6))["points"][..., columns].double().numpy()
        after = turned[..., columns]
        grams = [cloud @ cloud.transpose(0, 2, 1) for cloud in (before, after)]
        np.testing.assert_allclose(*grams, atol=1e-4)
        for one, two in zip(before, after, strict=True):
            turn = np.linalg.lstsq(one, two, rcond=None)[0]
            angle = np.degrees(np.arccos((np.trace(turn) - 1) / 2))
            assert angle == pytest.approx(15 * severity, abs=0.01)


def test_occlusion_takes_one_side_and_density_is_even(dataset):
    batch = suffered(dataset, "occlusion", 5)
    for cloud, kept in zip(
        dataset.batch(range(6))["points"][..., :3], batch["part_labels"], strict=True
    ):
        lost = np.setdiff1d(range(200), kept)
        # The lost points are on one side of a plane: a least-squares direction separates nearly
        # all.
        side = np.isin(range(200), lost) * 2.0 - 1
        found = np.linalg.lstsq(np.c_[cloud, np.ones(200)], side, rcond=None)[0]
        assert (np.sign(np.c_[cloud, np.ones(200)] @ found) == side).mean() > 0.95
    thin, random = (
        suffered(dataset, kind, 5)["points"][..., :3] for kind in ("density", "dropout")
    )

    def closest(points):
        apart = np.linalg.norm(points[:, None] - points[None], axis=-1)
        return (apart + np.eye(len(points)) * 9).min(1).mean()

    assert np.mean([*map(closest, thin.numpy())]) > 1.5 * np.mean([*map(closest, random.numpy())])


def test_what_is_left_is_brought_to_the_unit_ball_and_2048_points_become_512(dataset):
    points = suffered(dataset, "occlusion", 4, normalize=True)["points"][..., :3].numpy()
    np.testing.assert_allclose(points.mean(1), 0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(points, axis=2).max(1), 1, atol=1e-6)
    assert round(DENSITY[4] * 2048) == 512
    for kind, severity in (("fog", 1), ("jitter", 0), ("jitter", 6)):
        with pytest.raises(UsageError):
            Corrupted(dataset, kind, severity)


def test_evaluate_and_compare_score_corrupted_clouds(tmp_path, one_thread, capsys, monkeypatch):
    from dapt.training import compare

    monkeypatch.setattr(compare, "train", lambda run, _: cli.main(["train", *run.arguments]))
    clouds(tmp_path / "a.npz", 48, 60)
    clouds(tmp_path / "b.npz", 24, 60, seed=1)
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(TINY | {"epochs": 2, "num_points": 40}))
    words = ["compare", "--methods", "dapt,linear", "--seeds", "1", "--out", str(tmp_path / "out")]
    words += ["--config", str(tmp_path / "base.yaml"), "--corrupt", "rotation,density"]
    words += ["--data.train", str(tmp_path / "a.npz"), "--data.test", str(tmp_path / "b.npz")]
    assert cli.main(words) == 0
    out = tmp_path / "out"
    record = json.loads((out / "comparison.json").read_text())
    curve = record["corruptions"]["dapt"]["rotation"]["mean"]
    assert len(curve) == 6 and curve[0] == record["rows"][0]["scores"][0]
    assert (
        "| method | as they are | rotation | density | mean of corrupted |"
        in (out / "comparison.md").read_text()
    )
    assert (out / "corruptions.png").read_bytes()[:4] == b"\x89PNG"
    assert "Corrupted clouds" in (out / "report.html").read_text()
    capsys.readouterr()
    words = ["evaluate", str(out / "dapt/seed_0"), "--corrupt", "rotation"]
    assert cli.main([*words, "--out", str(tmp_path / "scores.json")]) == 0
    assert json.loads((tmp_path / "scores.json").read_text())["corruptions"]["rotation"] == curve
    assert f"{curve[5]:.4f}" in capsys.readouterr().out
    assert cli.main([*words[:-1], "fog"]) == 2
    assert "unknown corruption 'fog'" in capsys.readouterr().err
