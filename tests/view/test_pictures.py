"""Pictures are written."""

import torch

from dapt.view.pictures import draw_predictions, draw_sheet


def test_pictures_are_written(tmp_path):
    points = torch.rand(3, 20, 3)
    labels, predicted = list("abc"), [("a", 0.9), ("c", 0.5), ("c", 1.0)]
    draw_predictions(tmp_path / "p.png", points, torch.rand(3, 20), labels, predicted)
    draw_sheet(tmp_path / "s.png", [(name, points[0], [0] * 20) for name in labels], columns=2)
    assert all((tmp_path / name).read_bytes()[:4] == b"\x89PNG" for name in ("p.png", "s.png"))
