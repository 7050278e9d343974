"""The script that splits data: nothing is lost, and the same seed splits the same way."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

SPLIT = Path(__file__).parents[2] / "scripts" / "split_npz.py"


@pytest.fixture
def script(monkeypatch):
    """A function that runs the script with the given arguments in this process."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", [str(SPLIT), *map(str, words)])
        runpy.run_path(str(SPLIT), run_name="__main__")

    return run


@pytest.fixture
def split(tmp_path, script):
    """A function that splits 60 clouds with the given flags and returns the contents of the
    files."""
    rng = np.random.default_rng(0)
    clouds = rng.standard_normal((60, 5, 3)).astype(np.float16)
    whole = {"points": clouds, "labels": np.arange(60) % 3, "class_names": np.array(list("abc"))}
    np.savez(tmp_path / "clouds.npz", **whole)

    def run(*flags):
        script(tmp_path / "clouds.npz", "--out", tmp_path / "cut", *flags)
        names = ("train", "validation")
        return [dict(np.load(tmp_path / f"cut_{name}.npz")) for name in names]

    return whole, run


def test_split_holds_out_a_share_of_every_class(split):
    whole, run = split
    train, validation = run("--share", "0.25")
    assert np.bincount(validation["labels"]).tolist() == [5, 5, 5]
    rows = [cloud.tobytes() for part in (train, validation) for cloud in part["points"]]
    assert sorted(rows) == sorted(cloud.tobytes() for cloud in whole["points"])
    assert train["class_names"].tolist() == ["a", "b", "c"]
    np.testing.assert_equal(run("--share", "0.25")[0], train)


def test_split_keeps_groups_together(tmp_path, split):
    whole, run = split
    np.savez(tmp_path / "clouds.npz", **whole, groups=np.arange(60) // 6 * 3 + np.arange(60) % 3)
    train, validation = run("--share", "0.25")
    assert not set(train["groups"]) & set(validation["groups"])
    assert set(np.bincount(validation["labels"]).tolist()) <= {4, 6}  # groups of two, of 20


def test_turned_clouds_are_the_same_clouds(split):
    _, run = split
    plain, turned = run()[0]["points"], run("--turn")[0]["points"]
    assert turned.dtype == plain.dtype and not np.array_equal(turned, plain)
    inner = [np.einsum("snc,smc->snm", x.astype(float), x.astype(float)) for x in (plain, turned)]
    np.testing.assert_allclose(*inner, atol=0.05)  # float16


def test_a_file_without_labels_is_one_sentence(tmp_path, script):
    np.savez(tmp_path / "clouds.npz", points=np.zeros((2, 5, 3)))
    with pytest.raises(SystemExit, match=r"^split_npz.py: .*labels.*$"):
        script(tmp_path / "clouds.npz")
