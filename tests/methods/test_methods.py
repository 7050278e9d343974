"""Adapters on a backbone, and DAPT's formulas; test_every_method.py has the matrix."""

import copy
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dapt
from dapt.errors import UsageError
from dapt.methods import METHODS, Method, register
from support.methods import BACKBONES, assert_same_state, copy_of, randomize, train_steps


@pytest.mark.parametrize("memory", ["default", "low"])
@pytest.mark.parametrize("dropout, drop_path", [(0.0, 0.0), (0.5, 0.0), (0.0, 0.5)])
def test_what_chance_does_in_training(small_backbone, dropout, drop_path, memory):
    method = dapt.Dapt(rank=8, dropout=dropout, drop_path=drop_path, memory=memory)
    model = dapt.attach(small_backbone(), method, dapt.Classification(5, head="linear"))
    randomize(model)
    points = torch.randn(16, 80, 3)  # so many that at least one is certainly dropped
    evaluated = model.eval()(points)
    model.train()
    torch.manual_seed(0)
    one, two = model(points), model(points)
    torch.manual_seed(0)
    again = model(points)
    assert torch.equal(one, again)
    by_chance = dropout + drop_path > 0
    assert torch.equal(one, two) != by_chance and torch.equal(one, evaluated) != by_chance


def test_modes_of_what_is_frozen(small_backbone):
    def modes(method):
        model = dapt.attach(small_backbone(), method, dapt.Classification(5)).train()
        norms = [m for m in model.backbone.modules() if isinstance(m, nn.BatchNorm1d)]
        assert model.head.training
        return model.backbone.blocks[1].training, {norm.training for norm in norms}

    assert modes(dapt.Dapt()) == (True, {False})
    assert modes(dapt.Dapt(freeze_bn=False)) == (True, {True})
    assert modes(dapt.Full()) == (True, {True})
    assert modes(dapt.Linear()) == (False, {False})


def test_published_batch_norms_drift_and_are_the_adapters(small_backbone):
    backbone = small_backbone()
    statistic = "tokenizer.encoder.first.1.running_mean"
    before = backbone.get_buffer(statistic).clone()
    model = dapt.attach(backbone, dapt.Dapt(rank=4, freeze_bn=False), dapt.Classification(5))
    train_steps(model)
    assert not torch.equal(model.backbone.get_buffer(statistic), before)
    assert f"backbone.{statistic}" in model.own_state()
    dapt.detach(model)
    assert torch.equal(backbone.get_buffer(statistic), before)


def test_trainable_parameters_are_printed(capsys, small_backbone):
    model = dapt.attach(small_backbone(), dapt.Dapt(rank=4), dapt.Classification(5))
    trained, total = model.count_parameters()
    assert sum(weight.numel() for _, weight in model.own_parameters()) == trained
    model.print_trainable_parameters()
    assert capsys.readouterr().out.startswith(f"trainable: {trained:,} of {total:,} parameters (")


@pytest.mark.parametrize(
    "head_tokens",
    [
        None,
        ["cls"],
        ["cls", "prompt:mean"],
        ["cls", "prompt:max"],
        ["cls", "patch:mean"],
        ["cls", "patch:max"],
        ["cls", "prompt:mean", "patch:max"],
        ["prompt:max", "patch:mean"],
    ],
)
def test_all_head_tokens(small_backbone, head_tokens):
    method = dapt.Dapt(rank=4, head_tokens=head_tokens)
    model = dapt.attach(small_backbone(), method, dapt.Classification(5))
    wanted = head_tokens or ["cls", "prompt:mean", "patch:max"]
    assert model.head.layers[0].in_features == 48 * len(wanted)
    model(torch.randn(2, 80, 3)).sum().backward()
    assert all(weight.grad is not None for _, weight in model.own_parameters())


def scaled_and_shifted(wrapped, x):
    """A frozen layer, then its scale and shift, as two separate steps."""
    frozen = getattr(wrapped, "frozen", None)
    if isinstance(frozen, nn.LayerNorm):
        x = F.layer_norm(x, x.shape[-1:], frozen.weight, frozen.bias)
    elif isinstance(frozen, nn.Linear):
        x = F.linear(x, frozen.weight, frozen.bias)
    return wrapped.scale * x + wrapped.shift


