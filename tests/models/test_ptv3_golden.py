"""The published encoders' results on the golden cases, via the loader that users call."""

import pytest
import torch

import dapt
import dapt_ext
from dapt.models.checkpoints import find_layout
from dapt.models.layouts import LAYOUTS

CASES = {
    "sonata_small": "ptv3_sonata_small",
    "concerto_tiny": "ptv3_concerto_tiny",
    "utonia_tiny": "ptv3_utonia_tiny",
}


def scenes(case):
    """Points with colors and normals, and the number of points in each scene."""
    place = case.points().double()
    color = 0.5 + 0.5 * (5 * place).sin()
    normal = place / place.norm(dim=-1, keepdim=True)
    return torch.cat([place, color, normal], -1).float(), torch.tensor(case.config["keep"])


def network(case, name, folder):
    """A network loaded from a weight file, as a user would; rotary frequencies are its own."""
    config = case.config
    fields = {
        "dims": config["enc_channels"],
        "depths": config["enc_depths"],
        "num_heads": config["enc_num_head"],
        "patch_size": config["enc_patch_size"][0],
        "grid_size": config["grid"],
        "scale": 1.0,
    }
    weights = case.weights()
    for key, value in weights.items():
        if key.endswith("inv_freq"):
            value.copy_(config["rope_base"] ** (-torch.arange(0.0, 6.0, 2.0) / 6))
    path = folder / "published.pth"
    torch.save({"config": {"in_channels": 9}, "state_dict": weights}, path)
    return dapt.create_backbone(name, checkpoint=path, **fields).eval()


def close(got, case, name):
    """Asserts agreement within 3e-4 of the largest value of the float64 result."""
    expected = case.result(name)
    torch.testing.assert_close(got, expected, rtol=0, atol=3e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("name", CASES)
def test_published_encoders(golden, tmp_path, name):
    case = golden(name)
    backbone = network(case, CASES[name], tmp_path)
    points, keep = scenes(case)

    features = backbone(points, lengths=keep)
    (features.tokens[-1] ** 2).mean().backward()

    assert features.geometries[0].sizes == tuple(case.results["voxels"])
    for scale, (tokens, geometry) in enumerate(
        zip(features.tokens, features.geometries, strict=True)
    ):
        places = geometry.cells.places
        assert torch.equal(places[:8], case.result(f"stage{scale}_grid_first")), scale
        close(tokens[:4], case, f"stage{scale}_first")
        close(tokens.mean(0), case, f"stage{scale}_mean")
        codes = dapt_ext.curve_codes(places, geometry.cells.depths(), geometry.cells.scenes)
        order = codes.argsort(1)
        assert torch.equal(order[:, :16], case.result(f"stage{scale}_order_first")), scale
        check = (order * (torch.arange(order.shape[1]) % 97)).sum(1)
        assert torch.equal(check, case.result(f"stage{scale}_order_check")), scale
    close(features.tokens[-1][:8], case, "features_first")
    close(features.tokens[-1][-4:], case, "features_last")
    close(features.patch_mean, case, "pooled")
    up = features.upcast(first=2)
    close(up[:4], case, "up_first")
    close(up.mean(0), case, "up_mean")

    layout = find_layout(case.weights(), LAYOUTS, "published.pth")
    got = {layout.key(entry): w.grad.norm().item() for entry, w in backbone.named_parameters()}
    expected = case.grad_norms()
    assert got.keys() == expected.keys()
    for key, norm in expected.items():
        assert got[key] == pytest.approx(norm, rel=2e-3), key
