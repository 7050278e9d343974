"""scripts/tables.py: dapt accepts its commands, and its tables of their results are right."""

import json
import runpy
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dapt import cli
from dapt.training import compare
from dapt.training.statistics import differences

SCRIPT = Path(__file__).parents[2] / "scripts" / "tables.py"


@pytest.fixture
def tables(monkeypatch):
    """A function that runs the script with the given arguments in this process."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, words)])
        return runpy.run_path(str(SCRIPT), run_name="__main__")

    return run


@pytest.mark.parametrize(
    "name",
    [
        "hardest",
        "shapes",
        "electronics",
        "parts",
        "corrupted",
        "low_label",
        "compressed",
        "ablation",
    ],
)
def test_every_command_is_one_that_dapt_takes(name, tables, tmp_path, monkeypatch, capsys):
    planned = []

    def plan(methods, seeds, base, out, flags, jobs, slurm, search, reference, kinds):
        planned.append(compare.plan(methods, seeds, base, tmp_path / str(len(planned)), flags))
        assert (search is None) == (name in ("low_label", "compressed", "ablation"))
        assert len(kinds) == (5 if name == "corrupted" else 0)
        return ""

    words = ["--seeds", "1", "--dry_run"]
    words += [] if name in ("compressed", "ablation") else ["--methods", "dapt,reversible"]
    tables(name, "--out", tmp_path, "--data", "x.npz", *words)
    lines = capsys.readouterr().out.splitlines()
    assert "min on" in lines[0]
    monkeypatch.setattr(compare, "compare", plan)
    for line in lines[1:]:
        assert cli.main(shlex.split(line)[1:]) == 0
    assert len(planned) == {"low_label": 3, "compressed": 5, "ablation": 17}.get(name, 1)
    settings = [run.settings for runs in planned for run in runs]
    assert len({repr(each) for each in settings}) == len(settings)  # no two variants are the same


def test_fewer_minutes_are_fewer_epochs(tables, tmp_path, capsys):
    epochs = []
    for minutes in (1000, 100, 1):
        tables("hardest", "--out", tmp_path, "--dry_run", "--minutes", minutes)
        words = capsys.readouterr().out.split()
        epochs.append(int(words[words.index("--epochs") + 1]))
    assert epochs[0] == 15 > epochs[1] > epochs[2] == 3


def test_variants_come_to_one_table(tables, tmp_path, monkeypatch, capsys):
    rng, clouds = np.random.default_rng(0), {}

    def finished(words, **_):
        words = words[3:]
        out = Path(words[words.index("--out") + 1])
        rows = []
        for method in words[words.index("--methods") + 1].split(","):
            right = (rng.random((2, 300)) < rng.uniform(0.3, 0.9)).astype(np.float32)
            clouds[f"{out.name}, {method}"] = right
            for seed in (0, 1):
                folder = out / method.replace(":", "_") / f"seed_{seed}"
                folder.mkdir(parents=True)
                np.save(folder / "clouds.npy", right[seed])
            scores = right.mean(1).astype(float).tolist()
            rows.append({"method": method, "seeds": [0, 1], "scores": scores})
        record = {"caption": "a caption", "metric": "accuracy", "rows": rows}
        (out / "comparison.json").write_text(json.dumps(record))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr("subprocess.run", finished)
    tables("low_label", "--out", tmp_path / "low", "--methods", "dapt,linear", "--seeds", "2")
    told = json.loads((tmp_path / "low/low_label.json").read_text())
    expected = differences(clouds, "labels_0.01, dapt")
    for key, row in told["rows"].items():
        assert row["difference"] == (vars(expected[key]) if key in expected else None)
    assert "| labels_0.1, linear |" in capsys.readouterr().out
    assert (tmp_path / "low/low_label.png").read_bytes()[:4] == b"\x89PNG"


def test_ranks_of_several_sets(tables, tmp_path, capsys):
    for i, (a, b) in enumerate([(0.9, 0.8), (0.7, 0.6), (0.5, 0.4)]):
        rows = [{"method": "a", "scores": [a]}, {"method": "b", "scores": [b - 0.1, b + 0.1]}]
        rows += [{"method": "c", "scores": [0.1]}] if i else []  # not in every comparison
        (tmp_path / f"{i}.json").write_text(json.dumps({"rows": rows}))
    files = [tmp_path / f"{i}.json" for i in range(3)]
    tables("ranks", *files, "--out", tmp_path / "ranks")
    assert "| a | 1.00 |\n| b | 2.00 |" in capsys.readouterr().out
    assert json.loads((tmp_path / "ranks/ranks.json").read_text())["p"] == pytest.approx(
        0.0833, abs=1e-3
    )
    with pytest.raises(SystemExit, match="two or more comparisons"):
        tables("ranks", files[0], "--out", tmp_path / "ranks")
    with pytest.raises(SystemExit, match="needs --data"):
        tables("shapes", "--out", tmp_path)
