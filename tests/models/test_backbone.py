"""Backbones compared with plain restatements of their formulas."""

import copy

import pytest
import torch
import torch.nn.functional as F

import dapt
import dapt_ext
from dapt.errors import UsageError
from dapt.models import BACKBONES, MaskedAutoencoder, blocks, count_parameters
from dapt.models.drop_path import add_branch, drop_path_factor, of_kept
from dapt.models.transformer import Features
from dapt.tasks.heads import ClassificationHead, Pool
from dapt_ext.compat.knn_cuda import KNN
from dapt_ext.compat.pointnet2_ops import pointnet2_utils
from support.methods import FAMILY, TASK

# float32 compared with float64 after a few layers of width 50
CLOSE = {"atol": 1e-4, "rtol": 1e-4}


def published_patch_encoder(encoder, patches):
    """As published, in float64: 1x1 convolutions, with the global feature concatenated first."""
    B, G, K, D = patches.shape
    conv1, norm1, _, conv2 = copy.deepcopy(encoder.first).double()
    conv3, norm2, _, conv4 = copy.deepcopy(encoder.second).double()

    def conv(linear, x):
        return F.conv1d(x, linear.weight[..., None], linear.bias)

    x = patches.double().reshape(B * G, K, D).transpose(1, 2)
    x = conv(conv2, F.relu(norm1(conv(conv1, x))))  # [BG, middle, K]
    x = torch.cat([x.amax(2, keepdim=True).expand_as(x), x], 1)
    return conv(conv4, F.relu(norm2(conv(conv3, x)))).amax(2).view(B, G, -1)


@pytest.mark.parametrize("training", [True, False])
def test_patch_encoder(small_backbone, training):
    encoder = small_backbone().tokenizer.encoder.train(training)
    patches = torch.randn(3, 5, 7, 3)
    expected = published_patch_encoder(encoder, patches)
    torch.testing.assert_close(encoder(patches).double(), expected, **CLOSE)  # layer by layer
    with torch.no_grad():  # fused in eval mode
        torch.testing.assert_close(encoder(patches).double(), expected, **CLOSE)


def test_patch_encoder_is_fused_where_nothing_learns(small_backbone, monkeypatch):
    encoder, patches = small_backbone().tokenizer.encoder, torch.randn(2, 3, 4, 3)
    calls, fused = [], dapt_ext.patch_encoder
    monkeypatch.setattr(dapt_ext, "patch_encoder", lambda *args: calls.append(1) or fused(*args))

    encoder.train()(patches)
    encoder.eval()(patches)  # not fused: its weights require a gradient
    assert not calls
    encoder.requires_grad_(False)(patches)
    assert len(calls) == 1
    encoder(patches.requires_grad_())  # not fused: a gradient flows through it
    encoder.train()(patches)
    assert len(calls) == 1


@pytest.mark.parametrize(
    "name", ["point_mae", "point_m2ae", "point_gpt_s", "recon_pp_small", "uni3d_tiny"]
)
def test_sampling_as_published_networks_do(small_backbone, name):
    """The network sees exactly what pointnet2's sampling and KNN_CUDA's search return."""
    points = torch.randn(2, 120, 3)
    points[:, 12:] *= 0.01  # most are near the origin, and would be centers if not skipped
    backbone = small_backbone(name, near_origin="skip").eval()
    tokenizer = backbone.tokenizers[0]
    G, K = tokenizer.num_groups, tokenizer.group_size
    idx = pointnet2_utils.furthest_point_sample(points, G)
    centers = pointnet2_utils.gather_operation(points.transpose(1, 2), idx).transpose(1, 2)
    _, near = KNN(K, transpose_mode=True)(points, centers)
    groups = backbone.tokenizers[0].group(points)
    # patches follow a walk
    order = (groups.centers[:, :, None] == centers[:, None]).all(-1).int().argmax(-1)
    assert torch.equal(groups.centers, dapt_ext.gather(centers, order))
    assert torch.equal(groups.patch_idx, dapt_ext.gather(near, order))
    plain = small_backbone(name).eval()
    assert plain.config.near_origin == "keep"
    assert not torch.equal(plain.tokenizers[0].group(points).centers, groups.centers)
    plain.tokenizers[0].near_origin = "skip"  # also works on an existing backbone
    for other in plain.tokenizers[1:]:
        other.near_origin = "skip"
    assert torch.equal(plain(points).patches, backbone(points).patches)


