"""The newer backbones compared with the published networks: results, gradients, whole files."""

import json
import re

import pytest
import torch

import dapt
from dapt.errors import DaptError
from dapt.models import checkpoints, create
from dapt.models.checkpoints import find_layout, load_weights
from dapt.models.layouts import LAYOUTS
from support.fixtures import GOLDEN

# The golden results were computed in float64; these are the expected differences in float32.
CLOSE = {"atol": 1e-4, "rtol": 1e-4}
GRAD_NORM = 0.01

CLASSIFIERS = {
    "pcp_mae_scanobjectnn_hardest": "pcp_mae",
    "point_femae_scanobjectnn_hardest": "point_femae",
    "pointgpt_s_scanobjectnn_hardest": "point_gpt_s",
    "reconpp_small_scanobjectnn_hardest": "recon_pp_small",
}
EMBEDDERS = {
    "uni3d_tiny": ("uni3d_tiny", {}),
    "uni3d_small": ("uni3d_small", {}),
    "uni3d_base": ("uni3d_base", {}),
    "uni3d_giant_depth2": ("uni3d_giant", {"depth": 2}),
}
FILES = {
    "pcp_mae": "pcp_mae",
    "point_femae": "point_femae",
    "pointgpt_s": "point_gpt_s",
    "pointgpt_b": "point_gpt_b",
    "pointgpt_b_post": "point_gpt_b",
    "pointgpt_l": "point_gpt_l",
    "pointgpt_l_post": "point_gpt_l",
    "reconpp_small_hybrid": "recon_pp_small",
    "reconpp_small_openshape": "recon_pp_small",
    "reconpp_base_hybrid": "recon_pp_base",
    "reconpp_base_openshape": "recon_pp_base",
    "reconpp_large_hybrid": "recon_pp_large",
    "reconpp_large_openshape": "recon_pp_large",
    "uni3d_tiny": "uni3d_tiny",
    "uni3d_small": "uni3d_small",
    "uni3d_base": "uni3d_base",
    "uni3d_large": "uni3d_large",
    "uni3d_giant": "uni3d_giant",
}
FRESH = {
    "pcp_mae": {"cls_token", "cls_pos"},
    "pointgpt_s": {"cls_token", "cls_pos", "norm.weight", "norm.bias"},
    "pointgpt_b": {"cls_token", "cls_pos", "norm.weight", "norm.bias"},
    "pointgpt_l": {"cls_token", "cls_pos", "norm.weight", "norm.bias"},
    **{f"reconpp_{size}_{kind}": {"cls_token"} for size in ("small", "base", "large")
       for kind in ("hybrid", "openshape")},
}  # fmt: skip


def load(name, case, tmp_path, **fields):
    torch.save({"base_model": case.weights(), "epoch": 300}, tmp_path / "published.pth")
    sizes = {"num_groups": case.config["num_group"], "group_size": case.config["group_size"]}
    return dapt.create_backbone(
        name, checkpoint=tmp_path / "published.pth", **sizes, **fields
    ).eval()


def watch(module, seen, name):
    module.register_forward_hook(lambda _, __, out: seen.update({name: out}))


def assert_grad_norms(case, backbone, head=None):
    """Compares the gradient of each published weight, which may be some rows of one of ours."""
    state, got = case.weights(), {}
    layout = find_layout(state, LAYOUTS, "published.pth")
    for entry, weight in backbone.named_parameters():
        keys = layout.keys(entry, state)
        parts = weight.grad.chunk(len(keys))
        got |= {key: part.norm().item() for key, part in zip(keys, parts, strict=True)}
    published_head = next((k for k in state if "cls_head_finetune.0.weight" in k), "")
    for entry, weight in [] if head is None else head.layers.named_parameters():
        got[published_head.removesuffix("0.weight") + entry] = weight.grad.norm().item()
    got.pop(None, None)  # bias of the keys, which the published networks lack
    # the names under which gradients are stored
    second_names = {r"\.cls\.conv(\d)\.1\.": r".cls.bn\1."}
    for pattern, name in second_names.items():
        got = {re.sub(pattern, name, key): norm for key, norm in got.items()}
    expected = case.grad_norms()
    assert got.keys() == expected.keys()
    for key, norm in expected.items():
        assert got[key] == pytest.approx(norm, rel=GRAD_NORM, abs=1e-6), key


@pytest.mark.parametrize("case", CLASSIFIERS)
def test_classifiers(golden, tmp_path, case):
    case, name = golden(case), CLASSIFIERS[case]
    loaded = load(name, case, tmp_path)
    model = dapt.load_release(tmp_path / "published.pth", config=case.config)
    assert model.adapter.method == dapt.Full() and model.adapter.task == dapt.Classification(15)
    backbone, seen = model.backbone, {}
    for entry, value in loaded.state_dict().items():
        assert torch.equal(value, backbone.state_dict()[entry]), entry
    first_block = backbone.local["0"] if name == "point_femae" else backbone.blocks[0]
    watch(first_block, seen, "block0_first")
    watch(backbone.tokenizer.encoder, seen, "tokens_first")
    watch(model.head.pool, seen, "pooled")
    watch(backbone, seen, "features")
    points = case.points()

    logits = model(points)
    loss = torch.nn.functional.cross_entropy(logits, case.result("labels"))
    loss.backward()

    torch.testing.assert_close(logits, case.result("logits"), **CLOSE)
    centers = seen.pop("features").centers
    assert torch.equal(centers, case.result("center")[:, : centers.shape[1]])
    torch.testing.assert_close(seen.pop("pooled"), case.result("pooled"), **CLOSE)
    for key, value in seen.items():
        torch.testing.assert_close(value[:, :4], case.result(key), **CLOSE)
    assert_grad_norms(case, backbone, model.head)
    if name in ("pcp_mae", "point_femae"):  # otherwise the count includes a generator
        assert model.count_parameters() == (case.results["total"], case.results["total"])
    with torch.no_grad():  # without gradients, the fused patch encoder runs
        torch.testing.assert_close(model(points), case.result("logits"), **CLOSE)


