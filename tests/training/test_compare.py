"""The table of methods: what it runs, what it does not repeat, and what it says."""

import csv
import json
import statistics
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from dapt import cli
from dapt.training import compare
from dapt.training.comparison import Row
from dapt.training.search import choose
from dapt.training.statistics import differences
from support.runs import TINY, clouds

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def started(monkeypatch):
    """The runs that a comparison starts, as (method, seed); they run in this process."""
    log = []

    def train(run, environment):
        log.append((run.method, run.seed))
        assert cli.main(["train", *run.arguments]) == 0

    monkeypatch.setattr(compare, "train", train)
    return log


@pytest.fixture
def comparison(tmp_path):
    """A function that runs `dapt compare` of methods on tiny clouds; returns its exit code."""
    clouds(tmp_path / "a.npz")
    clouds(tmp_path / "b.npz", samples=11, seed=1)
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(TINY | {"epochs": 2}))

    def run(methods, *flags, base="base.yaml", seeds=2):
        words = ["compare", "--methods", methods, "--seeds", str(seeds)]
        words += ["--config", str(tmp_path / base), "--out", str(tmp_path / "out")]
        words += ["--data.train", str(tmp_path / "a.npz"), "--data.test", str(tmp_path / "b.npz")]
        return cli.main([*words, *flags])

    return run


