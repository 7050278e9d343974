"""Token scales are those that the forward pass uses, and pictures are written."""

import pytest
import torch

import dapt
from dapt.errors import UsageError
from dapt.view.pictures import draw_predictions, draw_sheet, token_scales


def test_token_scales_are_the_adapters_own(small_backbone):
    model = dapt.attach(small_backbone(), dapt.Dapt(rank=4), task=dapt.Classification(3))
    points = torch.randn(2, 64, 3)
    with torch.no_grad():
        for block in model.backbone.blocks:
            block.adapter.scale.bias.fill_(2.0)
    scales = token_scales(model, points)
    assert scales.shape == (3, 2, 64) and model.training
    assert (scales > 0).any() and (scales >= 0).all()
    # A scale of 0 everywhere switches the adapters off, and so does what the picture shows.
    with torch.no_grad():
        for block in model.backbone.blocks:
            block.adapter.scale.weight.zero_()
            block.adapter.scale.bias.copy_(torch.tensor([0.5]))
    torch.testing.assert_close(token_scales(model, points), torch.full((3, 2, 64), 0.5))


def test_points_have_the_scale_of_the_nearest_token(small_backbone):
    model = dapt.attach(small_backbone(), dapt.Dapt(rank=4), task=dapt.Classification(3))
    points = torch.randn(1, 64, 3)
    centers = model.eval().backbone(points).centers
    nearest = torch.cdist(points, centers).argmin(-1)[0]
    scales = token_scales(model, points)[0, 0]
    for group in range(centers.shape[1]):
        assert scales[nearest == group].unique().numel() == 1


def test_other_methods_have_no_token_scales(small_backbone):
    model = dapt.attach(small_backbone(), dapt.Linear(), task=dapt.Classification(3))
    with pytest.raises(UsageError, match="dynamic adapters"):
        token_scales(model, torch.randn(1, 64, 3))


def test_pictures_are_written(tmp_path):
    points = torch.rand(3, 20, 3)
    labels, predicted = list("abc"), [("a", 0.9), ("c", 0.5), ("c", 1.0)]
    draw_predictions(tmp_path / "p.png", points, torch.rand(3, 20), labels, predicted)
    draw_sheet(tmp_path / "s.png", [(name, points[0], [0] * 20) for name in labels], columns=2)
    assert all((tmp_path / name).read_bytes()[:4] == b"\x89PNG" for name in ("p.png", "s.png"))
