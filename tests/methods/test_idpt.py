"""IDPT: its formulas, its parameter counts, the frozen position, and the blocks left alone."""

import pytest
import torch
import torch.nn.functional as F

import dapt
from dapt.errors import UsageError
from support.methods import kept_by_block, randomize

TASK = dapt.Classification(5)


def restated_prompt(network, x, neighbors):
    """The published graph network applied to the patch tokens [G, C] of one cloud."""

    def normed(norm, x):
        x = (x - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
        return F.leaky_relu(x * norm.weight + norm.bias, 0.2)

    seen = []
    for edge in network.edges:
        distance = (x[:, None] - x).square().sum(2)
        near = distance.argsort(dim=1)[:, :neighbors]  # [G, k]
        feature = torch.cat([x[near] - x[:, None], x[:, None].expand(-1, neighbors, -1)], 2)
        x = normed(edge.norm, feature @ edge.mix.weight.T).amax(1)
        seen.append(x)
    return normed(network.norm, torch.cat(seen or [x], 1) @ network.mix.weight.T).amax(0)


@pytest.mark.parametrize("layer, edge_convs", [(None, 3), (0, 2), (1, 1), (2, 0)])
@torch.no_grad()
def test_follows_its_formulas(small_backbone, layer, edge_convs):
    method = dapt.Idpt(prompt_layer=layer, edge_convs=edge_convs, neighbors=4)
    model = dapt.attach(small_backbone(), method, TASK).eval()
    randomize(model)
    backbone, stack = model.backbone, model.backbone.blocks
    for module in stack.prompt.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2.0)
    points = torch.randn(3, 80, 3)
    features = backbone(points)
    groups = backbone.tokenizer.group(points)
    x = torch.cat(
        [backbone.cls_token.expand(3, -1, -1), backbone.tokenizer.encode(groups.patches)], 1
    )
    positions = torch.cat(
        [backbone.cls_pos.expand(3, -1, -1), backbone.pos_embed(groups.centers)], 1
    )
    for i, block in enumerate(stack.frozen):
        if i == (2 if layer is None else layer):
            prompts = [restated_prompt(stack.prompt, tokens[1:], 4) for tokens in x]
            x = torch.cat([x[:, :1], torch.stack(prompts)[:, None], x[:, 1:]], 1)
            at_prompt = stack.prompt_position.expand(3, -1, -1)
            positions = torch.cat([positions[:, :1], at_prompt, positions[:, 1:]], 1)
        x = block(x, positions)
    x = backbone.norm(x)
    close = {"atol": 1e-4, "rtol": 1e-4}  # float32
    torch.testing.assert_close(features.cls, x[:, 0], **close)
    torch.testing.assert_close(features.prompts, x[:, 1:2], **close)
    torch.testing.assert_close(features.patches, x[:, 2:], **close)


@pytest.mark.parametrize(
    "tokens, classes, trained",
    [(None, 15, 1_696_783), (None, 40, 1_703_208), (("prompt:mean",), 40, 1_506_600)],
)
def test_published_counts(tokens, classes, trained):
    backbone = dapt.create_backbone("point_mae", num_groups=128)
    model = dapt.attach(backbone, dapt.Idpt(head_tokens=tokens), dapt.Classification(classes))
    assert model.count_parameters()[0] == trained


@pytest.mark.parametrize("trains", [False, True])
def test_the_prompts_position_is_saved_whether_it_trains_or_not(small_backbone, tmp_path, trains):
    method = dapt.Idpt(neighbors=4, train_prompt_position=trains)
    model = dapt.attach(small_backbone(), method, TASK)
    position = model.backbone.blocks.prompt_position
    name = "backbone.blocks.prompt_position"
    assert position.requires_grad == model.trains(name) == trains
    assert (name in dict(model.own_parameters())) == trains and name in model.own_state()
    model.save_adapter(tmp_path)
    again = dapt.load_adapter(tmp_path, small_backbone())
    assert torch.equal(again.backbone.blocks.prompt_position, position)
    again.add_adapter("other", dapt.Full(), TASK)
    again.set_adapter("default")
    assert again.backbone.blocks.prompt_position.requires_grad == trains


@pytest.mark.parametrize("class_token, untouched", [(True, 0), (False, 3)])
def test_nothing_is_kept_of_the_blocks_before_the_prompts(small_backbone, class_token, untouched):
    method = dapt.Idpt(prompt_layer=3, neighbors=4, class_token=class_token)
    model = dapt.attach(small_backbone(depth=4), method, TASK).train()
    _, kept = kept_by_block(model, torch.randn(4, 80, 3), model.backbone.blocks.frozen)
    assert kept[:untouched] == [0] * untouched and all(kept[untouched:])


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda build: dapt.Idpt(edge_convs=4), "edge_convs must be from 0 to 3, got 4"),
        (lambda build: dapt.Idpt(neighbors=0), "neighbors must be at least 1, got 0"),
        (lambda build: dapt.Idpt(prompt_layer=-1), "prompt_layer must be at least 0, got -1"),
        (
            lambda build: dapt.attach(build(), dapt.Idpt(prompt_layer=3), TASK),
            "prompt_layer must be below the 3 blocks, got 3",
        ),
        (
            lambda build: dapt.attach(build(), dapt.Reversible.on(dapt.Idpt()), TASK),
            "reversible works on one stack of plain blocks, not on that of .* with IdptStack",
        ),
    ],
)
def test_mistakes(small_backbone, make, message):
    with pytest.raises(UsageError, match=message):
        make(small_backbone)
