"""Pictures show what they are given in the right place, and leave the rest empty."""

import io

import numpy as np
import pytest
from PIL import Image

from dapt.view.charts import score_against_parameters, speedups
from dapt.view.pictures import draw_sheet, portrait
from dapt.view.render import Camera, render


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def test_the_nearest_point_is_seen():
    """Of two walls, only the front one is visible; from behind, only the other one."""
    rng = np.random.default_rng(0)
    wall = np.column_stack([rng.random((6000, 2)), np.zeros(6000)])
    points = np.concatenate([wall, wall - [0, 0, 1]])
    colors = np.repeat(np.array([[200, 0, 0], [0, 0, 200]], np.uint8), 6000, axis=0)
    for azimuth, channel in ((0, 0), (180, 2)):
        drawn = render(points, colors, 60, 60, Camera(azimuth, 0), size=2.5).astype(int)
        middle = drawn[20:40, 20:40]
        assert (middle[..., 3] > 200).mean() > 0.95
        assert middle[..., channel].mean() > 50 * max(middle[..., 2 - channel].mean(), 0.1)


def test_a_cloud_fills_its_picture_and_no_more():
    points = np.random.default_rng(0).normal(size=(2000, 3)) * [1, 5, 1]
    drawn = render(points, np.full((2000, 3), 99, np.uint8), 80, 120)
    rows, columns = np.nonzero(drawn[..., 3])
    assert 90 <= np.ptp(rows) < 120 and rows.min() > 0 and columns.min() > 0
    assert drawn[0, 0, 3] == 0 and (drawn[..., 3] == 255).any()


def test_what_lies_behind_an_edge_is_darker():
    rng = np.random.default_rng(0)
    floor = np.column_stack([rng.random(20000) * 2 - 1, np.zeros(20000), rng.random(20000) * 2 - 1])
    box = floor * 0.4 + [0, 0.5, 0]
    points = np.concatenate([floor, box])
    white = np.full((40000, 3), 255, np.uint8)
    above = Camera(elevation=70)
    plain, shaded = (
        render(points, white, 160, 160, above, shading=s).astype(int) for s in (0.0, 1.0)
    )
    whole = plain[..., 3] == 255
    assert (plain[whole][:, :3] == 255).all()
    light = shaded[whole][:, 0]
    assert light.min() < 180 and np.median(light) > 235


@pytest.mark.parametrize("points", [np.zeros((1, 3)), np.ones((5, 3)), np.eye(3)])
def test_odd_clouds_are_drawn(points):
    assert render(points, np.zeros((len(points), 3), np.uint8), 20, 20)[..., 3].any()


def test_pictures_are_written(tmp_path):
    rng = np.random.default_rng(0)
    clouds = [rng.random((40, 3)) for _ in range(2)]
    answers = [[("a", 0.9), ("b", 0.1)], [("b", 0.6), ("a", 0.4)]]
    portrait(tmp_path / "p.png", clouds, [rng.random((3, 40))] * 2, answers, ["a", "a"])
    sheet = [(name, clouds[0], np.arange(40) % 3 - 1) for name in "abc"]
    draw_sheet(tmp_path / "s.png", sheet, columns=2)
    for name in ("p.png", "s.png"):
        drawn = pixels((tmp_path / name).read_bytes())
        assert (drawn != 255).any(2).mean() > 0.02


def test_charts_are_drawn():
    points = [("a", 1000, 0.5, 0.1), ("b", 1001, 0.5, 0.0), ("c", 10**6, 0.9, 0.02)]
    rows = [("fps", "small", 5.0, "peer"), ("knn", "large", 0.5, "other")]
    for png in (
        score_against_parameters(points, "accuracy", "caption"),
        score_against_parameters(points[:1], "miou", "one"),
        speedups(rows, "caption"),
    ):
        assert (pixels(png) != 255).any(2).mean() > 0.005
