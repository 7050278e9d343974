"""The published networks' results on the golden cases, via the loaders that users call."""

import re

import pytest
import torch

import dapt
from dapt.adapters.release_table import KINDS
from dapt.methods.point_gst import basis_of
from dapt.models.checkpoints import find_layout
from dapt.models.layouts import AUTOENCODER_LAYOUTS, LAYOUTS
from dapt.tasks.heads import ClassificationHead

# The golden results were computed in float64; these are the expected differences in float32.
LOGITS = {"atol": 2e-4, "rtol": 0}
GRAD_NORM = {"rel": 0.01, "abs": 1e-5}

CLASSIFIERS = {
    "point_mae_cls_tiny": ("point_mae", "point_mae"),
    "point_bert_cls": ("point_bert", "point_bert"),
    "point_m2ae_cls": ("point_m2ae", "point_mae"),
}


def backbone_fields(config):
    if "encoder_depths" in config:
        return {
            "num_groups": tuple(config["num_groups"]),
            "group_size": tuple(config["group_sizes"]),
            "dims": tuple(config["encoder_dims"]),
            "depths": tuple(config["encoder_depths"]),
            "radius": tuple(config["local_radius"]),
            "num_heads": config["num_heads"],
        }
    return {
        "num_groups": config["num_group"],
        "group_size": config["group_size"],
        "dim": config["trans_dim"],
        "depth": config["depth"],
        "num_heads": config["num_heads"],
        "encoder_dim": config["encoder_dims"],
    }


def assert_grad_norms(expected, named_parameters, key_of, close=None):
    got = {key_of(name): weight.grad.norm().item() for name, weight in named_parameters}
    assert got.keys() == expected.keys()
    for key, norm in expected.items():
        assert got[key] == pytest.approx(norm, **(close or GRAD_NORM)), key


@pytest.mark.parametrize("case", CLASSIFIERS)
def test_classifiers(golden, tmp_path, case):
    case, (name, style) = golden(case), CLASSIFIERS[case]
    torch.save({"base_model": case.weights(), "epoch": 300}, tmp_path / "published.pth")
    backbone = dapt.create_backbone(
        name, checkpoint=tmp_path / "published.pth", **backbone_fields(case.config)
    )
    head = ClassificationHead(
        backbone.dim, case.config.get("cls_dim", 15), backbone.head_tokens, style
    )
    published_head = "cls_head_finetune."
    head.layers.load_state_dict(
        {
            key.removeprefix(published_head): value
            for key, value in case.weights().items()
            if key.startswith(published_head)
        }
    )
    network = torch.nn.Sequential(backbone, head).eval()
    points = case.points()

    features = backbone(points)
    logits = head(features, points)
    loss = torch.nn.functional.cross_entropy(logits, case.result("labels"))
    loss.backward()

    torch.testing.assert_close(logits, case.result("logits"), **LOGITS)
    torch.testing.assert_close(loss, case.result("loss"), **LOGITS)
    if "center" in case.results:
        assert torch.equal(features.centers, case.result("center"))
    with torch.no_grad():  # without gradients, the fused patch encoder runs
        fused = head(backbone(points), points)
    torch.testing.assert_close(fused, case.result("logits"), **LOGITS)

    layout = find_layout(case.weights(), LAYOUTS, "published.pth")

    def key_of(entry):
        network_part, _, entry = entry.partition(".")
        return (
            layout.key(entry) if network_part == "0" else entry.replace("layers.", published_head)
        )

    assert_grad_norms(case.grad_norms(), network.named_parameters(), key_of)


def test_pre_training(golden, tmp_path):
    case = golden("point_mae_pretrain_tiny")
    torch.save({"base_model": case.weights()}, tmp_path / "pretrain.pth")
    config = case.config | case.config["transformer_config"]
    autoencoder = dapt.create_autoencoder(
        "point_mae",
        checkpoint=tmp_path / "pretrain.pth",
        mask_ratio=config["mask_ratio"],
        decoder_depth=config["decoder_depth"],
        **backbone_fields(config),
    ).eval()

    loss = autoencoder(case.points(), case.result("mask"))
    loss.backward()

    torch.testing.assert_close(loss, case.result("loss").float(), atol=2e-4, rtol=0)
    expected = case.grad_norms()
    layout = AUTOENCODER_LAYOUTS[0]
    assert_grad_norms(expected, autoencoder.named_parameters(), layout.key)


def key_of_released(title):
    """A function from an entry of a whole model to its key in the published file."""
    kind = next(kind for kind in KINDS if kind.title == title)
    return kind.layout(dapt.Classification(2)).key


