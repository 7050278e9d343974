"""The groups of an npz file and shares of its labels, as training uses them."""

import json

import numpy as np
import pytest
import yaml

from dapt import cli
from dapt.data import load, split_validation
from dapt.errors import DataError
from dapt.runs.assembly import load_splits
from dapt.runs.folder import RunFolder
from support.runs import TINY, clouds

GROUPS = np.arange(36) % 3 + np.arange(36) // 12 * 3  # three groups of four clouds in each class


@pytest.mark.parametrize("groups", [GROUPS, np.array([f"mold {each}" for each in GROUPS])])
def test_groups_of_a_file_stay_together(tmp_path, groups):
    clouds(tmp_path / "a.npz", 36, groups=groups)
    dataset = load("npz", {"train": tmp_path / "a.npz"}, "train")
    train, validation = split_validation(dataset, 0.3, 0)
    assert not set(train.scenes) & set(validation.scenes)
    assert np.bincount(validation.labels).tolist() == [4, 4, 4]
    assert "scenes" not in validation.batch([0])


def test_groups_without_a_row_for_each_cloud_are_refused(tmp_path):
    clouds(tmp_path / "a.npz", 36, groups=np.arange(35))
    with pytest.raises(DataError, match=r"groups of .* must be \[36\]"):
        load("npz", {"train": tmp_path / "a.npz"}, "train")


def test_groups_of_a_folder(tmp_path):
    rng = np.random.default_rng(0)
    lines = []
    for label in ("cup", "pot"):
        (tmp_path / "shapes" / label).mkdir(parents=True)
        for i in range(8):
            np.save(tmp_path / "shapes" / label / f"{i}.npy", rng.normal(size=(20, 3)))
            # the last two have no group
            lines += [f"{label}/{i}.npy, mold {i // 2}"] if i < 6 else []
    (tmp_path / "groups.csv").write_text("\n".join(lines))
    options = {"train": tmp_path / "shapes", "num_points": 20, "groups": tmp_path / "groups.csv"}
    dataset = load("folder", options, "train")
    # a mold of both classes is one group
    assert np.bincount(dataset.scenes).tolist() == [4, 4, 4, 1, 1, 1, 1]
    train, validation = split_validation(dataset, 0.3, 1)
    assert not set(train.scenes) & set(validation.scenes) and len(validation)
    (tmp_path / "groups.csv").write_text("cup/0.npy\n")
    with pytest.raises(DataError, match="lines `class/file,group`"):
        load("folder", options, "train")
    (tmp_path / "groups.csv").write_text("shapes/cup/0.npy,a\n")
    with pytest.raises(DataError, match="names no file of the data"):
        load("folder", options, "train")


def test_a_training_with_few_labels_validates_on_as_many_clouds(tmp_path, one_thread):
    clouds(tmp_path / "a.npz", 90)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(TINY | {"epochs": 1}))
    words = ["train", "--config", str(tmp_path / "config.yaml"), "--label_share", "0.1"]
    words += ["--data.train", str(tmp_path / "a.npz"), "--out", str(tmp_path / "run")]
    assert cli.main(words) == 0
    folder = RunFolder(tmp_path / "run")
    train, validation, _ = load_splits(folder.settings())
    assert np.bincount(train.labels).tolist() == [2, 2, 2] and len(validation) == 24
    assert len(load_splits(folder.settings().but(label_share=1.0))[0]) == 66
    assert cli.main([*words, "--resume", "--label_share", "0.5"]) == 2


def test_a_run_from_before_an_option_goes_on(tmp_path, one_thread):
    clouds(tmp_path / "a.npz")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(TINY | {"epochs": 1}))
    words = ["train", "--config", str(tmp_path / "config.yaml"), "--resume"]
    words += ["--data.train", str(tmp_path / "a.npz"), "--out", str(tmp_path / "run")]
    assert cli.main(words) == 0
    config = tmp_path / "run" / "config.yaml"
    tree = yaml.safe_load(config.read_text())
    assert tree.pop("label_share") == 1.0
    config.write_text(yaml.safe_dump(tree))
    assert cli.main(words) == 0
    assert json.loads((tmp_path / "run" / "result.json").read_text())["epochs"] == 1
