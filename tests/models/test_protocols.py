"""The contracts: every backbone fulfills them, and anything that does can be adapted."""

import pytest
import torch
from torch import nn

import dapt
from dapt.errors import UsageError
from dapt.models import VitBackbone
from dapt.models.protocols import Backbone, Block, Head, Tokenizer, missing
from dapt.models.tokenizer import PatchEncoder
from dapt.models.tokenizer import Tokenizer as PatchTokenizer
from support.fixtures import SMALL
from support.methods import train_steps

DIM = 48


PATCHES = [name for name in SMALL if not name.startswith("ptv3")]  # ptv3 has scene cells instead


@pytest.mark.parametrize("name", PATCHES)
def test_every_backbone_keeps_the_contract(small_backbone, name):
    backbone = small_backbone(name).eval()
    assert not missing(backbone, Backbone)
    for tokenizer in backbone.tokenizers:
        assert not missing(tokenizer, Tokenizer)
    for block in (block for stack in backbone.stacks for block in stack):
        assert not missing(block, Block)
        x = torch.randn(2, 5, block.dim)
        positions = torch.randn_like(x)
        halves = block.transform(block.attend(x + positions))
        torch.testing.assert_close(block(x, positions), halves)
    features = backbone(torch.randn(2, 80, 3), levels=(0,))
    B, G, C = features.patches.shape
    assert (B, C) == (2, backbone.dim) and features.centers.shape == (2, G, 3)
    assert features.prompts.shape == (2, 0, C) and features.levels[0].shape == (2, G, C)
    head = dapt.Classification(4).build_head(backbone, backbone.head_tokens).eval()
    assert not missing(head, Head) and head(features, None).shape == (2, 4)


def test_a_backbone_of_cells_offers_what_attach_needs(small_backbone):
    for name in SMALL.keys() - set(PATCHES):
        assert not missing(small_backbone(name), Backbone)


class TheirAttention(nn.Module):
    def __init__(self, heads):
        super().__init__()
        self.num_heads = heads
        self.qkv, self.proj = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)
        self.q_norm, self.k_norm = nn.Identity(), nn.Identity()

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        out = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).reshape(B, T, C))


class TheirMlp(nn.Module):
    def __init__(self, lins):
        super().__init__()
        layers, self.act = [nn.Linear(DIM, 90), nn.Linear(90, DIM)], nn.GELU()
        if lins:
            self.lins = nn.ModuleList(layers)
        else:
            self.fc1, self.fc2 = layers

    def forward(self, x):
        first, second = self.lins if hasattr(self, "lins") else (self.fc1, self.fc2)
        return second(self.act(first(x)))


class TheirScale(nn.Module):
    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(DIM))

    def forward(self, x):
        return x * self.gamma


class TheirBlock(nn.Module):
    """A block written the way timm writes it."""

    def __init__(self, lins=False):
        super().__init__()
        self.norm1, self.attn, self.ls1 = nn.LayerNorm(DIM, 1e-6), TheirAttention(3), TheirScale()
        self.norm2, self.mlp, self.ls2 = nn.LayerNorm(DIM, 1e-6), TheirMlp(lins), TheirScale()

    def forward(self, x):
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


def wrapped(blocks, **options):
    tokenizer = PatchTokenizer(11, 9, PatchEncoder(3, (16, 24, 32), DIM), nn.Identity())
    return VitBackbone(blocks, tokenizer, nn.Linear(3, DIM), nn.LayerNorm(DIM), **options)


@pytest.mark.parametrize("lins", [False, True])
@pytest.mark.parametrize("class_token", [False, True])
def test_blocks_of_others(lins, class_token):
    blocks = [TheirBlock(lins), TheirBlock(lins)]
    token = nn.Parameter(torch.randn(1, 1, DIM)) if class_token else None
    backbone = wrapped(blocks, cls_token=token).eval()
    points = torch.randn(2, 80, 3)
    groups = backbone.tokenizer.group(points)
    x = backbone.tokenizer.encode(groups.patches) + backbone.pos_embed(groups.centers)
    if class_token:
        x = torch.cat([token.expand(2, -1, -1), x], 1)
    x = backbone.norm(blocks[1](blocks[0](x)))
    torch.testing.assert_close(backbone(points).patches, x[:, -11:], atol=1e-5, rtol=1e-5)

    before = {entry: value.clone() for entry, value in backbone.state_dict().items()}
    for method in (dapt.Dapt(rank=4), dapt.Prefix(prefixes=2), dapt.Full()):
        model = dapt.attach(backbone, method, dapt.Classification(5))
        train_steps(model)
        dapt.detach(model)
    for entry, value in backbone.state_dict().items():
        assert torch.equal(value, before[entry]), entry


class TheirNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.module = nn.BatchNorm1d(dim)

    def forward(self, x):
        return self.module(x)


