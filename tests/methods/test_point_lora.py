"""PointLoRA: its formulas, its parameter counts, what the selection learns, and what is merged."""

import pytest
import torch
import torch.nn.functional as F

import dapt
import dapt_ext
from dapt.errors import UsageError
from support.methods import randomize

TASK = dapt.Classification(5, head="linear")
FIELDS = {"rank": 3, "bottleneck": 6, "groups": (11, 7), "sizes": (9, 12), "select": (4, 2)}


@pytest.fixture
def attach(small_backbone):
    def attach(**fields):
        model = dapt.attach(small_backbone(), dapt.PointLora(**FIELDS | fields), TASK).eval()
        randomize(model)
        with torch.no_grad():
            for block in model.backbone.blocks.frozen:
                block.attn.qkv.mix.fill_(0.8)
                block.attn.proj.mix.fill_(1.3)
        return model

    return attach


def restated(model, points, prompted=None):
    """The published formula: the tokens after the final norm, and p for both scales."""
    backbone, stack, method = model.backbone, model.backbone.blocks, model.adapter.method
    adapters, B = stack.adapters, len(points)

    def bottleneck(name, x):
        return adapters[name].up(F.gelu(adapters[name].down(x)))

    def low_rank(layer, name, x):
        update = x @ layer.lora_down.T @ layer.lora_up.T
        return (
            layer.linear(x) + method.alpha / method.rank * update + layer.mix * bottleneck(name, x)
        )

    def embedded(groups):
        return backbone.tokenizer.encode(groups.patches), backbone.pos_embed(groups.centers)

    tokens, at = embedded(backbone.tokenizer.group(points))
    G, S, probabilities = tokens.shape[1], sum(method.select), []
    x = [backbone.cls_token.expand(B, -1, -1), tokens]
    positions = [backbone.cls_pos.expand(B, -1, -1), at]
    for groups, size, count in zip(method.groups, method.sizes, method.select, strict=True):
        tokens, at = embedded(dapt_ext.group(points, groups, size))
        hidden = F.relu(stack.choice.inner(tokens))
        p = torch.sigmoid(stack.choice.outer(hidden))[..., 0]
        best = p.argsort(dim=1, descending=True)[:, :count]
        clouds = torch.arange(B)[:, None]
        x.append(tokens[clouds, best])
        positions.append(at[clouds, best])
        probabilities.append(p)
    x, positions = torch.cat(x, 1), torch.cat(positions, 1)
    prompted = G if prompted is None else prompted
    for block in stack.frozen:
        z = x + positions
        z[:, 1 : 1 + prompted] += bottleneck("patches", z[:, 1 : 1 + prompted])
        z[:, -S:] += bottleneck("chosen", z[:, -S:])
        qkv = low_rank(block.attn.qkv, "qkv", block.norm1(z))
        q, k, v = (t.unflatten(2, (3, -1)).transpose(1, 2) for t in qkv.chunk(3, dim=-1))
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        y = z + low_rank(block.attn.proj, "proj", out)
        x = y + block.mlp(block.norm2(y))
    x = backbone.norm(x)
    return x[:, 0], x[:, 1 : 1 + G], x[:, -S:], probabilities


@pytest.mark.parametrize(
    "fields",
    [{}, {"alpha": 12.0}, {"groups": (8, 6)}, {"prompted": 14}, {"prompted": 5}],
    ids=str,
)
@torch.no_grad()
def test_follows_its_formulas(attach, fields):
    model, points = attach(**fields), torch.randn(3, 80, 3)
    cls, patches, chosen, _ = restated(model, points, fields.get("prompted"))
    features = model.features(points)
    close = {"atol": 1e-4, "rtol": 1e-4}  # float32
    torch.testing.assert_close(features.cls, cls, **close)
    torch.testing.assert_close(features.patches, patches, **close)
    torch.testing.assert_close(features.prompts, chosen, **close)
    head_in = torch.cat([cls, torch.cat([patches, chosen], 1).amax(1)], 1)
    torch.testing.assert_close(model(points), model.head.layers(head_in), **close)