@pytest.mark.parametrize("case", EMBEDDERS)
def test_embedders(golden, tmp_path, case):
    case, (name, fields) = golden(case), EMBEDDERS[case]
    backbone = load(name, case, tmp_path, embed=True, **fields)
    seen = {}
    watch(backbone.blocks[0], seen, "block0_first")
    watch(backbone.blocks, seen, "features_first")
    watch(backbone.tokenizer.encoder, seen, "tokens_first")
    points = case.points()
    colors = (0.5 + 0.5 * torch.sin(5 * points.double())).float()

    learns = case.config.get("gradients", True)
    with torch.set_grad_enabled(learns):
        embedding = backbone.embed(torch.cat([points, colors], 2))
    torch.testing.assert_close(embedding, case.result("embedding"), **CLOSE)
    for key, value in seen.items():
        expected = case.result(key)
        value = value[0] if isinstance(value, tuple) else value
        torch.testing.assert_close(value[:, : expected.shape[1]], expected, **CLOSE)
    if learns:
        embedding.square().mean().backward()
        assert_grad_norms(case, backbone)


def cut(layout):
    """The first two blocks of a published file, with weights that take no memory."""
    path = GOLDEN / f"layout_{layout}.json"
    if not path.is_file():
        pytest.skip("the published layouts are not available")
    deep = re.compile(r"(blocks|layers)\.([2-9]|\d\d)\.")
    shapes = json.loads(path.read_text())
    return {
        key: torch.ones(()).expand(shape) for key, shape in shapes.items() if not deep.search(key)
    }


@pytest.mark.parametrize("layout", FILES)
def test_published_files_load_whole(monkeypatch, layout):
    state, name = cut(layout), FILES[layout]
    for module in (checkpoints, create):
        monkeypatch.setattr(module, "read_state", lambda path: state)
    backbone = dapt.create_backbone(name, checkpoint="file.pth", depth=2)
    report = backbone.load_report
    fresh = FRESH.get(layout, set())
    assert set(report.fresh) == fresh
    assert set(report.loaded) == set(backbone.state_dict()) - fresh
    assert "not a part of the network" not in report.left_over.values()
    assert not any(value.is_meta for value in backbone.state_dict().values())

    layout = find_layout(state, LAYOUTS, "")
    for entry in report.loaded[::5]:
        for key in layout.keys(entry, state):
            if key is None:
                continue
            damaged = {k: v for k, v in state.items() if k != key}
            if layout.keys(entry, damaged) != layout.keys(entry, state):
                continue  # a second name replaces it
            monkeypatch.setattr(checkpoints, "read_state", lambda path, state=damaged: state)
            with pytest.raises(DaptError, match=f"'{re.escape(key)}' is missing"):
                load_weights(backbone, "file.pth")


def test_whole_depth_of_the_published_files():
    """Checks only the names, but of all blocks."""
    for layout, name in FILES.items():
        path = GOLDEN / f"layout_{layout}.json"
        if not path.is_file():
            pytest.skip("the published layouts are not available")
        state = {k: torch.empty(s, device="meta") for k, s in json.loads(path.read_text()).items()}
        config = dapt.models.backbone_config(name)
        if hasattr(config, "fitted"):
            config = config.fitted(state)
        with torch.device("meta"):
            network = config.build()
        kind, used = find_layout(state, LAYOUTS, layout), set()
        for entry, value in network.state_dict().items():
            if entry in kind.fresh:
                continue
            keys = kind.keys(entry, state)
            parts = [state[key] for key in keys if key is not None]
            assert sum(p.numel() for p in parts) == value.numel() * len(parts) / len(keys), entry
            used |= set(keys)
        assert all(kind.reason(key) for key in state.keys() - used), layout


@pytest.mark.parametrize(
    "layout, network",
    [("point_femae", "point_mae"), ("pcp_mae", "point_mae"), ("pointgpt_s", "point_mae"),
     ("uni3d_small", "point_mae"), ("reconpp_small_hybrid", "point_gpt_s"),
     ("point_bert", "pcp_mae")],
)  # fmt: skip
@pytest.mark.parametrize("fields", [{}, {"class_token": False}])
def test_a_file_of_another_network_is_refused(monkeypatch, layout, network, fields):
    state = cut(layout)
    monkeypatch.setattr(checkpoints, "read_state", lambda path: state)
    with pytest.raises(DaptError, match="the file looks like .*, for the network"):
        dapt.create_backbone(network, checkpoint="file.pth", depth=2, **fields)
