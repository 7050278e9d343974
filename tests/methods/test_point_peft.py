"""Point-PEFT: its formulas, its memory bank, and clouds that do not see each other."""

import os
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F

import dapt
import dapt_ext
from dapt.errors import DaptError, UsageError
from dapt.methods.memory import _of_all_processes
from support.methods import randomize

METHOD = dapt.PointPeft(prompts=5, prompt_depth=2, geometry_dim=12, neighbors=4)
TASK = dapt.Classification(5)


def bottleneck(layers, x):
    hidden = layers.down(x)
    return layers.up(hidden * torch.sigmoid(1.702 * hidden))


@pytest.fixture
def model(small_backbone):
    model = dapt.attach(small_backbone(), METHOD, TASK)
    model.prepare([torch.randn(4, 80, 3), torch.randn(3, 80, 3)])
    randomize(model)
    with torch.no_grad():  # the prompts lie among the patches, so that some are sampled
        model.backbone.blocks.shared.coordinates.normal_()
        for adapter in model.backbone.blocks.adapters:
            adapter.norm.running_mean.normal_(std=0.1)
            adapter.norm.running_var.uniform_(0.5, 2.0)
    return model.eval()


def prior_of(bank, feature, num_nearest):
    """The published formula for one cloud."""
    similarities = (bank @ (feature / feature.norm())).tolist()
    order = sorted(range(len(bank)), key=lambda row: -similarities[row])[:num_nearest]
    nearest = bank[order]
    weights = torch.tensor([similarities[row] for row in order]).softmax(0)
    return torch.cat([feature[None], (weights[:, None] * nearest).sum(0)[None], nearest])


def farthest_points(coordinates, count):
    chosen = [0]
    while len(chosen) < count:
        distance = torch.cdist(coordinates, coordinates[chosen]).amin(1)
        chosen.append(int(distance.argmax()))
    return chosen


