"""STAG: its formulas, its published sizes, and the blocks that keep nothing for the backward."""

import pytest
import torch
import torch.nn.functional as F

import dapt
from dapt.errors import UsageError
from dapt.methods.neighborhoods import neighborhood_max
from support.methods import kept_by_block, randomize

TASK = dapt.Classification(5)
METHODS = {
    "standard": dapt.Stag(rank=5, neighbors=3),
    "large": dapt.Stag(size="large", rank=5, neighbors=3),
    "shared by twos": dapt.Stag(first=1, share_down=2, share_graph=2, rank=5, neighbors=3),
    "from the start": dapt.Stag(first=0, share_down=1, share_graph=1, rank=5, neighbors=30),
    "with a norm": dapt.Stag(rank=5, neighbors=3, final_norm=True),
}


def restated(model, cloud, first, share_down, share_graph, neighbors):
    """The published formula for one cloud: the tokens after the last block."""
    backbone, stack = model.backbone, model.backbone.blocks
    groups = backbone.tokenizer.group(cloud)
    centers = groups.centers[0]
    distance = (centers[:, None] - centers).square().sum(2)
    near = distance.argsort(dim=1, stable=True)[:, :neighbors]
    x = torch.cat([backbone.cls_token[0], backbone.tokenizer.encode(groups.patches)[0]])
    positions = torch.cat([backbone.cls_pos[0], backbone.pos_embed(groups.centers)[0]])
    state = 0
    for i, block in enumerate(stack.frozen):
        state = state + stack.side.downs[i // share_down](x[1:])
        x = block(x[None], positions[None])[0]
        if i >= first:
            graph = stack.side.graphs[str(first + (i - first) // share_graph)]
            u, v = graph.center(state), graph.neighbor(state)
            state = graph.mix((u[:, None] + v[near]).amax(1))
            d = F.relu(graph.up(state))
            x = x + torch.cat([d.mean(0, keepdim=True), d])
    return x


@pytest.mark.parametrize("name", METHODS)
@torch.no_grad()
def test_follows_its_formulas(small_backbone, name):
    method = METHODS[name]
    model = dapt.attach(small_backbone(), method, TASK).eval()
    randomize(model)
    points = torch.randn(3, 80, 3)
    shared = method.shared_blocks(3)
    features, logits = model.backbone(points), model(points)
    for cloud in range(3):
        wanted = restated(model, points[cloud : cloud + 1], *shared, method.neighbors)
        if method.final_norm:
            norm = model.backbone.norm
            wanted = F.layer_norm(wanted, (48,), norm.weight, norm.bias)
        got = torch.cat([features.cls[cloud : cloud + 1], features.patches[cloud]])
        torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)  # float32
        head_in = wanted.mean(0, keepdim=True)
        torch.testing.assert_close(
            logits[cloud], model.head.layers(head_in)[0], atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("size, first, shared", [("standard", 6, (12, 12)), ("large", 3, (3, 3))])
def test_sizes(size, first, shared):
    assert dapt.Stag(size=size).shared_blocks(12) == (first, *shared)


@pytest.mark.parametrize(
    "size, classes, trained, total",
    [
        ("standard", 15, 428_431, 22_254_223),
        ("large", 15, 1_020_751, 22_846_543),
        ("standard", 40, 434_856, None),
        ("large", 40, 1_027_176, None),
    ],
)
def test_published_counts(size, classes, trained, total):
    backbone = dapt.create_backbone("point_mae", num_groups=128)
    model = dapt.attach(backbone, dapt.Stag(size=size), dapt.Classification(classes))
    got = model.count_parameters()
    assert got[0] == trained and got[1] == (total or got[1])


@pytest.mark.parametrize("size, untouched", [("standard", 7), ("large", 4)])
def test_nothing_is_kept_of_the_blocks_before_the_first_adapted(small_backbone, size, untouched):
    """The first adapted block keeps nothing either, since its input has no gradient."""
    model = dapt.attach(small_backbone(depth=12), dapt.Stag(size=size, rank=8), TASK).train()
    points = torch.randn(4, 80, 3)
    stack = model.backbone.blocks
    total, each = kept_by_block(model, points, stack.frozen)
    assert each[:untouched] == [0] * untouched
    assert all(each[untouched:])
    # The side network reads one sum of the blocks' tokens per projection.
    of_blocks = sum(each)
    rest = 4 * 11 * 4 * (48 * len(stack.side.downs) + 48 * 12 + 12 * (4 * 8 + 2 * 8 + 48))
    assert total - of_blocks < 2 * rest


def test_gradient_goes_to_the_greatest_neighbor():
    values = torch.randn(2, 7, 5, dtype=torch.float64, requires_grad=True)
    near = torch.stack([torch.randperm(7)[:4] for _ in range(12)]).view(2, 6, 4)
    got = neighborhood_max(values, near)
    rows = torch.arange(2)[:, None, None]
    assert torch.equal(got, values[rows, near].amax(2))
    assert torch.autograd.gradcheck(lambda v: neighborhood_max(v, near), values)


def test_a_fresh_adapter_that_starts_at_zero_changes_nothing(small_backbone):
    points = torch.randn(2, 80, 3)
    with torch.no_grad():
        plain = small_backbone().eval()(points)
    method = dapt.Stag(final_norm=True, zero_start=True)
    model = dapt.attach(small_backbone(), method, TASK).eval()
    torch.testing.assert_close(model.backbone(points).patches, plain.patches)
    assert not torch.equal(
        dapt.attach(small_backbone(), dapt.Stag(final_norm=True), TASK).eval()
        .backbone(points).patches, plain.patches,
    )  # fmt: skip


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda build: dapt.Stag(size="sl"), "size must be 'standard' or 'large', got 'sl'"),
        (lambda build: dapt.Stag(neighbors=0), "neighbors must be at least 1, got 0"),
        (
            lambda build: dapt.attach(build(), dapt.Stag(first=3), TASK),
            "first must be below the 3 blocks of a stack, got 3",
        ),
        (
            lambda build: dapt.attach(build(), dapt.Reversible.on(dapt.Stag()), TASK),
            "reversible works on one stack of plain blocks, not on that of .* with StagStack",
        ),
    ],
)
def test_mistakes(small_backbone, make, message):
    with pytest.raises(UsageError, match=message):
        make(small_backbone)
