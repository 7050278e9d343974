"""GAPrompt: its formulas in every order, its parameter counts, and the right neighbors."""

import pytest
import torch
import torch.nn.functional as F

import dapt
import dapt_ext
from dapt.errors import UsageError
from support.methods import randomize

TASK = dapt.Classification(5, head="linear")
FIELDS = {"prompts": 3, "prompt_depth": 2, "point_prompts": 4, "interpolate_from": 4, "rank": 5}
ORDERS = [
    f"{which}_{when}_attention"
    for which in ("permutation", "replacement")
    for when in ("after", "before")
]


@pytest.fixture
def attach(small_backbone):
    def attach(depth=3, **fields):
        backbone = small_backbone(depth=depth)
        model = dapt.attach(backbone, dapt.GaPrompt(**FIELDS | fields), TASK).eval()
        randomize(model)
        with torch.no_grad():
            for name, buffer in model.own_state().items():
                if name.endswith("running_mean"):
                    buffer.normal_(std=0.1)
                elif name.endswith("running_var"):
                    buffer.uniform_(0.5, 2.0)
        return model

    return attach


def normed(norm, x):
    x = (x - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
    return x * norm.weight + norm.bias


def layers_of(layers, x):
    for linear, norm in zip(layers.linears, layers.norms, strict=True):
        x = F.relu(normed(norm, linear(x)))
    return x


def groups_of(points, count, size):
    """(indices of centers, of their neighbors) of one cloud, by the backbone's own op."""
    groups = dapt_ext.group(points[None], count, size)
    return groups.center_idx[0], groups.patch_idx[0]


def interpolated(at, centers, values, k, epsilon):
    distance = (at[:, None] - centers).square().sum(2)
    near, index = distance.topk(k, largest=False)
    share = 1 / (near + epsilon)
    return (values[index] * (share / share.sum(1, keepdim=True))[..., None]).sum(1)


def restated_geometry(model, points):
    """The shifted and the added points of one cloud, and the feature of its shape."""
    geometry, method = model.backbone.geometry, model.adapter.method
    net, tokenizer = geometry.shift, model.backbone.tokenizer
    G, S = tokenizer.num_groups, tokenizer.group_size
    waves = [f(2**k * points) for k in range(4) for f in (torch.sin, torch.cos)]
    e = torch.cat([points, *waves], 1)
    at, near = groups_of(points, G, S)
    fine = points[at]
    x_fine = layers_of(net.to_fine, e[near]).amax(1)
    at, near = groups_of(fine, G // 2, S // 2)
    coarse = fine[at]
    x_coarse = layers_of(net.to_coarse, x_fine[near]).amax(1)
    k = min(method.interpolate_from, G // 2)
    back = interpolated(fine, coarse, x_coarse, k, 1e-4)
    x_fine = layers_of(net.at_fine, torch.cat([x_fine, back], 1))
    back = interpolated(points, fine, x_fine, method.interpolate_from, 1e-4)
    x = layers_of(net.at_points, torch.cat([e, back], 1))
    points = points + method.perturbation * net.out(x) * points
    return torch.cat([points, method.factor * geometry.points[0]]), geometry.shape(
        x_coarse.flatten()
    )


def restated(model, points):
    """The published formula for one cloud: the tokens after the final norm, and the shape."""
    backbone, stack, method = model.backbone, model.backbone.blocks, model.adapter.method
    points, s = restated_geometry(model, points)
    groups = backbone.tokenizer.group(points[None])
    centers, G, P = groups.centers[0], groups.centers.shape[1], method.prompts
    at, near = groups_of(centers, G // 2, backbone.tokenizer.group_size // 2)
    x = torch.cat([backbone.cls_token[0], backbone.tokenizer.encode(groups.patches)[0]])
    positions = torch.cat([backbone.cls_pos[0], backbone.pos_embed(centers)])

    def propagate(adapter, x, prompted):
        tokens, source, offset = x[1:], x[1:], 0
        if prompted and "replacement" in method.propagation:
            source = torch.cat([tokens[-G:][:-P], tokens[:P]])
        elif prompted and not method.published:
            offset = P
        q = normed(adapter.norm, (2 * source[near + offset]).amax(1))
        q = F.gelu(q) + 0.3 * source[at + offset]
        spread = interpolated(centers, centers[at], q, min(64, G // 2), 1e-8)
        return torch.cat([x[:-G], x[-G:] + 0.3 * spread])

    for i, (block, adapter) in enumerate(zip(stack.frozen, stack.adapters, strict=True)):
        x, prompted = x + positions, i < method.prompt_depth
        if prompted:
            prompts = adapter.prompts + 0.5 * s
            prompts = prompts + backbone.pos_embed(backbone.geometry.prompt_coordinates)
            x = torch.cat([x[:1], prompts, x[1:]])
        if "before" in method.propagation:
            x = propagate(adapter, x, prompted)
        x = x + block.attn(block.norm1(x)[None])[0]
        x = x + block.mlp(block.norm2(x))
        if "after" in method.propagation:
            x = propagate(adapter, x, prompted)
        seen = prompted and not (method.published and i >= 6)
        u = adapter.bottleneck.norm(x[1:] + (0.5 * s if seen else 0))
        u = adapter.bottleneck.down(u)
        rows = x[1:] + 0.7 * adapter.bottleneck.up(u * torch.sigmoid(1.702 * u))
        x = torch.cat([x[:1], rows[P if prompted else 0 :]])
    return backbone.norm(x), s


@pytest.mark.parametrize("propagation", ORDERS)
@pytest.mark.parametrize(
    "published, prompt_depth, depth", [(False, 2, 3), (True, 2, 3), (True, 7, 8)]
)
@torch.no_grad()
def test_follows_its_formulas(attach, propagation, published, prompt_depth, depth):
    model = attach(depth, propagation=propagation, published=published, prompt_depth=prompt_depth)
    points = torch.randn(3, 80, 3)
    features = model.features(points)
    for cloud in range(3):
        x, s = restated(model, points[cloud])
        # float32; the stream grows over eight blocks
        close = {"atol": 1e-4 * max(x.abs().max().item(), 1), "rtol": 1e-3}
        torch.testing.assert_close(features.cls[cloud], x[0], **close)
        torch.testing.assert_close(features.patches[cloud], x[1:], **close)
        torch.testing.assert_close(features.prompts[cloud, 0], s, **close)
        head_in = torch.cat([x[0], x[1:].amax(0), s])
        torch.testing.assert_close(model(points)[cloud], model.head.layers(head_in), **close)


@torch.no_grad()
def test_what_the_released_neighbors_are(attach):
    """The released rows are shifted: they include prompts and never reach the last patches. Without
    prompts, both are the same."""
    points, differs = torch.randn(2, 80, 3), {}
    for depth in (1, 2):
        torch.manual_seed(1)
        ours = attach(prompt_depth=depth)
        theirs = attach(prompt_depth=depth, published=True)
        state = theirs.own_state()
        for entry, value in ours.own_state().items():
            state[entry].copy_(value)
        differs[depth] = (ours.features(points).patches - theirs.features(points).patches).norm()
    assert differs[1] > 1e-2 and differs[2] > 1e-2
    stack = theirs.backbone.blocks
    stack.prompt_depth = ours.backbone.blocks.prompt_depth = 0
    assert torch.equal(ours.features(points).patches, theirs.features(points).patches)


@torch.no_grad()
@pytest.mark.parametrize("published", [False, True])
def test_no_information_crosses_clouds(attach, published):
    model, points = attach(published=published), torch.randn(3, 80, 3)
    before = model(points)
    points[1] = torch.randn(80, 3) * 5
    after = model(points)
    assert torch.equal(after[[0, 2]], before[[0, 2]]) and not torch.equal(after[1], before[1])


@pytest.mark.parametrize("published", [False, True])
def test_published_counts(published):
    """27,660 of the published parameters never get a gradient; ours has them only on request."""
    backbone = dapt.create_backbone("point_mae", num_groups=128)
    model = dapt.attach(backbone, dapt.GaPrompt(published=published), dapt.Classification(15))
    dead = 6 * 10 * 384 + 12 * 385
    assert model.count_parameters()[0] == 628_147 - (0 if published else dead)
    if published:
        assert model.count_parameters()[1] == 22_453_195


def test_published_count_of_40_classes():
    backbone = dapt.create_backbone("point_mae", num_groups=64)
    model = dapt.attach(backbone, dapt.GaPrompt(published=True), dapt.Classification(40))
    assert model.count_parameters()[0] == 630_476


def test_drop_path_of_a_neighborhood_takes_the_second_half_of_it(attach, monkeypatch):
    model, seen = attach(), {}
    model.backbone.blocks.train()
    for block in model.backbone.blocks.frozen:
        block.drop_path = 0.5
    asked = []

    def drop_all(x, rate, training):
        asked.append((len(x), rate))
        return torch.zeros(len(x))

    monkeypatch.setattr(dapt.methods.ga_prompt, "drop_path_factor", drop_all)
    adapter = model.backbone.blocks.adapters[2].eval()
    adapter.norm.register_forward_pre_hook(lambda _, inputs: seen.update(around=inputs[0]))
    stack, x, centers = model.backbone.blocks, torch.randn(2, 12, 48), torch.randn(2, 11, 3)
    near = dapt.methods.ga_prompt.Neighborhoods(centers, dapt_ext.group(centers, 5, 4))
    stack._propagated(stack.frozen[2], adapter, x, near, 1)
    wanted = dapt_ext.gather(x[:, 1:], near.groups.patch_idx).amax(2)
    assert asked == [(10, 0.5)] and torch.equal(seen["around"], wanted.flatten(0, 1))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda build: dapt.GaPrompt(prompts=0), "prompts must be at least 1, got 0"),
        (lambda build: dapt.GaPrompt(rank=0), "rank must be from 1 to 256, got 0"),
        (lambda build: dapt.GaPrompt(dropout=1.0), "dropout must be at least 0 and below 1"),
        (lambda build: dapt.GaPrompt(propagation="no"), "propagation must be one of permutation_"),
        (
            lambda build: dapt.attach(build(), dapt.GaPrompt(prompts=12), TASK),
            "prompts must be at most the 11 patches, got 12",
        ),
        (
            lambda build: dapt.attach(build("point_m2ae"), dapt.GaPrompt(), TASK),
            "ga_prompt is for backbones of one scale",
        ),
        (
            lambda build: dapt.attach(build(), dapt.GaPrompt(), TASK).backbone(
                torch.randn(2, 80, 3)
            ),
            "ga_prompt needs the whole model",
        ),
        (
            lambda build: dapt.attach(build(), dapt.Reversible.on(dapt.GaPrompt()), TASK),
            "reversible works on one stack of plain blocks, not on that of .* GaPromptStack",
        ),
    ],
)
def test_mistakes(small_backbone, make, message):
    with pytest.raises(UsageError, match=message):
        make(small_backbone)