def test_the_released_code_scales_by_nothing(attach):
    """There, alpha / rank is computed but never used."""
    for published, scale in ((False, 4.0), (True, 1.0)):
        model = attach(alpha=12.0, published=published)
        assert model.backbone.blocks.frozen[0].attn.qkv.scale == scale


@pytest.mark.parametrize("published", [False, True])
def test_what_the_choice_learns(attach, published):
    """In the released code the task does not train it, and its loss pulls every p toward 1/2."""
    model, points = attach(published=published), torch.randn(3, 80, 3)
    inner = model.backbone.blocks.choice.inner.weight
    TASK.loss(model(points), {"labels": torch.arange(3)}).backward()
    assert (inner.grad is None or not inner.grad.any()) == published

    with torch.no_grad():
        *_, (p1, p2) = restated(model, points)
    entropy = sum(
        weight * torch.distributions.Bernoulli(p).entropy().mean()
        for weight, p in ((1, p1), (0.25, p2))
    )
    model(points)
    loss = model.extra_loss()
    torch.testing.assert_close(
        loss, (-0.004 if published else 0.004) * entropy, rtol=1e-4, atol=1e-6
    )
    with torch.no_grad():
        model(points)
    assert model.extra_loss() is None


def test_fed_back_the_losses_go_opposite_ways(attach):
    def after(published):
        torch.manual_seed(0)
        model, points = attach(published=published), torch.randn(3, 80, 3)
        choice = model.backbone.blocks.choice
        optimizer = torch.optim.Adam(choice.parameters(), 0.05)
        for _ in range(60):
            model(points)
            optimizer.zero_grad()
            model.extra_loss().backward()
            optimizer.step()
        with torch.no_grad():
            *_, (p, _) = restated(model, points)
        return float((p - 0.5).abs().mean())

    assert after(published=True) < 0.05 and after(published=False) > 0.4


@pytest.mark.parametrize("classes, trained", [(15, 772_752), (40, 779_177)])
def test_published_counts(classes, trained):
    backbone = dapt.create_backbone("point_mae", num_groups=128)
    model = dapt.attach(backbone, dapt.PointLora(), dapt.Classification(classes))
    assert model.count_parameters()[0] == trained


def test_the_mix_is_saved_and_does_not_train(attach, small_backbone, tmp_path):
    model = attach()
    assert not model.trains("backbone.blocks.frozen.0.attn.qkv.mix")
    model.save_adapter(tmp_path)
    again = dapt.load_adapter(tmp_path, small_backbone())
    assert float(again.backbone.blocks.frozen[1].attn.proj.mix) == pytest.approx(1.3)


@torch.no_grad()
def test_merging_folds_the_updates(attach):
    model, points = attach(), torch.randn(3, 80, 3)
    wanted = model(points)
    torch.testing.assert_close(dapt.merge(model)(points), wanted, atol=1e-5, rtol=1e-4)
    assert not any("lora" in entry for entry in model.state_dict())


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda build: dapt.PointLora(rank=0), "rank must be at least 1, got 0"),
        (lambda build: dapt.PointLora(bottleneck=300), "bottleneck must be at most 256, got 300"),
        (lambda build: dapt.PointLora(sizes=(3,)), "sizes must be two numbers of at least 1"),
        (
            lambda build: dapt.PointLora(select=(3, 65)),
            "select must be at most the 64 groups, got 65",
        ),
        (
            lambda build: dapt.attach(build("point_m2ae"), dapt.PointLora(), TASK),
            "point_lora is for backbones of one scale",
        ),
        (
            lambda build: dapt.attach(build(), dapt.PointLora(), TASK)(torch.randn(2, 80, 3)),
            "need clouds of at least 128 points, got 80",
        ),
        (
            lambda build: dapt.attach(build(), dapt.PointLora(), TASK).backbone(
                torch.randn(2, 80, 3)
            ),
            "point_lora needs the whole model",
        ),
        (
            lambda build: dapt.attach(build(), dapt.Reversible.on(dapt.PointLora()), TASK),
            "reversible works on one stack of plain blocks, not on that of .* PointLoraStack",
        ),
    ],
)
def test_mistakes(small_backbone, make, message):
    with pytest.raises(UsageError, match=message):
        make(small_backbone)
