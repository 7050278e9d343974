"""The scripts that make the pictures of the documentation."""

import importlib.util
import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dapt.cli import main
from dapt.view.clouds import Cloud, Tokens
from dapt.view.viewer import viewer_page
from support.browser import find_browser

ROOT = Path(__file__).parents[2]


def script(path):
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


DRAW = script("benchmarks/draw.py")
OPS = DRAW.records_of_ops()
CHARTS = sorted([*DRAW.RESULTS.glob("compare-*.json"), *OPS])


@pytest.mark.parametrize("path", CHARTS, ids=map(DRAW.table_name, CHARTS))
def test_committed_charts_are_those_of_the_json(path):
    make = DRAW.speed_chart if path in OPS else DRAW.compare_chart
    drawn = Image.open(io.BytesIO(make(json.loads(path.read_text())))).convert("L")
    kept = Image.open(path.with_suffix(".png")).convert("L")
    assert drawn.size == kept.size
    differ = np.abs(np.asarray(drawn, float) - np.asarray(kept, float)) > 60
    assert differ.mean() < 0.001  # a bar 30 % longer would be 0.0012, a dot 2 points lower 0.002


@pytest.mark.parametrize("path", OPS, ids=map(DRAW.table_name, OPS))
def test_committed_tables_are_those_of_the_json(path):
    table = DRAW.speed_table(json.loads(path.read_text()))
    assert f"<!-- {DRAW.table_name(path)} -->\n{table}\n<!-- / -->" in DRAW.PAGE.read_text()


def test_a_room_is_labeled_by_its_planes(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    floor = np.column_stack([rng.random((4000, 2)) * 4, np.zeros(4000)])
    wall = np.column_stack([np.zeros(3000), rng.random(3000) * 4, 0.3 + rng.random(3000) * 2])
    table = np.column_stack([1 + rng.random((2000, 2)), np.ones(2000)])
    points = np.concatenate([floor, wall, table]).astype(np.float32)
    kinds = np.repeat([0, 2, 1], [4000, 3000, 2000])
    np.savez(tmp_path / "scan.npz", hall=points)
    out = tmp_path / "hall"
    command = ["label_by_rule", str(tmp_path / "scan.npz"), "--cloud", "hall", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", command)
    labels = script("scripts/label_by_rule.py")
    labels.main()
    assert (labels.labels_of(points.astype(float)) == kinds).mean() > 0.97
    halves = [np.load(out / split / "room.npz")["points"] for split in ("train", "test")]
    assert sum(map(len, halves)) == len(points) and halves[0][:, 0].max() <= halves[1][:, 0].min()
    assert (out / "train" / "classes.txt").read_text().split() == list(labels.NAMES)


@pytest.fixture
def page(tmp_path):
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if find_browser() is None:
        pytest.skip("Chromium is not installed")
    rng = np.random.default_rng(0)
    tokens = Tokens("scale", "Adapter scale", rng.random((2, 5)), rng.integers(0, 5, 500))
    path = tmp_path / "page.html"
    path.write_text(viewer_page([Cloud("ball", rng.normal(size=(500, 3)), [tokens])], {}))
    return path


def test_pictures_film_and_times_of_a_page(page, tmp_path, monkeypatch, capsys):
    pages = script("scripts/picture_pages.py")
    monkeypatch.setattr(pages, "FRAMES", 2)
    for what, *words in (
        ("shoot", "--out", str(tmp_path / "shot"), "--color", "scale"),
        ("film", "--out", str(tmp_path / "film.webp")),
        ("time",),
    ):
        monkeypatch.setattr(sys, "argv", ["picture_pages", what, str(page), *words])
        pages.main()
    assert Image.open(tmp_path / "shot.webp").size == (1280, 800)
    assert Image.open(tmp_path / "shot-phone.webp").size == (390, 844)
    assert Image.open(tmp_path / "film.webp").n_frames == 4
    assert "500 points: " in capsys.readouterr().out


def test_files_of_one_name_are_told_apart(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "room.npy", np.random.default_rng(0).random((50, 3)))
    shutil.copy(tmp_path / "a" / "room.npy", tmp_path / "hall.npy")
    files = [str(tmp_path / name) for name in ("a/room.npy", "b/room.npy", "hall.npy")]
    assert main(["view", *files, "--out", str(tmp_path / "page.html")]) == 0
    text = (tmp_path / "page.html").read_text()
    for name in ("a/room.npy", "b/room.npy", "hall.npy"):
        assert f'"{name}"' in text