@pytest.mark.parametrize("case", ["dapt_tiny", "dapt_scanobjectnn_hardest"])
def test_released_dapt(golden, tmp_path, case):
    case = golden(case)
    config, results = case.config, case.results
    torch.save({"base_model": case.weights()}, tmp_path / "release.pth")
    model = dapt.load_release(
        tmp_path / "release.pth",
        num_groups=config["num_group"],
        group_size=config["group_size"],
        num_heads=config["num_heads"],
        head_tokens=["cls", "prompt:mean", "patch:max"],
    )
    seen = {}
    blocks, norm = model.backbone.blocks, model.backbone.norm
    blocks[0].register_forward_hook(lambda _, __, out: seen.update(block0=out))
    norm.register_forward_hook(lambda _, __, out: seen.update(norm=out))

    logits = model(case.points())
    loss = torch.nn.functional.cross_entropy(logits, case.result("labels"))
    loss.backward()

    assert model.count_parameters() == (results["trainable"], results["total"])
    torch.testing.assert_close(logits, case.result("logits"), **LOGITS)
    torch.testing.assert_close(loss, case.result("loss"), **LOGITS)
    torch.testing.assert_close(seen["block0"][:, :3], case.result("block0_cls"), **LOGITS)
    before_scale = (seen["norm"][:, :2] - norm.shift) / norm.scale
    torch.testing.assert_close(before_scale, case.result("norm_cls"), **LOGITS)

    key_of = key_of_released("released DAPT model")
    assert_grad_norms(case.grad_norms(), model.own_parameters(), key_of)
    first = dict(zip(results["grad_names"].tolist(), results["grad_first"].tolist(), strict=True))
    for name, weight in model.own_parameters():
        key = key_of(name)
        typical = weight.grad.norm().item() / weight.numel() ** 0.5
        got = weight.grad.flatten()[0].item()
        assert got == pytest.approx(first[key], rel=0.01, abs=0.01 * typical), key


RELEASED = {
    "gaprompt": "released GAPrompt model",
    "idpt": "released IDPT model",
    "pointgst": "released PointGST model",
    "pointlora": "released PointLoRA model",
    "ppt": "released PPT model",
    "stag": "released STAG model",
}


@pytest.mark.parametrize("method", RELEASED)
def test_released_methods(golden, tmp_path, method):
    case = golden(f"{method}_scanobjectnn_hardest")
    config, results = case.config, case.results
    torch.save({"base_model": case.weights()}, tmp_path / "release.pth")
    model = dapt.load_release(tmp_path / "release.pth", config=config)
    seen = {}
    model.head.layers.register_forward_pre_hook(lambda _, inputs: seen.update(head_in=inputs[0]))

    logits = model(case.points())
    scale = config.get("loss_logit_scale", 1.0)  # for networks whose logits reach the hundreds
    loss = torch.nn.functional.cross_entropy(scale * logits, case.result("labels"))
    extra = model.extra_loss()
    loss = loss if extra is None else loss + extra
    loss.backward()

    def assert_close(got, wanted):
        size = wanted.abs().max().clamp(min=1.0).item()
        torch.testing.assert_close(got, wanted, atol=3e-4 * size, rtol=0)

    assert model.count_parameters() == (results["trainable"], results["total"])
    assert_close(seen["head_in"], case.result("head_in"))
    assert_close(logits, case.result("logits"))
    assert_close(loss, case.result("loss"))
    expected = case.grad_norms()
    least = {"rel": 0.01, "abs": max(1e-5, 1e-5 * max(expected.values()))}
    whole = key_of_released(RELEASED[method])

    def key_of(name):  # published gradients use the second of a layer's two names
        return re.sub(r"cls\.conv(\d)\.1\.", r"cls.bn\1.", whole(name))

    weights = [(n, w) for n, w in model.own_parameters() if w.grad is not None]
    assert_grad_norms(expected, weights, key_of, least)


CLASSIFIERS_BY_CONFIG = ["point_mae_cls_tiny", "point_bert_cls", "point_m2ae_cls"]


@pytest.mark.parametrize("case", CLASSIFIERS_BY_CONFIG)
def test_released_fully_fine_tuned_models(golden, tmp_path, case):
    case = golden(case)
    torch.save({"base_model": case.weights()}, tmp_path / "release.pth")
    model = dapt.load_release(tmp_path / "release.pth", config=case.config)
    assert model.adapter.method == dapt.Full()
    logits = model(case.points())
    torch.testing.assert_close(logits, case.result("logits"), **LOGITS)


def test_released_part_segmentation(golden, tmp_path):
    case = golden("point_mae_partseg")
    torch.save({"base_model": case.weights()}, tmp_path / "release.pth")
    model = dapt.load_release(tmp_path / "release.pth", config=case.config)
    assert model.adapter.task == dapt.PartSegmentation(16, 50)
    logs = model(case.points(), case.result("categories")).log_softmax(2)
    torch.testing.assert_close(logs[:, :16], case.result("log_probs_first"), **LOGITS)


def test_merged_release_gives_the_same_logits(golden, tmp_path):
    case = golden("dapt_tiny")
    torch.save({"base_model": case.weights()}, tmp_path / "release.pth")
    model = dapt.load_release(
        tmp_path / "release.pth",
        num_groups=16,
        group_size=8,
        num_heads=3,
        head_tokens=["cls", "prompt:mean", "patch:max"],
    )
    logits = dapt.merge(model)(case.points())
    torch.testing.assert_close(logits, case.result("logits"), **LOGITS)


def test_bases_of_published_graphs(golden):
    """Eigenvectors, in ascending order, of the centers' graph and of its runs', with fixed
    signs."""
    results = golden("pointgst_scanobjectnn_hardest").results
    centers = torch.from_numpy(results["center"])
    basis = basis_of(centers, 32, published=False, transform="U", dtype=torch.float64)
    close = {"atol": 1e-5, "rtol": 0}  # the centers are stored in float32
    wanted = torch.from_numpy(results["basis_first"]).double()
    torch.testing.assert_close(basis.whole[:, 0, :2], wanted, **close)
    wanted = torch.from_numpy(results["sub_basis_first"]).double()
    torch.testing.assert_close(basis.runs[0][:, :, :2], wanted, **close)