def test_near_origin_is_kept_or_skipped(small_backbone):
    with pytest.raises(UsageError, match="near_origin must be 'keep' or 'skip', got 'no'"):
        small_backbone(near_origin="no")


@pytest.mark.parametrize("method", ["ga_prompt", "point_peft", "point_lora", "ppt, other patches"])
def test_what_methods_sample_follows_the_backbone(small_backbone, monkeypatch, method):
    told = []
    group = dapt_ext.group
    monkeypatch.setattr(
        dapt_ext, "group", lambda *a, **k: told.append(k.get("near_origin")) or group(*a, **k)
    )
    model = dapt.attach(small_backbone(near_origin="skip"), FAMILY[method], TASK)
    points = torch.randn(2, 120, 3)
    model.prepare(points)
    model(points)
    assert len(told) > 1 and set(told) == {"skip"}


def plain_forward(backbone, points):
    """Point-MAE's network in float64, with explicit attention; each block adds the position."""
    groups = backbone.tokenizer.group(points)
    backbone = copy.deepcopy(backbone).double()
    tokens = published_patch_encoder(backbone.tokenizer.encoder, groups.patches)
    x = backbone.tokenizer.project(tokens)
    B, G, C = x.shape
    x = torch.cat([backbone.cls_token.expand(B, 1, C), x], 1)
    positions = backbone.pos_embed(groups.centers.double())
    positions = torch.cat([backbone.cls_pos.expand(B, 1, C), positions], 1)
    heads = backbone.config.num_heads
    for block in backbone.blocks:
        x = x + positions
        q, k, v = block.attn.qkv(block.norm1(x)).chunk(3, dim=-1)
        q, k, v = (t.view(B, G + 1, heads, -1).transpose(1, 2) for t in (q, k, v))
        weights = (q @ k.transpose(2, 3) * (C // heads) ** -0.5).softmax(-1)
        x = x + block.attn.proj((weights @ v).transpose(1, 2).reshape(B, G + 1, C))
        x = x + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(x))))
    return backbone.norm(x)


@pytest.mark.parametrize("name", ["point_mae", "point_bert"])
def test_point_transformer(small_backbone, name):
    backbone, points = small_backbone(name).eval(), torch.randn(3, 70, 3)
    expected = plain_forward(backbone, points)
    features = backbone(points, levels=(0, 2))
    torch.testing.assert_close(features.cls.double(), expected[:, 0], **CLOSE)
    torch.testing.assert_close(features.patches.double(), expected[:, 1:], **CLOSE)
    assert features.prompts.shape == (3, 0, 48) and len(features.levels) == 2
    assert torch.equal(features.levels[-1], features.patches)
    assert not torch.equal(features.levels[0], features.patches)


def test_point_m2ae_attends_within_the_radius(small_backbone):
    """Moving one cluster of points changes nothing for another one that is out of reach."""
    backbone = small_backbone("point_m2ae", radius=(0.5, 1.0, 2.0)).eval()
    torch.manual_seed(0)
    near = 0.1 * torch.randn(2, 60, 3)
    far = 0.1 * torch.randn(2, 60, 3) + 10
    features = backbone(torch.cat([near, far], 1))
    changed = backbone(torch.cat([near, far + 0.5], 1))
    is_near = features.centers.norm(dim=2) < 5
    assert is_near.any() and not is_near.all()
    same = (features.patches == changed.patches).all(2)
    assert same[is_near].all() and not same[~is_near].any()


def test_clouds_do_not_mix(small_backbone):
    for name in ("point_mae", "point_m2ae"):
        backbone, points = small_backbone(name).eval(), torch.randn(3, 100, 3)
        other = points.clone()
        other[1] = torch.randn(100, 3)
        one, two = backbone(points).patches, backbone(other).patches
        assert torch.equal(one[[0, 2]], two[[0, 2]]) and not torch.equal(one[1], two[1])


def test_sizes_by_name_and_by_field():
    for name, config in BACKBONES.items():
        if hasattr(config, "depth"):  # single-scale
            assert dapt.create_backbone(name, depth=1).config.depth == 1
    assert count_parameters(dapt.create_backbone("point_mae_tiny")) < 4e6  # 8 MB in float16


