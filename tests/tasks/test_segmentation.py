"""Point labels: the published head, every method under it, and runs from start to end."""

import json
import os
import re
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml

import dapt
from dapt import cli
from dapt.adapters import attach
from dapt.data.dataset import ArrayDataset
from dapt.errors import UsageError
from dapt.models.checkpoints import find_layout
from dapt.models.layouts import LAYOUTS
from dapt.tasks.segmentation_head import SegmentationHead, thirds
from support.methods import attached, each_backbone, each_method
from support.runs import TINY, labeled, lines

pytestmark = pytest.mark.usefixtures("one_thread")

PUBLISHED_HEAD = {
    "category.0": "label_conv.0",
    "category.1": "label_conv.1",
    "near": "propagation_0.mlp_convs.0",
    "spread.0": "propagation_0.mlp_bns.0",
    "spread.2": "propagation_0.mlp_convs.1",
    "spread.3": "propagation_0.mlp_bns.1",
    "mix": "convs1",
    "layers.0": "bns1",
    "layers.3": "convs2",
    "layers.4": "bns2",
    "layers.6": "convs3",
}


def published_key(entry):
    module, _, field = entry.rpartition(".")
    return f"{PUBLISHED_HEAD[module]}.{field}"


def test_the_published_network(golden, tmp_path):
    case = golden("point_mae_partseg")
    weights, config = case.weights(), case.config
    torch.save({"base_model": weights}, tmp_path / "published.pth")
    backbone = dapt.create_backbone(
        "point_mae",
        checkpoint=tmp_path / "published.pth",
        num_groups=config["num_group"],
        group_size=config["group_size"],
        class_token=False,
    )
    model = attach(backbone, dapt.Full(), dapt.PartSegmentation(16, 50)).eval()
    head = model.head.state_dict()
    state = {entry: weights[published_key(entry)] for entry in head}
    model.head.load_state_dict({k: v.reshape(head[k].shape) for k, v in state.items()})
    labels = torch.arange(config["batch"] * config["points"]) % 50

    points, categories = case.points(), case.result("categories")
    logits = model(points, categories)
    logs = logits.log_softmax(2)
    loss = F.nll_loss(logs.flatten(0, 1), labels)
    loss.backward()

    torch.testing.assert_close(logs[:, :16], case.result("log_probs_first"), atol=2e-4, rtol=0)
    torch.testing.assert_close(loss, case.result("loss"), atol=2e-4, rtol=0)
    layout = find_layout(weights, LAYOUTS, "published.pth")
    got = {}
    for name, weight in model.named_parameters():
        part, _, entry = name.partition(".")
        key = published_key(entry) if part == "head" else layout.key(entry)
        got[key] = weight.grad.norm().item()
    expected = case.grad_norms()
    assert got.keys() == expected.keys()
    for key, norm in expected.items():
        assert got[key] == pytest.approx(norm, rel=0.01, abs=1e-5), key


@pytest.mark.parametrize(
    "method, trained, total",
    [
        (dapt.Full(), 27_063_730, 27_063_730),
        (dapt.Dapt(rank=32), 5_664_574, None),
        (dapt.Dapt(rank=30), 5_646_118, None),
        (dapt.Linear(), 5_238_706, 27_063_730),
    ],
    ids=["full", "dapt 32", "dapt 30", "linear"],
)
def test_parameters_of_the_published_size(method, trained, total):
    backbone = dapt.create_backbone("point_mae", num_groups=128, class_token=False)
    got = attach(backbone, method, dapt.PartSegmentation(16, 50)).count_parameters()
    assert got[0] == trained and got[1] == (total or got[1])


def small_head(dtype=torch.float64, **fields):
    """A head of 12 channels at two levels, with batch norm statistics as if trained."""
    torch.manual_seed(5)
    head = SegmentationHead(12, 7, (0, 1), **fields).to(dtype)
    for module in head.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    return head


def features(B, G, dtype=torch.float64, seed=None):
    generator = torch.Generator()
    generator.manual_seed(seed) if seed is not None else generator.seed()
    from dapt.models import Features

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=dtype)

    levels = normal(B, G, 12), normal(B, G, 12)
    return Features(None, normal(B, 0, 12), levels[1], normal(B, G, 3), levels)