def dapt_blocks(blocks, x, far=None):
    """DAPT as published, line by line; pairs of patches in ``far`` do not see each other."""
    layer = scaled_and_shifted
    for wrapped in blocks:
        block, adapter = wrapped.frozen, wrapped.adapter
        B, T, C = x.shape
        q, k, v = layer(block.attn.qkv, layer(block.norm1, x)).chunk(3, dim=-1)
        q, k, v = (t.view(B, T, block.attn.num_heads, -1).transpose(1, 2) for t in (q, k, v))
        logits = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5
        if far is not None:
            G = far.shape[-1]
            logits[:, :, T - G :, T - G :] -= 1e5 * far[:, None]
        x = x + layer(block.attn.proj, (logits.softmax(-1) @ v).transpose(1, 2).reshape(B, T, C))
        u = layer(block.norm2, x)
        z = adapter.norm(u)
        a = F.relu(adapter.scale(z)) * adapter.up(F.gelu(adapter.down(z)))
        x = x + layer(block.mlp.fc2, F.gelu(layer(block.mlp.fc1, u))) + a
        if wrapped.prompt is not None:
            prompt = scaled_and_shifted(wrapped.prompt, F.gelu(a).mean(1, keepdim=True))
            x = torch.cat([x[:, : wrapped.prompt_at], prompt, x[:, wrapped.prompt_at :]], 1)
    return x


def dapt_in_float64(model, points):
    groups = model.backbone.tokenizer.group(points)
    backbone = copy.deepcopy(model.backbone).double()
    tokenizer, B = backbone.tokenizer, len(points)
    x = scaled_and_shifted(tokenizer.project, tokenizer.encoder(groups.patches.double()))
    G, C = x.shape[1:]
    x = torch.cat([backbone.cls_token.expand(B, 1, C), x], 1)
    positions = backbone.pos_embed(groups.centers.double())
    x = x + torch.cat([backbone.cls_pos.expand(B, 1, C), positions], 1)
    x = scaled_and_shifted(backbone.norm, dapt_blocks(backbone.blocks, x))
    return x[:, :1], x[:, 1:-G], x[:, -G:]


@pytest.mark.parametrize("name", ["point_mae", "point_bert"])
def test_dapt_follows_its_formulas(small_backbone, name):
    model = dapt.attach(small_backbone(name), dapt.Dapt(rank=5), dapt.Classification(5)).eval()
    randomize(model)
    points = torch.randn(3, 80, 3)
    cls, prompts, patches = dapt_in_float64(model, points)
    features = model.backbone(points)
    close = {"atol": 1e-4, "rtol": 1e-4}  # float32
    torch.testing.assert_close(features.cls.double(), cls[:, 0], **close)
    torch.testing.assert_close(features.prompts.double(), prompts, **close)
    torch.testing.assert_close(features.patches.double(), patches, **close)


def dapt_m2ae_in_float64(model, points):
    backbone = copy.deepcopy(model.backbone).double()
    centers, x = points, None
    for scale, grouping in zip(backbone.scales, model.backbone.scales, strict=True):
        groups = grouping.tokenizer.group(centers)
        centers, tokenizer = groups.centers, scale.tokenizer
        if x is None:
            patches = groups.patches.double()
        else:
            clouds = torch.arange(len(points))[:, None, None]
            patches = x[clouds, groups.patch_idx]
        x = scaled_and_shifted(tokenizer.project, tokenizer.encoder(patches))
        distance = (centers[:, :, None] - centers[:, None]).double().norm(dim=3)
        x = x + scale.pos_embed(centers.double())
        all_tokens = dapt_blocks(scale.blocks, x, far=(distance >= scale.radius).double())
        x = all_tokens[:, -x.shape[1] :]
    all_tokens, G = scaled_and_shifted(backbone.norm, all_tokens), x.shape[1]
    return all_tokens[:, :-G], all_tokens[:, -G:]