@pytest.mark.parametrize(
    "name, fields, message",
    [
        ("point_net", {}, "unknown backbone 'point_net': choose one of act"),
        ("point_mae", {"layers": 3}, "no field 'layers'; it has .*num_groups"),
        ("point_mae", {"num_heads": 7}, "num_heads must divide dim=384, got 7"),
        ("point_m2ae", {"depths": (5, 5)}, "depths must have a value for each of the 3 scales"),
    ],
)
def test_impossible_sizes_are_refused(name, fields, message):
    with pytest.raises(UsageError, match=message):
        dapt.create_backbone(name, **fields)


def test_full_fine_tuning_counts():
    for classes, expected in ((15, 22_093_327), (40, 22_099_752)):
        model = dapt.attach(
            dapt.create_backbone("point_mae"), dapt.Full(), dapt.Classification(classes)
        )
        assert model.count_parameters() == (expected, expected)
    point_bert = dapt.Classification(40, head="point_bert")
    model = dapt.attach(dapt.create_backbone("point_bert"), dapt.Full(), point_bert)
    assert model.count_parameters()[0] == 22_065_960
    backbone = dapt.create_backbone("point_m2ae")
    model = dapt.attach(backbone, dapt.Full(), dapt.Classification(15))
    assert model.count_parameters()[0] == 12_921_935


def test_drop_path():
    torch.manual_seed(0)
    x = torch.ones(20_000, 1, 1)
    factor = drop_path_factor(x, 0.3, training=True)
    assert factor.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    # six standard deviations
    assert (factor == 0).float().mean().item() == pytest.approx(0.3, abs=0.02)
    assert torch.equal(add_branch(x, 2 * x, factor)[:, 0, 0], 1 + 2 * factor)
    assert drop_path_factor(x, 0.3, training=False) is None
    assert drop_path_factor(x, 0.0, training=True) is None