class TheirLinear(nn.Module):
    """Like torch-geometric's linear layer, which is not a subclass of torch's."""

    def __init__(self, inputs, outputs):
        super().__init__()
        plain = nn.Linear(inputs, outputs)
        self.weight, self.bias = plain.weight, plain.bias

    def forward(self, x):
        return nn.functional.linear(x, self.weight, self.bias)


class TheirTwoLayers(nn.Module):
    """Like torch-geometric's MLP."""

    def __init__(self, *dims, norm=True, act=nn.functional.relu):
        super().__init__()
        pairs = zip(dims, dims[1:], strict=False)
        self.lins = nn.ModuleList(TheirLinear(i, o) for i, o in pairs)
        self.norms = nn.ModuleList([TheirNorm(dims[1]) if norm else nn.Identity()])
        self.act = act

    def forward(self, x):
        return self.lins[1](self.act(self.norms[0](self.lins[0](x))))


class TheirPointMae(nn.Module):
    """Like torch-pointcloud's classifier."""

    num_groups, group_size = 11, 9

    def __init__(self, channels=3):
        super().__init__()
        self.encoder = nn.Module()
        self.encoder.local_mlp = TheirTwoLayers(channels, 16, 24)
        self.encoder.global_mlp = TheirTwoLayers(48, 32, DIM)
        self.pos_embed = TheirTwoLayers(3, 20, DIM, norm=False, act=nn.functional.gelu)
        self.cls_token = nn.Parameter(torch.randn(1, 1, DIM))
        self.cls_pos = nn.Parameter(torch.randn(1, 1, DIM))
        self.blocks = nn.Module()
        self.blocks.blocks = nn.ModuleList([TheirBlock(True), TheirBlock(True)])
        self.norm_f = nn.LayerNorm(DIM)

    def tokens(self, patches, centers):
        B, G, K, _ = patches.shape
        points = self.encoder.local_mlp(patches.flatten(0, 2)).view(B * G, K, -1)
        overall = points.amax(1, keepdim=True).expand(-1, K, -1)
        x = self.encoder.global_mlp(torch.cat([overall, points], 2).flatten(0, 1))
        x = x.view(B * G, K, -1).amax(1).view(B, G, -1)
        x = torch.cat([self.cls_token.expand(B, -1, -1), x], 1)
        positions = torch.cat([self.cls_pos.expand(B, -1, -1), self.pos_embed(centers)], 1)
        for block in self.blocks.blocks:
            x = block(x + positions)
        return self.norm_f(x)


def test_a_classifier_of_torch_pointcloud():
    theirs = TheirPointMae().eval()
    backbone = VitBackbone.of_torch_pointcloud(theirs).eval()
    points = torch.randn(2, 80, 3)
    groups = backbone.tokenizer.group(points)
    wanted = theirs.tokens(groups.patches, groups.centers)
    got = backbone(points)
    torch.testing.assert_close(got.patches, wanted[:, 1:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got.cls, wanted[:, 0], atol=1e-5, rtol=1e-5)
    train_steps(dapt.attach(backbone, dapt.Dapt(rank=4), dapt.Classification(5)))
    with pytest.raises(UsageError, match="must read coordinates only, .* got 6 channels"):
        VitBackbone.of_torch_pointcloud(TheirPointMae(6))
    with pytest.raises(UsageError, match="a Linear has no 'encoder': it is not a Point-MAE"):
        VitBackbone.of_torch_pointcloud(nn.Linear(2, 2))


def test_an_adapter_for_blocks_of_others_reloads(tmp_path):
    torch.manual_seed(3)
    backbone = wrapped([TheirBlock()])
    model = dapt.attach(backbone, dapt.Dapt(rank=4), dapt.Classification(5))
    model.eval().save_adapter(tmp_path)
    points = torch.randn(2, 80, 3)
    wanted = model(points)
    again = dapt.load_adapter(tmp_path, dapt.detach(model)).eval()
    assert torch.equal(again(points), wanted)


def test_what_is_no_backbone_is_told_what_it_lacks():
    with pytest.raises(UsageError, match="a Linear cannot be adapted: .*num_class_tokens"):
        dapt.attach(nn.Linear(3, 3), dapt.Linear(), dapt.Classification(2))
    block = TheirBlock()
    block.attn.q_norm = nn.LayerNorm(16)
    with pytest.raises(UsageError, match="block 0: attention with a q_norm"):
        wrapped([block])
    with pytest.raises(UsageError, match="block 1: its Identity has no 'norm1'"):
        wrapped([TheirBlock(), nn.Identity()])
    with pytest.raises(UsageError, match="at least one block"):
        wrapped([])


def test_adapters_from_before_a_field_existed_still_load(small_backbone, tmp_path):
    import json

    model = dapt.attach(small_backbone(), dapt.Dapt(rank=4), dapt.Classification(5))
    model.save_adapter(tmp_path)
    path = tmp_path / "adapter_config.json"
    config = json.loads(path.read_text())
    del config["backbone"]["config"]["positions"]
    path.write_text(json.dumps(config))
    dapt.load_adapter(tmp_path, small_backbone())
