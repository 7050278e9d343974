"""Adapter files: small, complete, tied to their backbone, and safe to open."""

import hashlib
import json
import os
import resource

import pytest
import safetensors.torch
import torch

import dapt
from dapt.adapters import adapter_files
from dapt.errors import DaptError

CONFIG, WEIGHTS = adapter_files.CONFIG, adapter_files.WEIGHTS
METHOD = dapt.Dapt(rank=6, head_tokens=["prompt:max", "patch:mean"])
TASK = dapt.Classification(3, class_names=("bag", "bin", "box"), label_smoothing=0.1)


def randomized(backbone, method=METHOD, task=TASK):
    """A model as if trained: every own weight and statistic differs from its initial value."""
    model = dapt.attach(backbone, method, task).eval()
    with torch.no_grad():
        for value in model.own_state().values():
            if value.is_floating_point():
                value.add_(0.1 * torch.rand_like(value))
            else:
                value.add_(1)
    return model


@pytest.fixture
def saved(small_backbone, tmp_path):
    """A folder that holds an adapter of the small backbone."""
    randomized(small_backbone()).save_adapter(tmp_path / "adapter")
    return tmp_path / "adapter"


def edit(folder, **changes):
    """Changes fields of adapter_config.json; a dict changes the fields of a nested object."""
    config = json.loads((folder / CONFIG).read_text())
    for name, value in changes.items():
        if isinstance(value, dict) and isinstance(config.get(name), dict):
            config[name].update(value)
        else:
            config[name] = value
    (folder / CONFIG).write_text(json.dumps(config))


def assert_refused(folder, backbone, message):
    with pytest.raises(DaptError, match=message) as refusal:
        dapt.load_adapter(folder, backbone)
    assert "\n" not in str(refusal.value)
    dapt.detach(
        dapt.attach(backbone, dapt.Linear(), TASK)
    )  # the failure left the backbone unchanged


def test_published_size_stays_below_four_and_a_half_megabytes(tmp_path):
    model = dapt.attach(dapt.create_backbone("point_mae"), dapt.Dapt(), dapt.Classification(15))
    model.save_adapter(tmp_path)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 4.5e6


def test_adapters_from_files_side_by_side(small_backbone, saved, tmp_path):
    other = randomized(small_backbone(), dapt.Linear(), dapt.Classification(7))
    other.save_adapter(tmp_path / "other")
    points = torch.randn(4, 80, 3)
    model = dapt.load_adapter(saved, small_backbone(), name="one").eval()
    one = model(points)
    model.load_adapter(tmp_path / "other", name="two")
    assert torch.equal(model(points), other(points))
    model.set_adapter("one")
    assert torch.equal(model(points), one)


def test_full_fine_tuning_needs_no_particular_weights(small_backbone, tmp_path):
    model = randomized(small_backbone(seed=1), dapt.Full())
    model.save_adapter(tmp_path)
    again = dapt.load_adapter(tmp_path, small_backbone(seed=2)).eval()
    points = torch.randn(2, 80, 3)
    assert torch.equal(again(points), model(points))


def test_saving_again_replaces_both_files(small_backbone, saved):
    model = randomized(small_backbone())
    model.save_adapter(saved)
    points = torch.randn(2, 80, 3)
    assert torch.equal(dapt.load_adapter(saved, small_backbone()).eval()(points), model(points))


def test_a_failed_write_leaves_the_old_adapter(small_backbone, saved, monkeypatch):
    before = {file.name: file.read_bytes() for file in saved.iterdir()}

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(DaptError, match="cannot write .*: the disk is full"):
        randomized(small_backbone()).save_adapter(saved)
    assert {file.name: file.read_bytes() for file in saved.iterdir()} == before


def test_the_wrong_backbone_is_refused(small_backbone, saved):
    assert_refused(saved, small_backbone(seed=5), "other pre-trained weights: .* fingerprint is")
    assert_refused(saved, small_backbone(num_groups=12), "num_groups=11, .*num_groups=12: create")
    assert_refused(saved, small_backbone(num_heads=6), "backbone with num_heads=3")
    assert_refused(saved, small_backbone(depth=2), "backbone with depth=3")
    m2ae = small_backbone("point_m2ae")
    assert_refused(saved, m2ae, "for a PointTransformer, the backbone is a PointM2ae")
    dapt.load_adapter(
        saved, small_backbone(drop_path=0.7)
    )  # drop_path may differ: it changes nothing after training


