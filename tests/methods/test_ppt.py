"""PPT: its formulas, its parameter counts, and patches encoded only once if they are the same."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dapt
import dapt_ext
from dapt.errors import UsageError
from support.methods import randomize

TASK = dapt.Classification(5, head="ppt")


def restated(model, points, grouping):
    """The published formula: class token, patches and prompts after the final norm."""
    backbone, stack = model.backbone, model.backbone.blocks

    def embedded(groups):
        return backbone.tokenizer.encode(groups.patches), backbone.pos_embed(groups.centers)

    def adapter(name, x):
        layers = stack.adapters[name]
        return layers.up(F.gelu(layers.down(x)))

    B = len(points)
    tokens, at_tokens = embedded(backbone.tokenizer.group(points))
    prompts, at_prompts = embedded(dapt_ext.group(points, *grouping))
    G, P = tokens.shape[1], prompts.shape[1]
    x = torch.cat([backbone.cls_token.expand(B, -1, -1), tokens, prompts], 1)
    positions = torch.cat([backbone.cls_pos.expand(B, -1, -1), at_tokens, at_prompts], 1)
    for block in stack.frozen:
        z = x + positions
        z[:, 1 : 1 + G] += adapter("patches", z[:, 1 : 1 + G])
        z[:, -P:] += adapter("prompts", z[:, -P:])
        y = z + block.attn(block.norm1(z))
        x = y + block.mlp(block.norm2(y)) + adapter("all", y)
    x = backbone.norm(x)
    return x[:, 0], x[:, 1 : 1 + G], x[:, -P:]


@pytest.mark.parametrize("grouping", [None, (11, 9), (5, 7), (20, 9)])
@torch.no_grad()
def test_follows_its_formulas(small_backbone, grouping):
    method = dapt.Ppt(rank=6) if grouping is None else dapt.Ppt(*grouping, rank=6)
    model = dapt.attach(small_backbone(), method, TASK).eval()
    randomize(model)
    points = torch.randn(3, 80, 3)
    cls, patches, prompts = restated(model, points, grouping or (11, 9))
    features = model.features(points)
    close = {"atol": 1e-4, "rtol": 1e-4}  # float32
    torch.testing.assert_close(features.cls, cls, **close)
    torch.testing.assert_close(features.patches, patches, **close)
    torch.testing.assert_close(features.prompts, prompts, **close)
    head_in = torch.cat([cls, patches.mean(1), prompts.mean(1)], 1)
    torch.testing.assert_close(model(points), model.head.layers(head_in), **close)
    assert [type(m) for m in model.head.layers].count(nn.GELU) == 2


@pytest.mark.parametrize("classes, trained", [(15, 1_042_191), (40, 1_048_616)])
def test_published_counts(classes, trained):
    backbone = dapt.create_backbone("point_mae", num_groups=128)
    model = dapt.attach(backbone, dapt.Ppt(), dapt.Classification(classes))
    assert model.count_parameters()[0] == trained


@pytest.mark.parametrize("method, times", [(dapt.Ppt(11, 9), 1), (dapt.Ppt(11, 8), 2)])
def test_the_same_patches_are_encoded_once(small_backbone, method, times):
    model = dapt.attach(small_backbone(), method, TASK)
    calls = []
    model.backbone.tokenizer.encoder.register_forward_hook(lambda *_: calls.append(1))
    model(torch.randn(2, 80, 3))
    assert len(calls) == times


@pytest.mark.parametrize("freeze_bn", [True, False])
def test_batch_norms_count_only_as_published(small_backbone, freeze_bn):
    model = dapt.attach(small_backbone(), dapt.Ppt(rank=6, freeze_bn=freeze_bn), TASK).train()
    norm = model.backbone.tokenizer.encoder.first[1]
    before = norm.running_mean.clone()
    model(torch.randn(3, 80, 3))
    assert torch.equal(norm.running_mean, before) == freeze_bn
    owned = "backbone.tokenizer.encoder.first.1.running_mean" in model.own_state()
    assert owned != freeze_bn and model.trains("backbone.tokenizer.encoder.first.1.weight")


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda build: dapt.Ppt(prompts=0), "prompts must be at least 1, got 0"),
        (lambda build: dapt.Ppt(rank=300), "rank must be from 1 to 256, got 300"),
        (
            lambda build: dapt.attach(build("point_m2ae"), dapt.Ppt(), TASK),
            "ppt is for backbones of one scale",
        ),
        (
            lambda build: dapt.attach(build(), dapt.Ppt(5), TASK).backbone(torch.randn(2, 80, 3)),
            "ppt needs the whole model",
        ),
        (
            lambda build: dapt.attach(build(), dapt.Reversible.on(dapt.Ppt()), TASK),
            "reversible works on one stack of plain blocks, not on that of .* with PptStack",
        ),
        (
            lambda build: dapt.attach(build(), dapt.Linear(), dapt.Classification(5, head="gelu")),
            "head must be 'point_mae', 'point_bert', 'ppt' or 'linear', got 'gelu'",
        ),
    ],
)
def test_mistakes(small_backbone, make, message):
    with pytest.raises(UsageError, match=message):
        make(small_backbone)
