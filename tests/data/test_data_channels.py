"""Points with colors and normals: from a scene's file to the network's input."""

import numpy as np
import pytest
import torch

from dapt.data import load
from dapt.data.transforms import (
    AUGMENTATIONS,
    FarthestPoints,
    Jitter,
    Occlude,
    RandomPoints,
    Resample,
    Rotate,
    RotateFreely,
    Scale,
    Translate,
)
from dapt.errors import DataError, UsageError

OPTIONS = {"num_points": 64, "block": 2.0, "stride": 2.0, "min_points": 10, "normalize": False}


def save_scene(folder, name="a", colors="unit", normals=True, rng=None):
    """A scene whose colors and normals follow from the coordinates: [500, 3] each."""
    rng = rng or np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    points = rng.random((500, 3)) * [4, 4, 2]
    arrays = {"points": points, "labels": (points[:, 2] > 1).astype(int)}
    unit = points / [4, 4, 2]
    if colors is not None:
        arrays["colors"] = (unit * 255).astype(np.uint8) if colors == "bytes" else unit
    if normals:
        arrays["normals"] = points / np.linalg.norm(points, axis=1, keepdims=True)
    np.savez(folder / f"{name}.npz", **arrays)
    return arrays


def loaded(folder, **options):
    return load("scenes", OPTIONS | {"train": folder} | options, "train").batch([0])["points"][0]


@pytest.mark.parametrize("colors", ["unit", "bytes"])
def test_channels_belong_to_their_points(tmp_path, colors):
    save_scene(tmp_path / "scenes", colors=colors)
    points = loaded(tmp_path / "scenes", channels="normal", up="y")  # as in the file
    assert points.shape == (64, 9)
    place = points[:, :3]
    torch.testing.assert_close(
        points[:, 3:6], place / torch.tensor([4.0, 4, 2]), atol=1 / 255, rtol=0
    )
    normal = place / place.norm(dim=1, keepdim=True)
    torch.testing.assert_close(points[:, 6:], normal, atol=1e-5, rtol=0)


def test_normals_are_turned_upright_like_places(tmp_path):
    save_scene(tmp_path / "scenes")
    points = loaded(tmp_path / "scenes", channels="normal", up="z")
    normal = points[:, :3] / points[:, :3].norm(dim=1, keepdim=True)
    torch.testing.assert_close(points[:, 6:], normal, atol=1e-5, rtol=0)


def test_what_a_scene_does_not_know_is_zero(tmp_path):
    save_scene(tmp_path / "scenes", colors=None, normals=False)
    points = loaded(tmp_path / "scenes", channels="normal")
    assert points.shape == (64, 9) and (points[:, 3:] == 0).all()
    save_scene(tmp_path / "colored", normals=False)
    assert loaded(tmp_path / "colored", channels="color").shape == (64, 6)
    assert loaded(tmp_path / "colored").shape == (64, 3)


def test_columns_of_an_npy_file(tmp_path):
    folder = tmp_path / "scenes"
    arrays = save_scene(folder)
    names = ("points", "colors", "normals")
    table = np.concatenate([*(arrays[n] for n in names), arrays["labels"][:, None]], 1)
    (folder / "a.npz").unlink()
    np.save(folder / "a.npy", table)
    points = loaded(folder, channels="normal", up="y")
    torch.testing.assert_close(points[:, 3:6], points[:, :3] / torch.tensor([4.0, 4, 2]))


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"colors": np.zeros((500, 4))}, r"colors \[500, 3\], numbers, got float64 \[500, 4\]"),
        ({"colors": np.full((500, 3), 300.0)}, "colors in 0 to 1 or in 0 to 255, got 300 to 300"),
        ({"colors": np.full((500, 3), -0.5)}, "colors in 0 to 1 or in 0 to 255, got -0.5"),
        ({"normals": np.full((500, 3), np.nan)}, "normals that are not finite: point 0"),
    ],
)
def test_bad_channels(tmp_path, arrays, message):
    folder = tmp_path / "scenes"
    known = save_scene(folder)
    np.savez(folder / "a.npz", **known | arrays)
    with pytest.raises(DataError, match=message):
        loaded(folder, channels="normal")


def test_unknown_channels(tmp_path):
    save_scene(tmp_path / "scenes")
    with pytest.raises(
        UsageError, match="channels must be xyz, color, normal, intensity or height, got 'rgb'"
    ):
        loaded(tmp_path / "scenes", channels="rgb")


# --- transforms


def points(normals=True):
    place = torch.randn(3, 50, 3)
    parts = [place, torch.rand(3, 50, 3)]
    return torch.cat([*parts, place / place.norm(dim=2, keepdim=True)] if normals else parts, 2)


def again():
    return torch.Generator().manual_seed(5)


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("normals", [False, True])
def test_augmentation_moves_places_as_without_channels(name, normals):
    cloud = points(normals)
    augmented = AUGMENTATIONS[name](cloud, again())
    alone = AUGMENTATIONS[name](cloud[..., :3].contiguous(), again())
    assert torch.equal(augmented[..., :3], alone)
    if "occlude" in name:  # points replace others, along with their colors
        cloud = Occlude()(cloud, again())
    assert torch.equal(augmented[..., 3:6], cloud[..., 3:6])  # unchanged


@pytest.mark.parametrize("turn", [Rotate("x"), Rotate("y"), Rotate("z"), RotateFreely()])
def test_normals_turn_with_places(turn):
    turned = turn(points(), again())
    place = turned[..., :3]
    normal = place / place.norm(dim=2, keepdim=True)
    torch.testing.assert_close(turned[..., 6:], normal, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("move", [Scale(), Translate(), Jitter()])
def test_normals_stay_where_places_only_move(move):
    cloud = points()
    moved = move(cloud, again())
    assert torch.equal(moved[..., 3:], cloud[..., 3:])
    assert not torch.equal(moved[..., :3], cloud[..., :3])


@pytest.mark.parametrize("sample", [FarthestPoints(20), Resample(20), RandomPoints(20)])
def test_sampling_keeps_channels_and_chooses_by_place(sample):
    cloud = points()
    chosen = sample(cloud, again())
    assert torch.equal(chosen[..., :3], sample(cloud[..., :3].contiguous(), again()))
    normal = chosen[..., :3] / chosen[..., :3].norm(dim=2, keepdim=True)
    torch.testing.assert_close(chosen[..., 6:], normal)
