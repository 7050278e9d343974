"""PTv3 encoders: their files, their sizes, and what a scene's features depend on."""

import re

import pytest
import torch

import dapt
from dapt.errors import DaptError, UsageError
from dapt.models import checkpoints
from dapt.models.checkpoints import find_layout, load_weights
from dapt.models.layouts import LAYOUTS
from support import fixtures

SMALL = fixtures.SMALL["ptv3_tiny"]
LAYOUT_OF = {
    "ptv3_sonata_small": ("sonata_small", 38_648_992),
    "ptv3_sonata_base": ("sonata_base", 108_461_376),
    "ptv3_concerto_tiny": ("concerto_tiny", 4_860_512),
    "ptv3_concerto_small": ("concerto_small", 38_648_992),
    "ptv3_concerto_base": ("concerto_base", 108_461_376),
    "ptv3_concerto_large": ("concerto_large", 207_667_456),
    "ptv3_utonia_tiny": ("utonia_tiny", 9_326_106),
    "ptv3_utonia_small": ("utonia_small", 37_248_516),
    "ptv3_utonia_base": ("utonia_base", 137_253_744),
}


def small(seed=0, **fields):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone = dapt.create_backbone("ptv3_tiny", **SMALL | fields)
        # as if pre-trained, so that every part affects the output
        for module in backbone.modules():
            if isinstance(module, torch.nn.Linear):
                torch.nn.init.normal_(module.weight, std=module.in_features**-0.5)
    return backbone.eval()


def scene(batch=2, points=120, channels=9):
    return torch.randn(batch, points, channels)


def shapes(network):
    return {entry: list(value.shape) for entry, value in network.state_dict().items()}


@pytest.mark.parametrize("name", LAYOUT_OF)
def test_published_layouts_fit(published_layout, name):
    """Checks only shapes, without allocating weights; counts the whole file."""
    layout_name, count = LAYOUT_OF[name]
    with torch.device("meta"):
        backbone = dapt.models.backbone_config(name).build()
        state = published_layout(layout_name)
    layout = find_layout(state, LAYOUTS, "")
    assert layout.license == "CC-BY-NC-4.0, not for commercial use"
    expected = {key: list(value.shape) for key, value in state.items()}
    mask_token = expected.pop("embedding.mask_token")
    assert {layout.key(e): shape for e, shape in shapes(backbone).items()} == expected
    assert dapt.models.count_parameters(backbone) + mask_token[1] == count


@pytest.mark.parametrize("name", ["concerto_tiny", "utonia_tiny"])
def test_files_load_whole_and_say_their_license_once(
    published_layout, tmp_path, monkeypatch, caplog, name
):
    checkpoints._say_license.cache_clear()
    state, path = published_layout(name), tmp_path / "file.pth"
    torch.save({"config": {"order": ["z"]}, "state_dict": state}, path)
    for _ in range(2):
        backbone = dapt.create_backbone(f"ptv3_{name}", checkpoint=path)
    said = [r.getMessage() for r in caplog.records if "CC-BY-NC" in r.getMessage()]
    assert len(said) == 1 and "not for commercial use" in said[0]
    assert set(backbone.load_report.loaded) == set(backbone.state_dict())
    assert list(backbone.load_report.left_over) == ["embedding.mask_token"]

    layout = find_layout(state, LAYOUTS, "")
    for entry in list(backbone.state_dict())[::11]:
        key = layout.key(entry)
        damaged = {k: v for k, v in state.items() if k != key}
        monkeypatch.setattr(checkpoints, "read_state", lambda _, state=damaged: state)
        with pytest.raises(DaptError, match=f"'{re.escape(key)}' is missing"):
            load_weights(backbone, "file.pth")


def test_a_file_of_the_other_family_is_refused(published_layout, tmp_path):
    path = tmp_path / "file.pth"
    torch.save(published_layout("utonia_tiny"), path)
    fields = {"dims": (18, 36, 72, 144, 216), "num_heads": (1, 2, 4, 8, 12)}
    with pytest.raises(DaptError, match="no place for 'enc.enc0.block0.attn.rope.inv_freq'"):
        dapt.create_backbone("ptv3_small", checkpoint=path, **fields)


def test_our_own_files(tmp_path):
    wanted = small(seed=1, rope_base=10.0)
    torch.save(wanted.state_dict(), tmp_path / "own.pth")
    again = dapt.create_backbone(
        "ptv3_tiny", checkpoint=tmp_path / "own.pth", **SMALL, rope_base=10.0
    )
    for entry, value in again.state_dict().items():
        assert torch.equal(value, wanted.state_dict()[entry])