def plain_head(head, features, points, categories):
    """The formula as in the paper: interpolate, concatenate, then multiply."""
    B, N, _ = points.shape
    tokens = torch.cat(features.levels, 2)
    distance = (points[:, :, None] - features.centers[:, None]).square().sum(3)  # [B, N, G]
    nearest, index = distance.topk(min(3, distance.shape[2]), largest=False)
    share = 1 / (nearest + 1e-8)
    share = share / share.sum(2, keepdim=True)
    rows = torch.arange(B)[:, None, None]
    spread = (tokens[rows, index] * share[..., None]).sum(2)
    x = head.near(torch.cat([points, spread], 2).flatten(0, 1))
    overall = [tokens.amax(1), tokens.mean(1)]
    if head.num_categories:
        overall.append(head.category(F.one_hot(categories, head.num_categories).to(x.dtype)))
    overall = torch.cat(overall, 1)[:, None].expand(-1, N, -1).flatten(0, 1)
    return head.layers(head.mix(torch.cat([head.spread(x), overall], 1))).view(B, N, -1)


@pytest.mark.parametrize("G", [1, 2, 3, 9])
@pytest.mark.parametrize("num_categories", [0, 4])
def test_the_rearranged_head_is_the_plain_formula(G, num_categories):
    head = small_head(num_categories=num_categories).eval()
    inputs = features(3, G)
    points = torch.randn(3, 21, 3, dtype=torch.float64)
    categories = torch.tensor([3, 0, 3])
    got = head(inputs, points, *([categories] if num_categories else []))
    expected = plain_head(head, inputs, points, categories)
    # interpolation weights come from float32 distances, but from float64 in the reference
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_a_point_is_labeled_alike_in_any_company():
    head = small_head(torch.float32, num_categories=4).eval()
    inputs = features(2, 9, torch.float32)
    points, categories = torch.randn(2, 40, 3), torch.tensor([1, 2])
    whole = head(inputs, points, categories)
    torch.testing.assert_close(head(inputs, points[:, 11:29], categories), whole[:, 11:29])


def test_levels_end_the_thirds_of_the_network():
    assert thirds(12) == (3, 7, 11) and thirds(6) == (1, 3, 5) and thirds(5) == (0, 2, 4)
    assert thirds(2) == (0, 1) and thirds(1) == (0,)


@each_backbone
@each_method
def test_every_method_learns_to_label_points(small_backbone, name, method):
    """A few steps lower the loss of their batch and change only the method's own weights."""
    torch.manual_seed(0)
    backbone = small_backbone(name)
    clouds, labels = torch.randn(4, 64, 3), torch.tensor([0, 2, 1, 2])
    batch = {"labels": labels, "part_labels": torch.randint(0, 5, (4, 64))}
    tasks = dapt.PartSegmentation(3, 5, dropout=0.0), dapt.SemanticSegmentation(5, 0.0)
    for task in tasks[: 1 + (name == "point_mae")]:
        model = attached(backbone, method, task).train()
        before = {k: v.clone() for k, v in model.state_dict().items() if not model.owns(k)}
        inputs = task.inputs(batch)
        optimizer = torch.optim.AdamW([weight for _, weight in model.own_parameters()], 1e-3)
        losses = []
        for _ in range(8):
            optimizer.zero_grad()
            torch.manual_seed(1)  # the same masks in every step
            output = model(clouds, *inputs)
            assert output.shape == (4, 64, 5)
            loss = task.loss(output, batch)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0]
        for entry, value in before.items():
            assert torch.equal(model.state_dict()[entry], value), entry
        backbone = dapt.detach(model)


def test_an_adapter_of_points_is_saved_and_loaded(small_backbone, tmp_path):
    task = dapt.PartSegmentation(2, 5, class_parts=((0, 1), (2, 3, 4)), class_names=("cup", "lamp"))
    backbone = small_backbone()
    model = attach(backbone, dapt.Dapt(rank=3), task).eval()
    points, categories = torch.randn(2, 40, 3), torch.tensor([1, 0])
    expected = model(points, categories)
    model.save_adapter(tmp_path)
    dapt.detach(model)
    loaded = dapt.load_adapter(tmp_path, backbone).eval()
    assert loaded.adapter.task == task
    assert torch.equal(loaded(points, categories), expected)