def geometry_aware(shared, adapter, x, coordinates, num_centers, neighbors):
    """The adapter applied to one cloud's tokens, neighborhood by neighborhood."""
    chosen, rows = farthest_points(coordinates, num_centers), []
    for center in chosen:
        distance = (coordinates - coordinates[center]).square().sum(1)
        n = x[distance.argsort(stable=True)[:neighbors]]
        q, k, v = shared.qkv(shared.norm(n)).chunk(3, dim=1)
        q, k, v = (t.view(neighbors, 6, -1).transpose(0, 1) for t in (q, k, v))
        # the released code scales by the width of all heads together (18), not of one head (3)
        attention = (q @ k.transpose(1, 2) * METHOD.geometry_dim**-0.5).softmax(-1) @ v
        n = n + shared.proj(attention.transpose(0, 1).reshape(neighbors, -1))
        norm = adapter.norm
        pooled = (n.amax(0) - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
        rows.append(F.gelu(pooled * norm.weight + norm.bias) + 0.3 * x[center])
    weights = 1 / (torch.cdist(coordinates, coordinates[chosen]).square() + 1e-8)
    return x + 0.3 * (weights / weights.sum(1, keepdim=True)) @ torch.stack(rows)


def restated(model, cloud):
    """One cloud's tokens after the last block, by the formulas."""
    backbone, stack = model.backbone, model.backbone.blocks
    with model.pretrained() as network:
        feature = network(cloud).patches.amax(1)[0]
    prior = prior_of(backbone.memory.bank, feature, METHOD.prompts - 2)
    groups = backbone.tokenizer.group(cloud)
    x = torch.cat([backbone.cls_token[0], backbone.tokenizer.encode(groups.patches)[0]])
    positions = torch.cat([backbone.cls_pos[0], backbone.pos_embed(groups.centers)[0]])
    G = len(x) - 1
    for i, (block, adapter) in enumerate(zip(stack.frozen, stack.adapters, strict=True)):
        x, coordinates, prompts = x + positions, groups.centers[0], 0
        if i < METHOD.prompt_depth:
            rows = adapter.prompt_tokens + prior + bottleneck(adapter.from_prior, prior)
            x = torch.cat([x[:1], rows, x[1:]])
            coordinates = torch.cat([stack.shared.coordinates, coordinates])
            prompts = METHOD.prompts
        x = x + block.attn(block.norm1(x)[None])[0]
        m = block.mlp(block.norm2(x))
        x = x + m + 0.7 * bottleneck(adapter.feed_forward, m)
        seen = geometry_aware(stack.shared, adapter, x[1:], coordinates, G // 2, METHOD.neighbors)
        x = torch.cat([x[:1], seen])
        x = x + bottleneck(adapter.after_geometry, x)
        x = torch.cat([x[:1], x[1 + prompts :]])
    return backbone.norm(x)


@torch.no_grad()
def test_follows_its_formulas(model):
    points = torch.randn(3, 80, 3)
    model(points)  # prompts need a whole model
    method, backbone = model.adapter.method, model.backbone
    features = method.features(backbone, points, ())
    for cloud in range(3):
        wanted = restated(model, points[cloud : cloud + 1])
        close = {"atol": 1e-4, "rtol": 1e-4}  # float32, twelve sums in a row
        torch.testing.assert_close(features.cls[cloud], wanted[0], **close)
        torch.testing.assert_close(features.patches[cloud], wanted[1:], **close)


def test_what_drop_path_covers(small_backbone, monkeypatch):
    """As released: a cloud's MLP, without its adapter, and a neighborhood's attention."""
    model = dapt.attach(small_backbone(drop_path=0.4), METHOD, TASK).train()
    model.prepare([torch.randn(4, 80, 3)])
    randomize(model)
    asked = []

    def drop_all(x, rate, training):
        asked.append((len(x), rate))
        return torch.zeros(len(x))

    monkeypatch.setattr(dapt.methods.point_peft, "drop_path_factor", drop_all)
    stack = model.backbone.blocks
    block, adapter = stack.frozen[2], stack.adapters[2]
    x, centers = torch.randn(2, 12, 48), torch.randn(2, 11, 3)
    geometry = stack._geometry(centers, prompted=False)
    got = stack._run(block, adapter.eval(), x, None, geometry)
    assert asked == [(2, 0.4), (2 * 5, 0.4)]

    wanted = x + block.attn(block.norm1(x))
    wanted = wanted + 0.7 * bottleneck(adapter.feed_forward, torch.zeros_like(x))
    # unchanged, since the attention was dropped
    n = dapt_ext.gather(wanted[:, 1:], geometry.groups.patch_idx)
    seen = F.gelu(adapter.norm(n.amax(2).flatten(0, 1)).view(2, 5, 48))
    seen = seen + 0.3 * dapt_ext.gather(wanted[:, 1:], geometry.groups.center_idx)
    spread = dapt_ext.interpolate(centers, geometry.groups.centers, seen, k=5)
    wanted = torch.cat([wanted[:, :1], wanted[:, 1:] + 0.3 * spread], 1)
    wanted = wanted + bottleneck(adapter.after_geometry, wanted)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_threads_do_not_see_each_other(model):
    clouds = torch.randn(24, 2, 80, 3)
    wanted = [model(points) for points in clouds]
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(torch.no_grad()(model), clouds))
    assert all(map(torch.equal, got, wanted))


@torch.no_grad()
def test_in_double_precision(model):
    points = torch.randn(3, 80, 3)
    wanted = model(points)
    got = model.double()(points.double())
    assert got.dtype == torch.float64
    torch.testing.assert_close(got.float(), wanted, atol=1e-4, rtol=1e-4)


def test_no_information_crosses_clouds(model):
    points = torch.randn(3, 80, 3)
    before = model(points)
    points[1] = torch.randn(80, 3) * 5
    after = model(points)
    assert torch.equal(after[[0, 2]], before[[0, 2]]) and not torch.equal(after[1], before[1])


def test_the_memory_holds_what_the_pretrained_network_makes_of_clouds(small_backbone):
    clouds = torch.randn(7, 80, 3)
    with torch.no_grad():
        features = small_backbone().eval()(clouds).patches.amax(1)
    model = dapt.attach(small_backbone(), METHOD, TASK)
    randomize(model)  # learned weights must not matter
    model.train().prepare(clouds.split([3, 4]))
    bank = model.backbone.memory.bank
    torch.testing.assert_close(bank, F.normalize(features, dim=1))
    assert "backbone.memory.bank" in model.own_state()


@torch.no_grad()
def test_removing_a_cloud_changes_what_the_formula_says(model):
    memory, points = model.backbone.memory, torch.randn(1, 80, 3)
    bank, feature = memory.bank, memory.feature(points)[0]
    order = (bank @ F.normalize(feature, dim=0)).argsort(descending=True)
    before, logits = memory(points), model(points)
    near, far = order[1], order[-1]

    memory.bank = bank[torch.arange(len(bank)) != far]
    assert torch.equal(memory(points), before) and torch.equal(model(points), logits)

    memory.bank = bank[torch.arange(len(bank)) != near]
    wanted = prior_of(memory.bank, feature, METHOD.prompts - 2)
    torch.testing.assert_close(memory(points)[0], wanted, atol=1e-5, rtol=1e-5)
    assert torch.equal(memory(points)[0, 0], before[0, 0])  # the cloud's own feature
    assert not torch.equal(model(points), logits)


def test_a_small_memory_gives_its_rows_more_than_once(small_backbone):
    model = dapt.attach(small_backbone(), METHOD, TASK)
    model.prepare([torch.randn(2, 80, 3)])
    rows = model.backbone.memory(torch.randn(1, 80, 3))[0, 2:]
    assert len(rows) == 3 and torch.equal(rows[0], rows[2])


def test_without_its_memory_it_says_so(small_backbone, tmp_path):
    model = dapt.attach(small_backbone(), METHOD, TASK)
    with pytest.raises(UsageError, match="memory of point_peft is empty: call model.prepare"):
        model(torch.randn(2, 80, 3))
    with pytest.raises(UsageError, match="clouds must hold at least one batch"):
        model.prepare([])
    model.prepare([torch.randn(4, 80, 3)])
    with pytest.raises(UsageError, match="needs the whole model"):
        model.backbone(torch.randn(2, 80, 3))
    state = model.own_state()
    state["backbone.memory.bank"] = torch.zeros(4, 7)
    with pytest.raises(DaptError, match=r"'backbone.memory.bank' is \[4, 7\], wanted \[4, 48\]"):
        model.load_own_state(state)


def test_the_memory_grows_to_a_saved_one(small_backbone, model):
    again = dapt.attach(small_backbone(), METHOD, TASK).eval()
    again.load_own_state(model.own_state())
    points = torch.randn(2, 80, 3)
    assert torch.equal(again(points), model(points))


def test_prompts_only_in_the_last_scale(small_backbone):
    model = dapt.attach(small_backbone("point_m2ae"), METHOD, TASK)
    has = [[a.prompt_tokens is not None for a in stack.adapters] for stack in model.backbone.stacks]
    assert has == [[False, False], [False], [True, True]]


def work(rank, port, rows, results):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    torch.save(_of_all_processes(rows[:3] if rank == 0 else rows[3:]), results / str(rank))
    dist.destroy_process_group()


@pytest.mark.slow
def test_processes_share_one_memory(tmp_path):
    rows = torch.randn(8, 5)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(work, (port, rows, tmp_path), nprocs=2)
    for rank in ("0", "1"):
        assert torch.equal(torch.load(tmp_path / rank, weights_only=True), rows)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"prompts": 2}, "prompts must be at least 3, got 2"),
        ({"prompt_depth": 0}, "prompt_depth must be at least 1"),
        ({"geometry_dim": 20}, "geometry_dim must be a multiple of 6, got 20"),
        ({"dropout": 1.0}, "dropout must be at least 0"),
    ],
)
def test_settings_are_checked(fields, message):
    with pytest.raises(UsageError, match=message):
        dapt.PointPeft(**fields)