@pytest.mark.parametrize("rope_base", [None, 10.0])
def test_a_scene_does_not_depend_on_the_others(rope_base):
    backbone = small(rope_base=rope_base)
    points = scene(3)
    points[1] *= 4  # needs a different curve depth
    together = backbone(points)
    for b in range(3):
        alone = backbone(points[b : b + 1])
        torch.testing.assert_close(together.patches[b], alone.patches[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together.patch_mean[b], alone.patch_mean[0])


def test_equal_patches_make_scenes_depend_on_each_other():
    backbone = small(enable_flash=False)
    points = scene(2)
    points[1, 3:] = points[1, :1]  # has hardly any cells
    together, alone = backbone(points), backbone(points[:1])
    assert (together.patches[0] - alone.patches[0]).abs().max() > 1e-3


def test_points_past_the_length_are_none():
    backbone, points = small(), scene(2)
    lengths = torch.tensor([120, 70])
    features = backbone(points, levels=(0, 2), lengths=lengths)
    alone = backbone(points[1:, :70])
    torch.testing.assert_close(features.patches[1, :70], alone.patches[0], rtol=1e-4, atol=1e-5)
    assert (features.patches[1, 70:] == 0).all()
    assert [level.shape for level in features.levels] == [(2, 120, 12), (2, 120, 36)]


def test_points_of_a_cell_share_its_token():
    backbone, points = small(), scene(1)
    features = backbone(points, levels=(0,))
    rows = features.rows[0][0]
    for cell in rows.unique():
        tokens = features.levels[0][0, rows == cell]
        assert torch.equal(tokens, tokens[:1].expand_as(tokens))
    assert len(rows.unique()) == features.geometries[0].sizes[0]


def test_every_cell_attends_in_one_full_patch():
    features = small()(scene(2, 300))
    for geometry in features.geometries:
        for patches in geometry.patches:
            assert torch.equal(patches.cells[patches.slots], torch.arange(sum(geometry.sizes)))
            assert sum(count * size for count, size in patches.shapes) == len(patches.cells)
            first = 0
            for count, size in patches.shapes:
                for _ in range(count):
                    scenes = geometry.cells.scenes[patches.cells[first : first + size]]
                    assert len(scenes.unique()) == 1  # no patch spans two scenes
                    first += size


def test_missing_channels_are_zeros():
    backbone, points = small(), scene()
    for channels in (3, 6):
        zeroed = points.clone()
        zeroed[..., channels:] = 0
        assert torch.equal(backbone(points[..., :channels]).patches, backbone(zeroed).patches)
    assert not torch.equal(backbone(points[..., :6]).patches, backbone(points[..., :3]).patches)


def test_centered_scenes_may_stand_anywhere():
    backbone, points = small(center=True), scene()
    moved = points.clone()
    moved[..., :3] += torch.tensor([8.0, -16.0, 4.0])
    torch.testing.assert_close(
        backbone(points).patches, backbone(moved).patches, rtol=1e-3, atol=1e-3
    )


def test_scale_and_up():
    points = scene()
    halved = points.clone()
    halved[..., :3] *= 0.5
    torch.testing.assert_close(small(scale=0.5)(points).patches, small()(halved).patches)
    x, y, z = points[..., :3].unbind(2)
    a, b, c = points[..., 6:].unbind(2)
    lying = torch.stack([x, z, -y], 2), points[..., 3:6], torch.stack([a, c, -b], 2)
    got = small(up="y")(torch.cat(lying, 2)).patches
    torch.testing.assert_close(got, small()(points).patches)


def test_deterministic_unless_it_trains():
    backbone, points = small(drop_path=0.0), scene(1, 300)
    assert torch.equal(backbone(points).patches, backbone(points).patches)
    backbone.train()
    torch.manual_seed(3)
    drawn = [backbone(points).patches for _ in range(4)]
    assert any(not torch.equal(drawn[0], other) for other in drawn[1:])
    torch.manual_seed(3)
    assert torch.equal(backbone(points).patches, drawn[0])
    backbone.config.__dict__["shuffle_curves"] = False
    assert torch.equal(backbone(points).patches, backbone(points).patches)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_any_dtype(dtype):
    backbone, points = small(rope_base=10.0), scene()
    points = points.to(dtype)
    expected = backbone(points.float()).patch_mean
    got = backbone.to(dtype)(points).patch_mean
    assert got.dtype == dtype
    close = {torch.float64: 1e-4}.get(dtype, 0.2)  # eight half-blocks round in half precision
    torch.testing.assert_close(got.float(), expected, rtol=close, atol=close)


def test_quantized_weights():
    points = scene()
    plain, quantized = small(), dapt.create_backbone("ptv3_tiny", **SMALL, weights="int8").eval()
    assert quantized(points).patches.isfinite().all()
    # the convolutions, two thirds of the weights, stay in float
    assert dapt.models.weight_bytes(quantized) < 0.8 * dapt.models.weight_bytes(plain)


def test_gradients_repeat():
    backbone, points = small(), scene(2, 300)
    grads = []
    for _ in range(2):
        backbone.zero_grad()
        backbone(points).patches.square().mean().backward()
        grads.append([weight.grad.clone() for weight in backbone.parameters()])
    assert all(map(torch.equal, *grads))
    assert all(grad.abs().sum() > 0 for grad in grads[0])


def test_empty_batches_and_scenes():
    backbone = small()
    assert backbone(scene(0)).patches.shape == (0, 120, 36)
    assert backbone(scene(0)).patch_mean.shape == (0, 36)
    features = backbone(scene(2), lengths=torch.tensor([0, 120]))
    assert (features.patch_max[0] == 0).all() and features.patch_mean.isfinite().all()
    assert backbone(scene(1, 1)).patches.isfinite().all()


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"grid_size": 0.0}, "grid_size must be above 0, got 0"),
        ({"up": "w"}, "up must be x, y or z, got 'w'"),
        ({"depths": (1, 2)}, "depths must have a value for each of the 3 scales"),
        ({"num_heads": (1, 2, 5)}, "num_heads must divide dims .* got 5 for 36"),
        ({"rope_base": 10.0, "num_heads": (1, 3, 3)}, "width is a multiple of 6, got 3 for 24"),
        ({"curves": ("z", "peano")}, "curves must be names of z, z-trans"),
        ({"patch_size": 0}, "patch_size must be at least 1, got 0"),
    ],
)
def test_bad_sizes(fields, message):
    with pytest.raises(UsageError, match=message):
        dapt.create_backbone("ptv3_tiny", **SMALL | fields)


def test_bad_points():
    with pytest.raises(UsageError, match=r"with color \[B, N, 6\].*got \[2, 120, 5\]"):
        small()(scene(channels=5))