@pytest.mark.parametrize("kept", [(0, 2, 3), (1,), (), (0, 1, 2, 3)])
def test_a_dropped_branch_is_not_computed(kept):
    """Yet everything is as if it had been computed: the value and all gradients."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(6, 6).double()
    factor = torch.zeros(4, dtype=torch.float64)
    factor[list(kept)] = 1.5
    seen, results = [], []

    def branch(x):
        seen.append(len(x))
        return layer(x).relu()

    for drops in (False, True):
        x = torch.randn(4, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        x.requires_grad_()
        layer.zero_grad()
        out = add_branch(x, of_kept(branch, x, factor) if drops else branch(x), factor)
        out.square().sum().backward()
        results.append([out.detach(), x.grad, layer.weight.grad, layer.bias.grad])
    assert seen == [4, max(len(kept), 1)]
    for mine, exact in zip(*results, strict=True):
        torch.testing.assert_close(mine, exact)


def test_drop_path_grows_with_depth(small_backbone, monkeypatch):
    backbone = small_backbone(drop_path=0.4)
    assert [block.drop_path for block in backbone.blocks] == pytest.approx([0.0, 0.2, 0.4])
    stacks = small_backbone("point_m2ae", drop_path=0.4).stacks
    rates = [block.drop_path for stack in stacks for block in stack]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])

    drop_all = torch.zeros(2)
    monkeypatch.setattr(blocks, "drop_path_factor", lambda *args: drop_all)
    x, positions = torch.randn(2, 2, 12, 48)
    assert torch.equal(backbone.blocks[0](x, positions), x + positions)


def test_head_tokens():
    features = Features(
        torch.randn(3, 8), torch.randn(3, 4, 8), torch.randn(3, 6, 8), torch.randn(3, 6, 3)
    )
    cls, prompts, patches = (t.numpy() for t in features[:3])
    expected = {
        "cls": cls,
        "prompt:mean": prompts.mean(1),
        "prompt:max": prompts.max(1),
        "patch:mean": patches.mean(1),
        "patch:max": patches.max(1),
        "patch:max_but_first": patches[:, 1:].max(1),
        "patch:mean+patch:max": patches.mean(1) + patches.max(1),
    }
    pooled = Pool(list(expected))(features)
    for got, wanted in zip(pooled.split(8, dim=1), expected.values(), strict=True):
        torch.testing.assert_close(got, torch.from_numpy(wanted))


def test_heads(small_backbone):
    points = torch.randn(2, 64, 3)
    features = small_backbone()(points)
    for style in ("point_mae", "point_bert", "linear"):
        head = ClassificationHead(48, 7, ("cls", "patch:max"), style)
        assert head(features, points).shape == (2, 7)
    with pytest.raises(UsageError, match="head must be 'point_mae', 'point_bert'"):
        ClassificationHead(48, 7, ("cls",), "mlp")
    for wrong in ("cls", [], ["cls", "patch:min"]):
        with pytest.raises(UsageError, match="head_tokens"):
            Pool(wrong)


def test_masked_autoencoder(small_backbone):
    autoencoder = MaskedAutoencoder(small_backbone(class_token=False), decoder_depth=1).eval()
    points = torch.randn(4, 64, 3)
    mask = autoencoder.random_mask(torch.empty(4, 11, 3))
    assert (mask.sum(1) == int(0.6 * 11)).all()
    loss = autoencoder(points, mask)

    # The same, one cloud and one patch at a time.
    groups = autoencoder.backbone.tokenizer.group(points)
    expected = 0.0
    for cloud in range(4):
        hidden = mask[cloud]
        patches, centers = groups.patches[cloud], groups.centers[cloud]
        order = torch.cat([centers[~hidden], centers[hidden]])
        rebuilt = autoencoder.rebuild_hidden(patches[None, ~hidden], order[None])[0]
        distance = torch.cdist(rebuilt, patches[hidden]) ** 2  # [M, K, K]
        expected += (distance.amin(1).mean() + distance.amin(2).mean()) / 4
    torch.testing.assert_close(loss, expected, **CLOSE)

    autoencoder.train()(points).backward()
    assert all(weight.grad is not None for weight in autoencoder.parameters())


def test_classes_are_told_from_visible_patches(small_backbone):
    """Hidden patches do not contribute; if patches are rebuilt as well, both losses are added."""
    points, labels = torch.randn(4, 64, 3), torch.tensor([0, 2, 1, 2])
    mask = torch.rand(4, 11).argsort(1) < 6
    network = small_backbone(class_token=False)
    losses, weights = {}, {}
    for objective in ("rebuild", "classify", "both"):
        autoencoder = MaskedAutoencoder(
            network, decoder_depth=1, objective=objective, num_classes=3
        ).eval()
        if objective == "both":
            autoencoder.load_state_dict(weights)
        weights |= autoencoder.state_dict()
        losses[objective] = autoencoder(points, mask, labels)
        if objective == "classify":
            groups, rows = network.tokenizer.group(points), []
            for cloud in range(4):
                seen = ~mask[cloud]
                patches, centers = groups.patches[cloud][seen], groups.centers[cloud][seen]
                tokens = network.forward_patches(patches[None], centers[None]).patches[0]
                rows.append(torch.cat([tokens.mean(0), tokens.amax(0)]))
            likely = autoencoder.classify(torch.stack(rows)).log_softmax(1)
            expected = -0.9 * likely[range(4), labels].mean() - 0.1 * likely.mean()
            torch.testing.assert_close(losses[objective], expected, **CLOSE)
    wanted = 30 * losses["rebuild"] + losses["classify"]
    torch.testing.assert_close(losses["both"], wanted, **CLOSE)
    autoencoder.train()(points, mask, labels).backward()
    assert all(weight.grad is not None for weight in autoencoder.parameters())


def test_pre_training_settings_are_checked(small_backbone):
    with pytest.raises(UsageError, match="objective must be rebuild, classify, both, got 'guess'"):
        MaskedAutoencoder(small_backbone(class_token=False), objective="guess")
    with pytest.raises(UsageError, match="objective='both' needs clouds of two classes or more"):
        MaskedAutoencoder(small_backbone(class_token=False), objective="both", num_classes=1)
    with pytest.raises(UsageError, match="class_token=False"):
        MaskedAutoencoder(small_backbone())
    for ratio in (0.0, 0.05, 1.0):
        with pytest.raises(UsageError, match="mask_ratio must hide some of the 11 patches"):
            MaskedAutoencoder(small_backbone(class_token=False), mask_ratio=ratio)
