"""The training loop on tiny clouds: repeatable, resumable, honest about what it did."""

import json

import numpy as np
import pytest
import torch
import yaml

from dapt.runs import processes
from dapt.training.optimization import decays
from support.runs import TINY, assert_same_run, lines

pytestmark = pytest.mark.usefixtures("one_thread")


def test_same_seed_same_run_and_another_seed_another(run):
    one, code = run("one")
    assert code == 0
    assert_same_run(one, run("two")[0])
    assert lines(one) != lines(run("three", "--seed", "1")[0])


def test_it_learns(run):
    task = {"name": "classification", "dropout": 0.0}
    still = {"augmentation": "none", "epochs": 40, "method": {"name": "full"}, "task": task}
    folder, _ = run("x", "--with-test", **still)
    result = json.loads((folder / "result.json").read_text())
    assert result["split"] == "test" and result["accuracy"] > 0.6  # a third would be chance
    assert result["trainable_parameters"] == result["total_parameters"]
    assert result["saved_activation_bytes"] > 0 and result["seconds_per_step"] > 0


def test_a_quantized_weight_counts_as_the_weight_it_encodes(run):
    quantized = {"backbone": TINY["backbone"] | {"weights": "nf4"}}
    results = [run("float"), run("nf4", **quantized)]
    totals = [
        json.loads((out / "result.json").read_text())["total_parameters"] for out, _ in results
    ]
    assert totals[0] == totals[1]


def test_the_test_split_does_not_choose_the_epoch(run):
    """The same weights and the same best epoch, with and without a test file."""
    alone, tested = run("alone")[0], run("tested", "--with-test")[0]
    assert (alone / "adapter/adapter_model.safetensors").read_bytes() == (
        tested / "adapter/adapter_model.safetensors"
    ).read_bytes()
    accuracies = [line["validation_accuracy"] for line in lines(tested)]
    result = json.loads((tested / "result.json").read_text())
    assert result["best_epoch"] == accuracies.index(max(accuracies))
    field = max(line["test_accuracy"] for line in lines(tested))
    assert result["accuracy_of_best_epoch_by_test"] == field


@pytest.mark.parametrize("every, seen", [(0, []), (2, [1, 3])])
def test_the_test_split_is_looked_at_as_often_as_asked_for(run, every, seen):
    each, _ = run("each", "--with-test", epochs=4)
    folder, _ = run("some", "--with-test", epochs=4, test_every=every)
    assert [line["epoch"] for line in lines(folder) if "test_accuracy" in line] == seen
    a, b = (json.loads((f / "result.json").read_text()) for f in (each, folder))
    assert a["accuracy"] == b["accuracy"] and a["split"] == b["split"] == "test"
    assert ("accuracy_of_best_epoch_by_test" in b) == bool(seen)


def test_without_validation_all_clouds_train_and_the_last_epoch_counts(run):
    folder, code = run("x", "--with-test", "--validation", "0")
    result = json.loads((folder / "result.json").read_text())
    assert code == 0 and result["best_epoch"] == len(lines(folder)) - 1
    assert result["accuracy"] == lines(folder)[-1]["test_accuracy"]
    assert "validation_loss" not in lines(folder)[-1]


def test_without_validation_and_test_nothing_is_trained(run, capsys):
    _, code = run("x", "--validation", "0")
    assert code == 2 and "validation 0 needs test data" in capsys.readouterr().err


@pytest.mark.parametrize(
    "fields",
    [
        {"accumulate": 2},
        {"ema": 0.9},
        {"precision": "bf16"},
        {"method": {"name": "full"}},
        {"method": {"name": "linear"}},
        {"num_points": 16},
    ],
    ids=str,
)
def test_every_way_to_train_repeats_itself(run, fields):
    one, code = run("one", **fields)
    assert code == 0 and len(lines(one)) == 3
    assert all(np.isfinite(line["train_loss"]) for line in lines(one))
    assert_same_run(one, run("two", **fields)[0])


def test_accumulation_is_the_larger_batch(run):
    """Without any randomness, two batches of 7 equal one of 14."""
    still = {
        "augmentation": "none",
        "method": {"name": "linear"},
        "task": {"name": "classification", "head": "linear", "dropout": 0.0},
        "min_learning_rate": TINY["learning_rate"],
    }
    whole = lines(run("whole", **still, batch_size=14)[0])
    halves = lines(run("halves", **still, batch_size=7, accumulate=2)[0])
    for one, other in zip(whole, halves, strict=True):
        assert one["validation_loss"] == pytest.approx(other["validation_loss"], rel=1e-4)


def test_patience_stops_early(run):
    still = ["--learning_rate", "1e-9", "--min_learning_rate", "0"]
    folder, _ = run("x", "--epochs", "60", "--patience", "2", *still)
    result = json.loads((folder / "result.json").read_text())
    assert result["epochs"] < 60 and result["epochs"] >= result["best_epoch"] + 3


def test_pretraining_lowers_the_loss_and_leaves_a_backbone(run, tmp_path):
    flags = ("--epochs", "8", "--probe_every", "5")
    folder, code = run("pre", *flags, command="pretrain", num_points=None)
    assert code == 0
    epochs = lines(folder)
    assert epochs[-1]["validation_loss"] < epochs[0]["validation_loss"]
    probed = [i for i, line in enumerate(epochs) if 0 <= line.get("probe_accuracy", -1) <= 1]
    assert probed == [4, 7]
    checkpoint = str(folder / "backbone.safetensors")
    assert run("fine", "--backbone.checkpoint", checkpoint)[1] == 0


def test_a_method_adds_a_loss_and_meters(run, monkeypatch):
    from dapt.methods import Dapt

    plain = lines(run("plain")[0])
    monkeypatch.setattr(Dapt, "extra_loss", lambda self, model: torch.tensor(5.0))
    monkeypatch.setattr(Dapt, "meters", lambda self, model: {"share": 0.25})
    more = lines(run("more")[0])
    assert more[0]["train_loss"] == pytest.approx(plain[0]["train_loss"] + 5)
    assert more[0]["validation_share"] == 0.25


def test_tokens_and_vectors_do_not_decay():
    matrix, vector = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))
    assert decays("backbone.tokenizer.encoder.first.0.weight", matrix)
    for name in ("cls_token", "blocks.0.prompt_tokens", "blocks.0.attn.bias"):
        assert not decays(name, matrix)
    assert not decays("norm.weight", vector)


@pytest.mark.parametrize("units", [True, False])
def test_precision_is_chosen_once_for_a_run(run, monkeypatch, units):
    """bfloat16 is used only if the processor multiplies it; a resumed run keeps its choice."""
    monkeypatch.setattr(processes, "_cpu_multiplies_bfloat16", lambda: units)
    folder, code = run("x", precision="auto", epochs=2)
    assert code == 0
    chosen = yaml.safe_load((folder / "config.yaml").read_text())["precision"]
    assert chosen == ("bf16" if units else "fp32")
    named, _ = run("named", precision=chosen, epochs=2)
    assert_same_run(folder, named)
    monkeypatch.setattr(processes, "_cpu_multiplies_bfloat16", lambda: not units)
    assert run("x", "--resume", precision="auto", epochs=2)[1] == 0
    assert yaml.safe_load((folder / "config.yaml").read_text())["precision"] == chosen