def test_bad_categories_are_one_sentence(small_backbone):
    model = attach(small_backbone(), dapt.Linear(), dapt.PartSegmentation(3, 5)).eval()
    points = torch.randn(2, 40, 3)
    with pytest.raises(UsageError, match=r"categories must be \[2\].*got none"):
        model(points)
    with pytest.raises(UsageError, match=r"categories must be \[2\].*got \[3\]"):
        model(points, torch.tensor([0, 1, 2]))
    with pytest.raises(UsageError, match=r"categories must lie in 0 to 2, got \[0, 3\]"):
        model(points, torch.tensor([0, 3]))


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"num_parts": 0}, "num_parts must be at least 1"),
        ({"class_parts": ((0, 1),)}, "each of 2 categories"),
        ({"class_parts": ((0, 1), ())}, "each of 2 categories"),
        ({"class_parts": ((0, 1), (5,))}, "class_parts must lie in 0 to 4, got 5"),
        ({"class_names": ("cup",)}, "class_names must name 2 categories, got 1"),
        ({"part_names": ("a", "b")}, "part_names must name 5 parts, got 2"),
    ],
    ids=str,
)
def test_bad_tasks_are_one_sentence(fields, words):
    with pytest.raises(UsageError, match=words):
        dapt.PartSegmentation(**{"num_classes": 2, "num_parts": 5} | fields)


def test_weights_of_the_loss_are_cube_roots_of_rarity():
    parts = np.repeat([0, 1, 2], [64, 8, 0])[None]
    points = np.zeros((1, 72, 3), np.float32)
    arrays = {"points": points, "labels": np.zeros(1, int), "part_labels": parts}
    dataset = ArrayDataset(arrays, ["scene"], ["wall", "chair", "lamp"])
    task = dapt.SemanticSegmentation.of(dataset)
    assert task.class_weights == pytest.approx((1, 2, 4)) and task.class_names[1] == "chair"
    assert dapt.SemanticSegmentation.of(dataset, weighted=False).class_weights is None
    assert dapt.SemanticSegmentation(3, class_weights=(1, 1, 2)).class_weights == (1, 1, 2)
    for wrong in ((1, 1), (1, -1, 1), (1, float("nan"), 1)):
        with pytest.raises(UsageError, match="class_weights must be 3 numbers of at least 0"):
            dapt.SemanticSegmentation(3, class_weights=wrong)
    output = torch.randn(2, 5, 3)
    labels = torch.tensor([[0, 1, 1, 0, 0], [0, 0, 0, 1, 0]])
    logs, weight = output.log_softmax(2), torch.tensor([1.0, 2.0])[labels]
    wanted = -(logs.gather(2, labels[..., None])[..., 0] * weight).sum() / weight.sum()
    torch.testing.assert_close(task.loss(output, {"part_labels": labels}), wanted)


@pytest.fixture
def run(tmp_path):
    """A function that runs `dapt train` on labeled clouds; returns run folder and exit code."""
    train = labeled(tmp_path / "a.npz")
    test = labeled(tmp_path / "b.npz", samples=11, seed=1)

    def dapt_train(out, *flags, task="part_segmentation", data=train, **fields):
        config = tmp_path / f"{out}.yaml"
        config.write_text(yaml.safe_dump(TINY | {"task": task} | fields))
        words = ["--config", str(config), "--data.train", str(data), *flags]
        words += ["--data.test", str(test)] if data == train else []
        return tmp_path / out, cli.main(["train", *words, "--out", str(tmp_path / out)])

    return dapt_train


@pytest.mark.parametrize(
    "task, metric", [("part_segmentation", "instance_miou"), ("semantic_segmentation", "miou")]
)
def test_a_run_learns_to_label_points(run, tmp_path, capsys, task, metric):
    fields = {"epochs": 25, "method": {"name": "full"}, "num_points": 32}
    folder, code = run("x", task={"name": task, "dropout": 0.0}, **fields)
    assert code == 0
    result = json.loads((folder / "result.json").read_text())
    assert result["metric"] == metric and result["split"] == "test"
    first = lines(folder)[0]
    assert result[metric] > first[f"test_{metric}"] + 0.1
    values = [line[f"validation_{metric}"] for line in lines(folder)]
    assert result["best_epoch"] == values.index(max(values))
    best_by_test = max(line[f"test_{metric}"] for line in lines(folder))
    assert result[f"{metric}_of_best_epoch_by_test"] == best_by_test

    out = tmp_path / "scores.json"
    capsys.readouterr()
    assert cli.main(["evaluate", str(folder), "--batch_size", "5", "--out", str(out)]) == 0
    scores = json.loads(out.read_text())
    assert scores[metric] == pytest.approx(result[metric], abs=1e-6)
    assert scores["samples"] == 11
    printed = capsys.readouterr().out
    names = ("cup", "plate", "lamp") if task == "part_segmentation" else "0123456"
    assert all(name in printed for name in names)
    assert f"{metric.replace('_', ' ')} {scores[metric]:.4f}" in printed
    assert cli.main(["evaluate", str(folder), "--votes", "3", "--out", str(out)]) == 0
    assert json.loads(out.read_text())[metric] == pytest.approx(result[metric], abs=0.15)