def test_dapt_follows_its_formulas_on_every_scale(small_backbone):
    model = dapt.attach(small_backbone("point_m2ae"), dapt.Dapt(rank=5), dapt.Classification(5))
    randomize(model.eval())
    points = torch.randn(3, 80, 3)
    prompts, patches = dapt_m2ae_in_float64(model, points)
    features = model.backbone(points)
    close = {"atol": 1e-4, "rtol": 1e-4}  # float32
    torch.testing.assert_close(features.prompts.double(), prompts, **close)
    torch.testing.assert_close(features.patches.double(), patches, **close)


def test_a_dropped_path_leaves_its_cloud_as_it_was(small_backbone, monkeypatch):
    method = dapt.Dapt(rank=5, drop_path=0.3)
    model = dapt.attach(small_backbone(), method, dapt.Classification(5)).train()
    randomize(model)
    rates = []

    def drop_the_first_cloud(x, rate, training):
        rates.append(rate)
        return torch.tensor([0.0, 1.0])

    monkeypatch.setattr(dapt.methods.dapt, "drop_path_factor", drop_the_first_cloud)
    x = torch.randn(2, 12, 48)
    for block in model.backbone.blocks[1:]:
        out = block(x, positions=None)
        without_prompt = torch.cat([out[:, :1], out[:, 2:]], 1)
        assert torch.equal(without_prompt[0], x[0]) and not torch.equal(without_prompt[1], x[1])
    assert rates == pytest.approx([0.15, 0.15, 0.3, 0.3])


def test_dapt_on_scales_of_scales(small_backbone):
    """Each scale of Point-M2AE has its own prompts, and only those of the last reach the head."""
    model = dapt.attach(small_backbone("point_m2ae"), dapt.Dapt(rank=5), dapt.Classification(5))
    assert model.backbone(torch.randn(3, 80, 3)).prompts.shape == (3, 2, 48)
    assert model.head.pool.head_tokens == ("prompt:mean", "patch:mean", "patch:max_but_first")
    prompts = [[block.prompt is not None for block in stack] for stack in model.backbone.stacks]
    assert prompts == [[True, False], [False], [True, True]]


