"""Few-shot learning: folds by seed or from published pickles, and the mean over them."""

import json
import pickle
import shutil
from statistics import fmean, pstdev

import numpy as np
import pytest
import yaml

import dapt.data
from dapt import cli
from dapt.runs.assembly import load_fold
from dapt.runs.settings import Section
from support.runs import TINY, clouds, lines

pytestmark = pytest.mark.usefixtures("one_thread")

TASK = {"name": "few_shot", "way": 2, "shot": 4, "queries": 3, "folds": 3}


@pytest.fixture
def run(tmp_path):
    """A function that runs `dapt train` on folds of 30 clouds in 3 classes; folder and exit
    code."""
    data = clouds(tmp_path / "a.npz", samples=30)

    def dapt_train(out, *flags, task=(), **fields):
        config = tmp_path / f"{out}.yaml"
        tree = TINY | {"task": TASK | dict(task), "epochs": 2, "batch_size": 4} | fields
        config.write_text(yaml.safe_dump(tree))
        words = ["--config", str(config), "--out", str(tmp_path / out)]
        if "--data.name" not in flags:
            words += ["--data.train", str(data)]
        return tmp_path / out, cli.main(["train", *words, *flags])

    return dapt_train


def result_of(folder):
    return json.loads((folder / "result.json").read_text())


def test_the_result_is_the_mean_over_folds(run, tmp_path, capsys):
    folder, code = run("x")
    assert code == 0
    result = result_of(folder)
    folds = [result_of(folder / f"fold_{fold}") for fold in range(3)]
    accuracies = [fold["accuracy"] for fold in folds]
    assert result["folds"] == accuracies
    assert result["accuracy"] == pytest.approx(fmean(accuracies))
    assert result["accuracy_std"] == pytest.approx(pstdev(accuracies))
    assert result["trainable_parameters"] == folds[0]["trainable_parameters"]
    assert f"± {result['accuracy_std']:.4f} over 3 folds" in capsys.readouterr().out
    for fold in folds:
        assert fold["split"] == "test" and fold["best_epoch"] == 1  # the last epoch, not the best
        assert sum(row["samples"] for row in fold["per_class"]) == 2 * 3
    assert lines(folder / "fold_0") != lines(folder / "fold_1")

    out = tmp_path / "scores.json"
    assert cli.main(["evaluate", str(folder), "--out", str(out)]) == 0
    scores = json.loads(out.read_text())
    assert scores["accuracy"] == pytest.approx(result["accuracy"])
    assert [row["accuracy"] for row in scores["per_class"]] == accuracies
    assert "fold 2" in capsys.readouterr().out
    assert cli.main(["evaluate", str(folder), "--split", "validation"]) == 2
    assert "names no validation data" in capsys.readouterr().err
    assert cli.main(["evaluate", str(folder / "fold_1"), "--out", str(out)]) == 0
    assert json.loads(out.read_text())["accuracy"] == accuracies[1]


def test_going_on_trains_only_what_is_missing(run):
    folder, _ = run("x")
    whole = result_of(folder)
    kept = (folder / "fold_0" / "result.json").stat().st_mtime_ns
    shutil.rmtree(folder / "fold_1")
    (folder / "fold_2" / "result.json").unlink()
    assert run("x")[1] == 2  # the folder already holds a run
    assert run("x", "--resume")[1] == 0
    assert (folder / "fold_0" / "result.json").stat().st_mtime_ns == kept
    assert result_of(folder)["folds"] == whole["folds"]


def test_one_fold_alone_is_the_same_fold(run):
    folder, _ = run("all")
    alone, code = run("alone", "--task.fold", "2")
    assert code == 0
    assert lines(alone) == lines(folder / "fold_2")


def test_folds_are_a_matter_of_the_seed(tmp_path):
    fields = {"train": clouds(tmp_path / "a.npz", samples=60)}

    def points(fold, seed):
        train, test = load_fold(
            Section("npz", fields), Section("few_shot", TASK | {"fold": fold}), seed
        )
        assert np.bincount(train.labels).tolist() == [4, 4]
        assert np.bincount(test.labels).tolist() == [3, 3]
        assert not set(train.indices) & set(test.indices)
        assert train.class_names == test.class_names
        of = np.asarray(train.dataset.class_names)[train.dataset.labels[train.indices]]
        assert of.tolist() == [train.class_names[label] for label in train.labels]
        return train.indices.tolist() + test.indices.tolist()

    assert points(1, 0) == points(1, 0)
    assert len({tuple(points(fold, seed)) for fold in range(3) for seed in range(2)}) == 6


def test_published_folds(tmp_path, run):
    rng = np.random.default_rng(0)
    folder = tmp_path / "folds" / "2way_4shot"
    folder.mkdir(parents=True)
    for fold in range(3):
        episode = {
            split: [
                (rng.normal(size=(24, 6)).astype("f4"), label, 30 + label)
                for label in (0, 1)
                for _ in range(count)
            ]
            for split, count in (("train", 4), ("test", 3))
        }
        (folder / f"{fold}.pkl").write_bytes(pickle.dumps(episode))
    words = ["--data.name", "modelnet40_fewshot", "--data.root", str(tmp_path / "folds")]
    out, code = run("x", *words)
    assert code == 0 and len(result_of(out)["folds"]) == 3
    names = [row["class"] for row in result_of(out / "fold_2")["per_class"]]
    assert names == ["30", "31"]
    fields = {"root": tmp_path / "folds"}
    train, test = load_fold(
        Section("modelnet40_fewshot", fields), Section("few_shot", TASK | {"fold": 2}), seed=0
    )
    published = dapt.data.load(
        "modelnet40_fewshot", fields | {"way": 2, "shot": 4, "fold": 2}, "train"
    )
    np.testing.assert_array_equal(train.batch(range(8))["points"], published.arrays["points"])
    assert len(test) == 6


@pytest.mark.parametrize(
    "task, words",
    [
        ({"way": 4}, "only 3 are that large"),
        ({"shot": 9}, "12 samples"),
        ({"fold": 3}, "fold must lie in 0 to 2, got 3"),
        ({"folds": 0}, "folds must be at least 1"),
        ({"way": 0}, "way must be at least 1"),
    ],
    ids=str,
)
def test_impossible_folds_are_one_sentence(run, capsys, task, words):
    _, code = run("x", task=task)
    written = capsys.readouterr().err.strip().splitlines()
    assert code == 2 and words in written[-1], written
    assert written[-1].startswith("dapt train: ")