def test_one_changed_weight_changes_the_fingerprint(small_backbone, saved):
    for entry in ("blocks.2.mlp.fc1.bias", "tokenizer.encoder.second.1.running_var"):
        backbone = small_backbone()
        value = backbone.state_dict()[entry]
        value[3] = torch.nextafter(value[3], torch.tensor(9.0))
        assert_refused(saved, backbone, "other pre-trained weights")
    backbone = small_backbone()
    backbone.cls_token.data.zero_()  # ignored: the adapter brings its own
    dapt.load_adapter(saved, backbone)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"format_version": 2}, "format_version 2, this dapt reads 1"),
        ({"format_version": None}, "format_version None"),
        ({"weights_file": "../../secrets.safetensors"}, "unknown field 'weights_file'"),
        ({"backbone": {"checkpoint": "/etc/passwd"}}, "backbone: unknown field 'checkpoint'"),
        ({"method": {"name": "../../evil"}}, "unknown method '../../evil'"),
        ({"method": {"name": "__import__('os')"}}, "unknown method"),
        ({"method": {"name": ["dapt"]}}, "unknown method"),
        ({"method": {"rank": "64"}}, "rank must be int, got '64'"),
        ({"method": {"rank": True}}, "rank must be int, got True"),
        ({"method": {"rank": 10**9}}, "rank must be from 1 to 256"),
        ({"method": {"head_tokens": "cls"}}, "head_tokens must be"),
        ({"method": {"head_tokens": [1]}}, "head_tokens must be"),
        ({"method": {"memory": "huge"}}, "memory must be"),
        ({"method": "dapt"}, "method must be dict, got 'dapt'"),
        ({"task": {"name": "segmentation"}}, "unknown task 'segmentation'"),
        ({"task": {"num_classes": 4}}, "class_names must name 4 classes, got 3"),
        ({"task": {"num_classes": -1}}, "num_classes must be at least 1"),
        ({"task": {"loss": "evil"}}, "task: unknown field 'loss'"),
        ({"task": {"num_classes": 2, "class_names": ["a", "b"]}}, "'head.layers.8.* is"),
        ({"method": {"rank": 7}}, "adapter.*' is .*, wanted"),
        ({"backbone": {"fingerprint": 0}}, "fingerprint must be str"),
        ({"weights_sha256": "0" * 64}, "not the file that adapter_config.json was written with"),
    ],
)
def test_tampered_configs_are_refused(small_backbone, saved, changes, message):
    edit(saved, **changes)
    assert_refused(saved, small_backbone(), message)


def test_damaged_files_are_refused(small_backbone, saved):
    backbone = small_backbone()
    config, weights = (saved / CONFIG).read_text(), (saved / WEIGHTS).read_bytes()
    (saved / WEIGHTS).write_bytes(weights[:-1])
    assert_refused(saved, backbone, "is not the file .* it is damaged, or from another adapter")
    (saved / WEIGHTS).unlink()
    assert_refused(saved, backbone, f"{WEIGHTS} cannot be read: No such file")
    for text, message in ((config[:50], "is not JSON"), ("[]", "must hold a JSON object")):
        (saved / CONFIG).write_text(text)
        assert_refused(saved, backbone, message)
    (saved / CONFIG).unlink()
    assert_refused(saved, backbone, f"{CONFIG} cannot be read: No such file")
    assert_refused(saved / "nowhere", backbone, "cannot be read")


def test_weights_of_another_adapter_are_refused_by_name(small_backbone, saved):
    state = safetensors.torch.load_file(saved / WEIGHTS)
    state["head.extra"] = state.pop("head.layers.0.bias")
    _replace_weights(saved, state)
    assert_refused(
        saved, small_backbone(), "'head.(extra' is not a part|layers.0.bias' is missing)"
    )


def test_a_refused_adapter_leaves_the_active_one(small_backbone, saved):
    model = randomized(small_backbone())
    points = torch.randn(2, 80, 3)
    before = model(points)
    edit(saved, method={"rank": 7})
    with pytest.raises(DaptError):
        model.load_adapter(saved, name="other")
    assert model.active == "default" and list(model.adapters) == ["default"]
    assert torch.equal(model(points), before)


def _replace_weights(folder, state):
    content = safetensors.torch.save(state)
    (folder / WEIGHTS).write_bytes(content)
    edit(folder, weights_sha256=hashlib.sha256(content).hexdigest())


HUGE = {
    "classes": {"task": {"num_classes": 10**9, "class_names": None}},
    "more classes than a number": {"task": {"num_classes": 10**40, "class_names": None}},
    "rank": {"method": {"rank": 256, "head_tokens": ["patch:mean"] * 10**5}},
    "prompts": {"method": {"name": "vpt", "prompts": 10**9}, "replace": True},
    "a memory": {
        "method": {"name": "point_peft", "prompts": 10**8, "neighbors": 10**9},
        "replace": True,
    },
    "parts": {
        "task": {"name": "part_segmentation", "num_classes": 10**8, "num_parts": 10**8},
        "replace": True,
    },
    "low-rank": {"method": {"name": "peft:vera", "settings": {"r": 10**8}}, "replace": True},
}


@pytest.mark.parametrize("case", HUGE)
def test_sizes_are_bounded_by_the_weights(small_backbone, saved, case):
    """A few bytes of settings cannot allocate gigabytes: at most a small tensor is ever made."""
    changes = dict(HUGE[case])
    if changes.pop("replace", False):
        for field, value in changes.items():
            edit(saved, **{field: None})
            edit(saved, **{field: value})
    else:
        edit(saved, **changes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    backbone = small_backbone()
    with pytest.raises(DaptError) as refusal:
        dapt.load_adapter(saved, backbone)
    assert "\n" not in str(refusal.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB
    dapt.detach(dapt.attach(backbone, dapt.Linear(), TASK))


def test_a_config_of_any_depth_and_size_is_refused(small_backbone, saved):
    (saved / CONFIG).write_text("[" * 100_000)
    assert_refused(saved, small_backbone(), "is not JSON")
    (saved / CONFIG).write_text(" " * 2**23)
    assert_refused(saved, small_backbone(), "8,388,608 bytes")