def kept_for_backward(model, points):
    """The loss, and the bytes of activations that autograd keeps to differentiate it."""
    weights = {value.untyped_storage().data_ptr() for value in model.state_dict().values()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage  # kept alive, so that its address is not reused
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(points).square().sum()
    return loss, sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("name", ["point_mae", "point_m2ae"])
def test_low_memory_gives_the_same_gradients(small_backbone, name):
    gradients, kept = [], []
    points = torch.randn(4, 80, 3)
    for memory in ("default", "low"):
        torch.manual_seed(0)
        method = dapt.Dapt(rank=5, memory=memory)
        model = dapt.attach(small_backbone(name), method, dapt.Classification(5)).train()
        randomize(model)
        loss, bytes_kept = kept_for_backward(model, points)
        loss.backward()
        kept.append(bytes_kept)
        gradients.append({n: w.grad for n, w in model.own_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)
    assert kept[1] < kept[0] / 2


@pytest.mark.parametrize("memory, mebibytes", [("default", 260), ("low", 70)])
def test_memory_at_the_published_size(memory, mebibytes):
    """The limits are for 8 clouds, of which two are tried."""
    backbone = dapt.create_backbone("point_mae", num_groups=128)
    model = dapt.attach(backbone, dapt.Dapt(memory=memory), dapt.Classification(15)).train()
    _, bytes_kept = kept_for_backward(model, torch.randn(2, 1024, 3))
    assert bytes_kept <= 2 / 8 * mebibytes * 2**20


def test_several_adapters_on_one_backbone(small_backbone):
    backbone, points = small_backbone(), torch.randn(4, 80, 3)
    with torch.no_grad():
        pretrained = backbone.eval()(points)
    before = copy_of(backbone.state_dict())
    model = dapt.attach(backbone, dapt.Dapt(rank=4), dapt.Classification(5), name="chairs")
    train_steps(model)
    chairs = model.eval()(points)
    weight = backbone.blocks[0].attn.qkv.weight

    model.add_adapter("tables", dapt.Dapt(rank=6, head_tokens=["cls"]), dapt.Classification(3))
    assert model.backbone.blocks[0].frozen.attn.qkv.frozen.weight is weight  # nothing is copied
    assert model.active == "tables" and model(points).shape == (4, 3)
    model.add_adapter("everything", dapt.Full(), dapt.Classification(5))
    train_steps(model)
    model.eval()

    model.set_adapter("chairs")
    assert torch.equal(model(points), chairs)
    assert all(w.requires_grad == model.owns(name) for name, w in model.named_parameters())
    with model.pretrained() as network:
        assert torch.equal(network(points).patches, pretrained.patches)
    assert torch.equal(model(points), chairs)

    with pytest.raises(UsageError, match="already carries an adapter named 'chairs'"):
        model.add_adapter("chairs", dapt.Linear(), dapt.Classification(5))
    with pytest.raises(UsageError, match="no adapter named 'lamps'; it carries chairs, tables"):
        model.set_adapter("lamps")
    model.delete_adapter("tables")
    assert list(model.adapters) == ["chairs", "everything"]
    assert_same_state(dapt.detach(model).state_dict(), before)


def test_a_backbone_carries_one_model(small_backbone):
    backbone = small_backbone()
    model = dapt.attach(backbone, dapt.Linear(), dapt.Classification(5))
    with pytest.raises(UsageError, match="already carries an adapter"):
        dapt.attach(backbone, dapt.Linear(), dapt.Classification(5))
    dapt.detach(model)
    with pytest.raises(UsageError, match="head_tokens"):
        dapt.attach(backbone, dapt.Dapt(head_tokens=["cls", "none"]), dapt.Classification(5))
    assert "adapter" not in " ".join(backbone.state_dict())
    dapt.attach(backbone, dapt.Dapt(), dapt.Classification(5))


def test_a_backbone_is_a_network():
    with pytest.raises(UsageError, match="create_backbone, got a str"):
        dapt.attach("point_mae", dapt.Linear(), dapt.Classification(5))


def test_a_network_without_class_token_has_none_to_read(small_backbone):
    backbone = small_backbone(class_token=False)
    with pytest.raises(UsageError, match="no class token"):
        dapt.attach(backbone, dapt.Dapt(head_tokens=["cls"]), dapt.Classification(5))
    model = dapt.attach(backbone, dapt.Dapt(), dapt.Classification(5))
    assert model(torch.randn(2, 80, 3)).shape == (2, 5)


@pytest.mark.parametrize("name", BACKBONES)
def test_merge(small_backbone, name):
    model = dapt.attach(small_backbone(name), dapt.Dapt(rank=4), dapt.Classification(5)).eval()
    randomize(model)
    points = torch.randn(4, 80, 3)
    before = model(points)
    merged = dapt.merge(model)
    torch.testing.assert_close(merged(points), before, atol=1e-5, rtol=1e-4)  # up to rounding
    left = {type(m).__name__ for m in merged.modules()}
    assert not left & {"ScaleShiftLinear", "ScaleShiftNorm"}
    assert not any(weight.requires_grad for weight in merged.parameters())
    for forbidden in (
        merged.detach,
        merged.merge,
        lambda: merged.save_adapter("nowhere"),
        lambda: merged.add_adapter("other", dapt.Linear(), dapt.Classification(5)),
    ):
        with pytest.raises(UsageError, match="a merged model cannot"):
            forbidden()


def test_positions_in_each_block(small_backbone):
    """All tokens but the prompts get their positions again, before every block."""
    method = dapt.Dapt(rank=4, positions="each_block")
    model = dapt.attach(small_backbone(depth=3), method, dapt.Classification(5)).eval().double()
    randomize(model)
    network, points = model.backbone, torch.randn(2, 80, 3, dtype=torch.float64)
    positions = []
    hook = network.blocks[0].register_forward_pre_hook(lambda _, given: positions.extend(given[:2]))
    found = network(points)
    hook.remove()
    x, added = positions
    for prompts, block in enumerate(network.blocks):
        placed = x.clone()
        placed[:, 0] += added[:, 0]
        placed[:, 1 + prompts :] += added[:, 1:]
        x = block.transform(block.attend(placed))
    assert torch.equal(network.norm(x)[:, -found.patches.shape[1] :], found.patches)


def test_a_copy_stands_alone(small_backbone):
    model = dapt.attach(small_backbone(), dapt.Dapt(rank=4), dapt.Classification(5)).eval()
    other, points = copy.deepcopy(model), torch.randn(2, 80, 3)
    expected = model(points)
    randomize(model)
    assert torch.equal(other(points), expected)
    detached = dapt.detach(other)
    assert "adapter" not in " ".join(detached.state_dict())
    assert "backbone.blocks.0.adapter.up.weight" in model.state_dict()


def test_settings_are_checked():
    for wrong, message in (
        ({"rank": 0}, "rank must be from 1 to 256, got 0"),
        ({"rank": 257}, "rank must be from 1 to 256, got 257"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, got 1.0"),
        ({"drop_path": -0.1}, "drop_path must be at least 0"),
        ({"positions": "never"}, "positions must be 'once' or 'each_block', got 'never'"),
        ({"memory": "none"}, "memory must be 'default' or 'low', got 'none'"),
    ):
        with pytest.raises(UsageError, match=message):
            dapt.Dapt(**wrong)


def test_registration_fails_on_a_wrong_name():
    @dataclass(frozen=True)
    class Misnamed(Method):
        def wrap(self, backbone, replacements):
            pass

        def owns(self, entry):
            return False

    with pytest.raises(NameError, match="must have the name of its file, 'test_methods'"):
        register("misnamed")(Misnamed)
    register("test_methods")(Misnamed)
    try:
        with pytest.raises(NameError, match="registered twice"):
            register("test_methods")(Misnamed)
    finally:
        del METHODS["test_methods"]
    assert all(METHODS[name].name == name for name in METHODS)
    with pytest.raises(UsageError, match="unknown method 'lora': did you mean peft:lora"):
        dapt.methods.method_class("lora")
    with pytest.raises(UsageError, match="unknown method 'dapr': choose one of adapter, dapt,"):
        dapt.methods.method_class("dapr")


@pytest.mark.parametrize("claim", ["norm.weight", "pos_embed.0.weight"])
def test_a_predicate_that_does_not_fit_is_refused(small_backbone, claim):
    class Confused(dapt.Linear):
        def wrap(self, backbone, replacements):
            replacements.own(backbone.norm, "weight")

        def owns(self, entry):
            return claim == "pos_embed.0.weight" and entry in ("norm.weight", claim)

    backbone = small_backbone()
    with pytest.raises(TypeError, match=f"says it .* '{claim}'"):
        dapt.attach(backbone, Confused(), dapt.Classification(5))
    # the failure left the backbone unchanged
    dapt.attach(backbone, dapt.Linear(), dapt.Classification(5))


def test_data_parallel_with_prompts_that_no_head_reads(small_backbone, one_process_group):
    method = dapt.Dapt(rank=4, head_tokens=["cls"])
    model = dapt.attach(small_backbone(), method, dapt.Classification(5))
    parallel = nn.parallel.DistributedDataParallel(model.train())
    for _ in range(2):
        parallel(torch.randn(4, 80, 3)).sum().backward()


def test_compiles_whole(small_backbone, fresh_compiler):
    method = dapt.Dapt(rank=4, dropout=0.0, drop_path=0.0)
    model = dapt.attach(small_backbone(depth=1), method, dapt.Classification(5, dropout=0.0))
    randomize(model)
    points = torch.randn(2, 80, 3)
    model.train()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(points), model(points), atol=1e-4, rtol=1e-4)
    compiled(points).sum().backward()
    assert all(weight.grad is not None for _, weight in model.own_parameters())


def test_nothing_to_prepare(small_backbone):
    model = dapt.attach(small_backbone(), dapt.Dapt(rank=4), dapt.Classification(5))
    before = copy_of(model.state_dict())
    model.prepare([torch.randn(2, 80, 3)])
    assert_same_state(model.state_dict(), before)
