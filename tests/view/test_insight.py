"""What a model is shown to do is what it does."""

import numpy as np
import pytest
import torch

import dapt
import dapt_ext
from dapt.data.blocks import windows
from dapt.data.clouds import unit_ball, upright
from dapt.errors import UsageError
from dapt.inference.rooms import label_room
from dapt.view.insight import Watch, look_at_cloud, look_at_room, token_scales


def test_token_scales_are_the_adapters_own(small_backbone):
    model = dapt.attach(small_backbone(), dapt.Dapt(rank=4), task=dapt.Classification(3))
    points = torch.randn(2, 64, 3)
    with torch.no_grad():
        for block in model.backbone.blocks:
            block.adapter.scale.bias.fill_(2.0)
    scales = token_scales(model, points)
    assert scales.shape == (3, 2, 64) and model.training
    assert (scales > 0).any() and (scales >= 0).all()
    # Scales of 0 everywhere switch the adapters off, which the picture must show.
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


def adapted(small_backbone, task, **options):
    model = dapt.attach(small_backbone(), dapt.Dapt(rank=4, **options), task).eval()
    with torch.no_grad():
        for _, weight in model.own_parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return model


def test_attention_is_that_of_the_class_token(small_backbone):
    """In the first block, everything that it attends to is known."""
    model = adapted(small_backbone, dapt.Classification(3))
    points = torch.randn(2, 64, 3)
    inputs = []
    block = model.backbone.blocks[0].frozen
    block.attn.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    with torch.no_grad(), Watch(model) as watch:
        model(points)
    attention = watch.take_attention()
    assert attention.shape == (3, 2, 11) and watch.take_attention() is None
    query, key, _ = block.attn.qkv(inputs[0]).view(2, 12, 3, 3, 16).permute(2, 0, 3, 1, 4)
    whole = (query @ key.transpose(-1, -2) / 4).softmax(-1)  # [B, heads, T, T]
    torch.testing.assert_close(attention[0], whole[:, :, 0, 1:].mean(1))
    assert (attention.sum(-1) < 1).all()  # some goes to the class token and the prompts


def test_nothing_is_left_behind(small_backbone):
    model = adapted(small_backbone, dapt.Classification(3))
    before = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    with pytest.raises(ZeroDivisionError), Watch(model):
        raise ZeroDivisionError
    after = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    assert before == after


def test_a_cloud_is_answered_as_by_the_model(small_backbone):
    model = adapted(small_backbone, dapt.Classification(3))
    points = np.random.default_rng(0).normal(size=(200, 3)) * 7 + 3
    insight = look_at_cloud(model, points, 200, normalize=True)
    cloud = torch.from_numpy(unit_ball(points).astype(np.float32))[None]
    with torch.no_grad():
        wanted = model(cloud).softmax(-1)[0]
    np.testing.assert_allclose(insight.probabilities, wanted, atol=1e-6)
    scales = token_scales(model, cloud)[:, 0].numpy()  # [L, N]
    np.testing.assert_allclose(insight.scales[:, insight.token], scales, atol=1e-6)
    assert insight.attention.shape == (3, 11)


def test_parts_are_those_of_the_category(small_backbone):
    task = dapt.PartSegmentation(2, 5, class_parts=((0, 1), (2, 3, 4)))
    model = adapted(small_backbone, task)
    points = np.random.default_rng(0).normal(size=(90, 3))
    for category, parts in enumerate(task.class_parts):
        insight = look_at_cloud(model, points, 64, True, torch.tensor([category]))
        assert set(insight.labels) <= set(parts)
        assert (insight.confidence >= 1 / len(parts) - 1e-6).all()
        assert (insight.confidence <= 1 + 1e-6).all()


def test_a_room_is_labeled_as_ever_and_its_tokens_are_those_of_its_blocks(small_backbone):
    model = adapted(small_backbone, dapt.SemanticSegmentation(3))
    room = np.random.default_rng(0).random((900, 3)) * [2.5, 2.0, 1.0]
    grid = {"block": 1.0, "stride": 0.5, "up": "z"}
    insight = look_at_room(model, room, 64, True, **grid)
    plain = label_room(model, room, 64, **grid)
    assert (insight.labels == plain.labels).all()
    np.testing.assert_array_equal(insight.confidence, plain.confidence)
    squares = list(windows(room, 1.0, 0.5, "z"))
    assert insight.scales.shape == (3, 11 * len(squares)) == insight.attention.shape
    # a point's token is the nearest one of a block that contains the point
    home = insight.token // 11
    for number in np.unique(home):
        index = squares[number]
        assert set(np.flatnonzero(home == number)) <= set(index)
    number = home[0]
    index = squares[number]
    block = torch.from_numpy(unit_ball(upright(room[index], "z")).astype(np.float32))[None]
    seen = dapt_ext.gather(block, dapt_ext.farthest_point_sample(block, 64))
    with torch.no_grad(), Watch(model) as watch:
        model(seen)
    nearest = torch.cdist(block, watch.centers)[0, np.flatnonzero(index == 0)[0]].argmin()
    assert insight.token[0] % 11 == nearest
    of_block = insight.scales[:, 11 * number : 11 * (number + 1)]
    np.testing.assert_allclose(of_block, watch.take_scales()[:, 0], atol=1e-5)


def test_other_backbones_are_looked_at_without_their_tokens(small_backbone):
    model = dapt.attach(small_backbone("point_m2ae"), dapt.Dapt(rank=4), dapt.Classification(3))
    insight = look_at_cloud(model, np.random.default_rng(0).normal(size=(80, 3)), 80, True)
    assert insight.scales is None and insight.attention is None
    assert insight.probabilities.sum() == pytest.approx(1)