def test_the_same_seed_is_the_same_run(run):
    one, other = run("one", num_points=32)[0], run("other", num_points=32)[0]
    assert lines(one) == lines(other)


def test_labels_follow_their_points_through_the_views():
    from dapt.data.transforms import Compose, Resample, Share
    from dapt.training.adaptation import Adaptation

    job = Adaptation.__new__(Adaptation)
    job._resample, job._augment = Resample(16), Compose([])
    points = torch.randn(3, 40, 3)
    batch = {"points": points, "part_labels": (points[..., 0] > 0).long(), "labels": torch.ones(3)}
    view = job.views(batch, Share(torch.Generator().manual_seed(0)))
    assert view["points"].shape == (3, 16, 3)
    assert torch.equal(view["part_labels"], (view["points"][..., 0] > 0).long())


@pytest.mark.parametrize("task", ["part_segmentation", "semantic_segmentation"])
@pytest.mark.parametrize(
    "changed, words",
    [
        ({}, "needs one label per point"),
        ({"part_labels": np.full((36, 40), -1)}, "part label -1 at point 0"),
        ({"part_labels": np.zeros((36, 39), int)}, "part_labels of"),
        ({"part_labels": np.zeros((35, 40), int)}, "part_labels of"),
        ({"part_labels": np.full((36, 40), 0.5)}, "whole numbers"),
        ({"part_names": np.array(["a", "b"])}, "part label .* go from 0 to 1"),
        ({"labels": np.full(36, 3)}, "label 3"),
    ],
    ids=["missing", "negative", "short", "few", "float", "unnamed", "category"],
)
def test_bad_labels_are_one_sentence(run, tmp_path, capsys, task, changed, words):
    data = labeled(tmp_path / "bad.npz", **changed)
    if not changed:
        with np.load(data) as file:
            np.savez(data, points=file["points"], labels=file["labels"])
    folder, code = run("x", task=task, data=data)
    written = capsys.readouterr().err.strip().splitlines()
    assert code in (1, 2) and not folder.exists()
    assert written[-1].startswith("dapt train: ") and not any("Traceback" in w for w in written)
    assert re.search(words, written[-1]), written[-1]


def test_info_counts_the_published_model(tmp_path, capsys):
    config = tmp_path / "c.yaml"
    tree = {
        "backbone": {"name": "point_mae", "num_groups": 128, "class_token": False},
        "method": "full",
        "task": "part_segmentation",
    }
    config.write_text(yaml.safe_dump(tree))
    words = ["--num_classes", "16", "--num_points", "256", "--batch_size", "2"]
    assert cli.main(["info", "--config", str(config), *words]) == 0
    assert "trained 27,063,730 of 27,063,730" in capsys.readouterr().out


@pytest.mark.slow
def test_two_processes_label_points_as_one(run, tmp_path):
    """Uses DAPT, whose last prompt is not read by a point head."""
    task = {"name": "part_segmentation", "dropout": 0.0}
    method = {"name": "dapt", "rank": 3, "dropout": 0.0, "drop_path": 0.0}
    fields = {"epochs": 2, "learning_rate": 1e-4, "num_points": 32}
    alone, _ = run("alone", task=task, method=method, **fields)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += ["--master_addr", "127.0.0.1", "--master_port", str(port), "-m", "dapt", "train"]
    command += ["--config", str(tmp_path / "alone.yaml"), "--out", str(tmp_path / "both")]
    command += ["--data.train", str(tmp_path / "a.npz"), "--data.test", str(tmp_path / "b.npz")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for one, two in zip(lines(alone), lines(tmp_path / "both"), strict=True):
        for name in ("train_loss", "test_loss", "test_instance_miou", "test_class_miou"):
            assert one[name] == pytest.approx(two[name], rel=1e-3), name
    each, shared = (np.load(folder / "clouds.npy") for folder in (alone, tmp_path / "both"))
    np.testing.assert_allclose(shared, each, atol=0.05)  # one or two of 40 points may change


def test_epochs_between_evaluations_have_none(run):
    folder, code = run("x", epochs=5, evaluate_every=2)
    assert code == 0
    evaluated = [line["epoch"] for line in lines(folder) if "test_instance_miou" in line]
    assert evaluated == [1, 3, 4] and len(lines(folder)) == 5
    assert json.loads((folder / "result.json").read_text())["best_epoch"] in evaluated
