"""The table of methods: what it runs, what it leaves alone, and what it says."""

import csv
import json
import statistics

import pytest
import yaml

from dapt import cli
from dapt.training import compare
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
    """A function: `dapt compare` of methods on tiny clouds; returns its exit code."""
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
    row = compare.Row.of("dapt", {0: result}, "accuracy")
    assert row.spread == 0.05
    row = compare.Row.of("dapt", {0: result, 1: result | {"accuracy": 0.9}}, "accuracy")
    assert row.spread == pytest.approx(statistics.stdev([0.8, 0.9]))