def test_table_says_what_the_runs_say(comparison, started, tmp_path, capsys):
    assert comparison("dapt,linear") == 0
    assert started == [("dapt", 0), ("linear", 0), ("dapt", 1), ("linear", 1)]
    out = tmp_path / "out"
    results = [json.loads((out / f"dapt/seed_{s}/result.json").read_text()) for s in (0, 1)]
    scores = [result["accuracy"] for result in results]
    rows = {row["method"]: row for row in csv.DictReader((out / "comparison.csv").open())}
    assert float(rows["dapt"]["accuracy_mean"]) == pytest.approx(statistics.mean(scores))
    assert float(rows["dapt"]["accuracy_std"]) == pytest.approx(statistics.stdev(scores))
    trained = results[0]["trainable_parameters"]
    assert int(rows["dapt"]["trainable_parameters"]) == trained
    assert int(rows["linear"]["trainable_parameters"]) < trained
    table = (out / "comparison.md").read_text()
    assert f"| dapt | {statistics.mean(scores):.4f} ± {statistics.stdev(scores):.4f} | 2 |" in table
    assert "test split of npz, 2 epochs, of which the best on the validation split" in table
    assert capsys.readouterr().out.endswith(table)
    record = json.loads((out / "comparison.json").read_text())
    assert record["rows"][0]["scores"] == scores and record["split"] == "test"
    page = (out / "report.html").read_text()
    assert "2 ways to adapt it" in page and page.count("<h2>") >= 9
    assert (out / "comparison.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    ranks = [yaml.safe_load((out / f"{m}/seed_0/config.yaml").read_text())["method"] for m in rows]
    assert ranks == [ranks[0] | {"name": "dapt", "rank": 3}, {"name": "linear"}]


def test_differences_are_those_of_seeds_and_clouds(comparison, started, tmp_path):
    assert comparison("dapt,linear,vpt", "--reference", "linear") == 0
    out = tmp_path / "out"
    clouds = {
        method: np.stack([np.load(out / method / f"seed_{seed}" / "clouds.npy") for seed in (0, 1)])
        for method in ("dapt", "linear", "vpt")
    }
    record = json.loads((out / "comparison.json").read_text())
    for row in record["rows"]:
        assert clouds[row["method"]].shape == (2, 11)
        assert clouds[row["method"]].mean(1).tolist() == pytest.approx(row["scores"])
    rows = {row["method"]: row["difference"] for row in record["rows"]}
    expected = differences(clouds, "linear")
    assert rows == {"linear": None} | {name: vars(each) for name, each in expected.items()}
    assert record["metric_of_differences"] == "accuracy" and record["reference"] == "linear"
    table = (out / "comparison.md").read_text()
    assert "vs linear, points" in table and expected["dapt"].in_words in table
    (out / "vpt/seed_0/clouds.npy").unlink()  # as in runs of an older version
    assert comparison("dapt,linear,vpt") == 0
    assert "vs " not in (out / "comparison.md").read_text()
    assert comparison("dapt,linear", "--reference", "vpt") == 2


def test_learning_rates_are_searched_on_the_validation_split(comparison, started, tmp_path, capsys):
    flags = ("--search", "1e-6,1e-2", "--search_seeds", "2")
    assert comparison("dapt,linear", *flags, seeds=1) == 0
    searched = [(m, s) for s in (1000, 1001) for m in ("dapt", "linear") for _ in range(2)]
    assert started == [*searched, ("dapt", 0), ("linear", 0)]
    out = tmp_path / "out"
    found = json.loads((out / "comparison.json").read_text())
    assert found["search"]["rates"] == [1e-6, 1e-2] and found["search"]["seeds"] == [1000, 1001]
    for row in found["rows"]:
        told = found["search"]["methods"][row["method"]]
        for rate, score in zip(("1e-06", "0.01"), told["validation_accuracy"], strict=True):
            runs = (out / "search" / row["method"] / f"rate_{rate}").glob("seed_*/result.json")
            results = [json.loads(path.read_text())["validation_accuracy"] for path in runs]
            assert len(results) == 2 and score == pytest.approx(statistics.mean(results))
        scores = told["validation_accuracy"]
        best = 1e-6 if scores[0] >= scores[1] else 1e-2  # a tie goes to the smaller one
        config = yaml.safe_load((out / row["method"] / "seed_0/config.yaml").read_text())
        assert told["chosen"] == row["learning_rate"] == config["learning_rate"] == best
    assert "| method | 1e-06 | 0.01 | chosen |" in (out / "comparison.md").read_text()
    (out / "search/dapt/rate_0.01/seed_1001/result.json").unlink()
    assert comparison("dapt,linear", *flags, seeds=1) == 0
    assert started[len(searched) + 2 :] == [("dapt", 1001)]
    capsys.readouterr()
    for wrong, sentence in {
        ("--search", "1e-3"): "two or more",
        ("--search", "a,b"): "numbers separated by commas",
        ("--search", "0,1"): "above 0",
        ("--search", "1e-3,1e-2", "--validation", "0"): "validation split",
        ("--search", "1e-3,1e-2", "--learning_rate", "1"): "leave out one of them",
    }.items():
        assert comparison("linear", *wrong, seeds=1) == 2
        assert sentence in capsys.readouterr().err


def test_the_best_rate_is_chosen_whatever_the_test_split_says():
    def run(method, rate, validation, test):
        settings = SimpleNamespace(
            task=SimpleNamespace(name="classification"),
            training=SimpleNamespace(learning_rate=rate),
        )
        result = {"validation_accuracy": validation, "accuracy": test}
        return SimpleNamespace(method=method, settings=settings, result=lambda: result)

    runs = [run("dapt", 1e-3, 0.5, 0.9), run("dapt", 1e-2, 0.6, 0.1), run("dapt", 1e-1, 0.6, 0.2)]
    runs += [run("full", 1e-3, 0.2, 0.1), run("full", 1e-2, 0.8, 0.0), run("full", 1e-1, 0.7, 0.9)]
    found = choose(runs, (1e-3, 1e-2, 1e-1))
    assert {name: choice.rate for name, choice in found.items()} == {"dapt": 1e-2, "full": 1e-2}
    assert not found["dapt"].is_at_edge and found["full"].scores[1e-1] == 0.7


def test_runs_only_what_is_missing(comparison, started, tmp_path, capsys):
    assert comparison("linear", seeds=1) == 0
    assert comparison("vpt,linear", seeds=1) == 0
    assert started == [("linear", 0), ("vpt", 0)]
    (tmp_path / "out/vpt/seed_0/result.json").unlink()  # as if it had been killed near its end
    assert comparison("vpt,linear", seeds=1) == 0
    assert started == [("linear", 0), ("vpt", 0), ("vpt", 0)]
    assert comparison("linear", "--epochs", "3", seeds=1) == 2
    assert "has epochs=2, not 3" in capsys.readouterr().err


def test_a_recipe_says_what_differs_for_a_method(comparison, started, tmp_path):
    rates = {"dapt": 0.01, "linear": 0.02}
    methods = {method: {"learning_rate": rate} for method, rate in rates.items()}
    methods["dapt"]["method"] = {"rank": 5}
    recipe = TINY | {"epochs": 1, "methods": methods}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert comparison("dapt,linear", base="recipe.yaml", seeds=1) == 0
    for method, rate in rates.items():
        settings = yaml.safe_load((tmp_path / f"out/{method}/seed_0/config.yaml").read_text())
        assert settings["learning_rate"] == rate and settings["epochs"] == 1
        assert settings["method"].get("rank") == (5 if method == "dapt" else None)


@pytest.mark.parametrize(
    "methods, flags, words",
    [
        ("dapt,nonsense", (), "unknown method 'nonsense'"),
        ("dapt,dapt", (), "must name each method once"),
        ("dapt", ("--nonsense", "1"), "nonsense"),
        ("dapt", ("--seeds", "0"), "--seeds: must be at least 1, got 0"),
    ],
)
def test_mistakes_are_found_before_the_first_run(
    comparison, started, capsys, methods, flags, words
):
    assert comparison(methods, *flags) == 2
    written = capsys.readouterr().err.strip().splitlines()
    assert words in written[-1] and written[-1].startswith("dapt compare: ")
    assert not started


@pytest.mark.slow
def test_real_processes(comparison, tmp_path, capfd):
    assert comparison("linear", seeds=1) == 0
    assert "| linear | " in capfd.readouterr().out
    (tmp_path / "out/linear/seed_0/result.json").unlink()
    (tmp_path / "out/linear/seed_0/last.ckpt").write_bytes(b"damaged")
    (tmp_path / "out/linear/seed_0/previous.ckpt").write_bytes(b"damaged")
    assert comparison("linear", seeds=1) == 1
    assert "the run of linear with seed 0 ended with exit code 1" in capfd.readouterr().err


def test_folds_of_one_seed_have_a_spread():
    costs = "trainable_parameters total_parameters saved_activation_bytes peak_memory_bytes"
    result = dict.fromkeys([*costs.split(), "seconds_per_step"], 1)
    result |= {"accuracy": 0.8, "accuracy_std": 0.05}
    row = Row.of("dapt", {0: result}, "accuracy")
    assert row.spread == 0.05
    row = Row.of("dapt", {0: result, 1: result | {"accuracy": 0.9}}, "accuracy")
    assert row.spread == pytest.approx(statistics.stdev([0.8, 0.9]))
