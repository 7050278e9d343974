"""A step as one CUDA graph: the step that would be captured runs eagerly here, on the same static
memory, and ends like the ordinary loop, bit for bit."""

import copy
import itertools
import logging
from unittest import mock

import pytest
import torch

import dapt_ext
from dapt.errors import DaptError, UsageError
from dapt.runs import settings
from dapt.runs.options import TrainOptions
from dapt.training import loop, step_graph
from dapt.training.adaptation import Adaptation
from dapt.training.optimization import adamw, set_schedule
from dapt.training.updates import Updates
from support.methods import (
    LABELS,
    TASK,
    assert_same_state,
    attached,
    copy_of,
    each_method,
    randomize,
)
from support.runs import Killed, assert_same_run, kill_at, labeled, lines, weights

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch):
    """No code path may depend on values on a GPU; on a CPU, torch.compile imposes the same."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)


@pytest.fixture
def graphs(monkeypatch):
    """Runs the steps that would be captured; returns the batches that were replayed."""
    replayed = []

    def capture(step):
        def replay():
            replayed.append(step)
            step()

        return replay

    monkeypatch.setattr(step_graph, "capture", capture)
    for module in (loop, step_graph):
        monkeypatch.setattr(module, "check_graph", lambda *_: None)
    return replayed


def steps_of(model, graph, count=7):
    """Weights after some steps, each with its own seed, and the losses."""
    options = TrainOptions(out="x", learning_rate=1e-2)
    optimizer = adamw(model.own_parameters(), options, torch.device("cpu"), capturable=graph)
    weights = [weight for _, weight in model.own_parameters()]
    losses = torch.zeros(())

    def step(batch):
        loss = TASK.loss(model(batch["points"]), batch)
        extra = model.extra_loss()
        loss = loss if extra is None else loss + extra
        loss.backward()
        losses.add_(loss.detach())
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    run = step_graph.StepGraph(step, torch.device("cpu")) if graph else step
    seen = []
    for i in range(count):
        generator = torch.Generator().manual_seed(i)
        points = torch.randn(4, 80, 3, generator=generator)
        torch.manual_seed(100 + i)
        set_schedule(optimizer, float(i), options)
        run({"points": points, "labels": LABELS})
        seen.append(losses.item())
    return seen, copy_of(model.own_state())


@each_method
def test_each_method_takes_the_same_steps(small_backbone, graphs, method):
    torch.manual_seed(0)
    model = attached(small_backbone(), method).train()
    randomize(model)
    twin = copy.deepcopy(model)
    losses, state = steps_of(model, graph=False)
    graph_losses, graph_state = steps_of(twin, graph=True)
    assert graph_losses == losses
    assert_same_state(graph_state, state)
    assert len(graphs) == 7 - step_graph.WARM_UP


RUNS = {
    "running mean": {"ema": 0.9},
    "rates": {"rates": {"head": 0.1}},
    "no clipping": {"clip_norm": 0.0, "num_points": 16},
    "pretrain": {"command": "pretrain", "mask_ratio": 0.5, "decoder_depth": 1, "num_points": 16},
    "bfloat16": {"precision": "bf16"},
}


@pytest.mark.parametrize("fields", RUNS.values(), ids=RUNS)
def test_a_run_is_the_same(run, graphs, fields):
    ordinary, _ = run("ordinary", "--cuda_graph", "off", **fields)
    assert not graphs
    folder, code = run("graph", **fields)
    assert code == 0 and graphs
    if "command" in fields:
        assert lines(folder) == lines(ordinary)
        assert_same_state(weights(folder), weights(ordinary))
    else:
        assert_same_run(folder, ordinary)


def test_part_segmentation(run, graphs, tmp_path):
    task = {"name": "part_segmentation"}
    flags = ["--data.train", str(labeled(tmp_path / "parts.npz"))]
    ordinary, _ = run("ordinary", *flags, "--cuda_graph", "off", task=task)
    folder, code = run("graph", *flags, "--cuda_graph", "on", task=task)
    assert code == 0 and graphs
    assert_same_run(folder, ordinary)


@pytest.mark.parametrize("first, then", [(True, True), (True, False), (False, True)])
def test_killed_and_resumed_is_uninterrupted(run, graphs, monkeypatch, first, then):
    """A run may switch the graph on or off when it resumes."""
    fields = {"checkpoint_seconds": 0.0}
    whole, _ = run("whole", "--cuda_graph", "off", **fields)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 4)
        run("parts", "--cuda_graph", str(first).lower(), **fields)
    graphs.clear()
    folder, code = run("parts", "--resume", "--cuda_graph", str(then).lower(), **fields)
    assert code == 0 and bool(graphs) == then
    assert_same_run(whole, folder)


def waits(monkeypatch):
    """Lets each loss look at a value on the host."""
    loss = Adaptation.loss

    def looking(self, network, batch):
        value = loss(self, network, batch)
        assert value.item() > 0
        return value

    monkeypatch.setattr(Adaptation, "loss", looking)


def changes(monkeypatch):
    """Gives each step a factor of its own, which a graph would repeat."""
    loss, factors = Adaptation.loss, itertools.count(1)
    monkeypatch.setattr(Adaptation, "loss", lambda *given: loss(*given) * next(factors))


def breaks(monkeypatch):
    """Lets the capture fail halfway, after random numbers and with gradients."""

    def capture(step):
        with monkeypatch.context() as patch:
            patch.setattr(Updates, "_differentiate", half)
            step()

    def half(updates, batch, together):
        for weight in updates.weights:
            weight.grad = torch.rand_like(weight)
        raise RuntimeError("CUDA error: not permitted\nCUDA kernel errors might be reported later")

    monkeypatch.setattr(step_graph, "capture", capture)


OBSTACLES = {
    waits: "aten::_local_scalar_dense waits for values, which a CUDA graph cannot do",
    changes: "the steps of this method differ: one has aten::mul(float32[], 2) where",
    breaks: "the step cannot be one CUDA graph (CUDA error: not permitted)",
}
by_obstacle = pytest.mark.parametrize(
    "obstacle, why", OBSTACLES.items(), ids=[obstacle.__name__ for obstacle in OBSTACLES]
)


@by_obstacle
def test_auto_goes_on_without_a_graph(run, graphs, monkeypatch, caplog, obstacle, why):
    with monkeypatch.context() as patch:
        obstacle(patch)
        ordinary, _ = run("ordinary", "--cuda_graph", "off")
    caplog.clear()
    obstacle(monkeypatch)
    folder, code = run("auto")
    assert code == 0 and not graphs
    assert_same_run(folder, ordinary)
    said = [message for message in caplog.messages if "cuda_graph" in message]
    assert said[0] == "cuda_graph on: one launch per step, if the first 3 steps allow it"
    assert len(said) == 2 and said[1].startswith(f"cuda_graph off: {why}")


@by_obstacle
def test_on_requires_a_graph(run, graphs, monkeypatch, capsys, obstacle, why):
    obstacle(monkeypatch)
    assert run("on", "--cuda_graph", "on")[1] == 1
    assert why in capsys.readouterr().err.splitlines()[-1]


def test_resumed_without_a_graph_is_uninterrupted(run, graphs, monkeypatch):
    """The steps until the obstacle count, and so does what a run does in the steps after it."""
    waits(monkeypatch)
    fields = {"checkpoint_seconds": 0.0}
    whole, _ = run("whole", "--cuda_graph", "off", **fields)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 4)
        run("parts", **fields)
    folder, code = run("parts", "--resume", **fields)
    assert code == 0
    assert_same_run(whole, folder)


def test_a_capture_that_breaks_is_undone(monkeypatch):
    """What torch.cuda.graph leaves behind; `test_on_gpu.py` breaks a real capture."""
    cuda, end, release = mock.MagicMock(), mock.Mock(), mock.Mock()
    cuda.current_device.return_value = 0
    cuda.graph.return_value.__exit__.side_effect = RuntimeError("the capture was invalidated")
    monkeypatch.setattr(torch, "cuda", cuda)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", end, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_releasePool", release, raising=False)
    with pytest.raises(RuntimeError, match="the capture was invalidated"):
        step_graph.capture(lambda: None)
    cuda.set_stream.assert_called_once_with(cuda.current_stream.return_value)
    generator = cuda.default_generators[0]
    generator.graphsafe_set_state.assert_called_once_with(generator.clone_state.return_value)
    for freed in (end, release):
        freed.assert_called_once_with(0, cuda.graph_pool_handle.return_value)


REFUSED = {
    "needs a GPU": {},
    "takes one process, and this run has 2": {"processes": 2},
    "accumulate is 3": {"accumulate": 3},
    "one_cycle changes it": {"schedule": "one_cycle"},
    "compile exclude each other": {"compile": True},
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_runs_that_cannot_be_a_graph(sentence):
    fields = dict(REFUSED[sentence])
    device = torch.device("cuda" if fields else "cpu")
    processes = fields.pop("processes", 1)
    with pytest.raises(UsageError, match=sentence):
        options = TrainOptions(out="x", cuda_graph="on", **fields)
        step_graph.takes_graph(options, device, processes, torch.nn.Identity())
    options = TrainOptions(out="x", **fields)
    assert not step_graph.takes_graph(options, device, processes, torch.nn.Identity())


@pytest.mark.parametrize("value, takes", [("auto", True), ("on", True), ("off", False)])
def test_one_gpu_takes_a_graph(value, takes):
    options = TrainOptions(out="x", cuda_graph=value)
    assert step_graph.takes_graph(options, torch.device("cuda"), 1, torch.nn.Identity()) == takes


@pytest.mark.parametrize("word", ["on", "off"])
def test_true_and_false_mean_on_and_off(run, tmp_path, word):
    """YAML makes them of on and off, too."""
    assert TrainOptions(out="x", cuda_graph=word == "on").cuda_graph == word
    config = tmp_path / "graph.yaml"
    for text in (word, str(word == "on").lower()):
        config.write_text(f"cuda_graph: {text}")
        for flags in ([f"--config={config}"], ["--cuda_graph", text]):
            required = ["--data.train=x.npz", "--backbone.checkpoint=none", "--out=x"]
            assert settings.parse("dapt", flags + required).training.cuda_graph == word


def test_help_names_the_choices():
    help = settings.parser_of("dapt", [], settings.ADAPTATION).format_help()
    assert "--cuda_graph {auto,on,off}" in help


def test_without_a_gpu_nothing_is_said(run, caplog):
    assert run("x")[1] == 0
    assert not any("cuda_graph" in message for message in caplog.messages)


def test_without_a_gpu_is_one_sentence(run, capsys):
    assert run("x", "--cuda_graph", "true")[1] == 2
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .endswith("cuda_graph needs a GPU, and this run is on the cpu: leave cuda_graph out")
    )


def test_low_memory_is_one_sentence(run, graphs, capsys):
    assert run("x", "--cuda_graph", "true", "--method.memory", "low")[1] == 2
    assert "memory=low" in capsys.readouterr().err.splitlines()[-1]


def test_auto_keeps_low_memory(run, graphs):
    assert run("x", "--method.memory", "low")[1] == 0 and not graphs


VALUES = torch.tensor([3.0, -1.0, 2.0])
CELLS = torch.tensor([[1, 2, 3], [0, 0, 0]])
WAITS = {
    "a number on the host": lambda: VALUES.sum().item(),
    "a truth on the host": lambda: bool((VALUES > 0).any()),
    "where": lambda: VALUES.nonzero(),
    "a mask": lambda: VALUES[VALUES > 0],
    "a mask to write": lambda: VALUES.clone().index_put_((VALUES > 0,), VALUES[:1]),
    "cells": lambda: dapt_ext.unique_cells(CELLS),
    "to another device": lambda: VALUES.to("meta"),
    "into another device": lambda: torch.empty(3, device="meta").copy_(VALUES),
}


@pytest.mark.parametrize("what", WAITS)
def test_what_waits_for_values_is_found(what):
    with step_graph.Watch() as watch:
        WAITS[what]()
    assert watch.waits


def test_what_a_graph_repeats_is_none_of_it():
    with step_graph.Watch() as watch:
        VALUES[torch.tensor([2, 0])]
        torch.randint(2**63 - 1, ())
        VALUES.clone().bernoulli_(0.3).where(VALUES > 0, 0.0)
    assert len(watch.calls) > 4 and watch.waits is None


def test_batches_of_another_shape_are_refused(graphs):
    graph = step_graph.StepGraph(lambda batch: None, torch.device("cpu"))
    graph({"points": VALUES})
    with pytest.raises(DaptError, match=r"points is \[2\] after \[3\]"):
        graph({"points": VALUES[:2]})


@pytest.mark.parametrize("at", [1, 5])
def test_auto_takes_batches_of_any_shape(graphs, caplog, at):
    caplog.set_level(logging.INFO)
    sizes, seen = [3] * 7, []
    sizes[at] = 2
    graph = step_graph.StepGraph(
        lambda batch: seen.append(len(batch["points"])), torch.device("cpu"), required=False
    )
    for size in sizes:
        graph({"points": VALUES[:size]})
    assert seen == sizes
    (said,) = caplog.messages
    assert "batches of one shape, points is [2] after [3]" in said


def test_a_batch_is_read_where_the_first_one_lay(graphs):
    seen = []
    graph = step_graph.StepGraph(
        lambda batch: seen.append((batch["points"].data_ptr(), batch["points"].sum().clone())),
        torch.device("cpu"),
    )
    for i in range(6):
        graph({"points": VALUES + i})
    assert len({address for address, _ in seen}) == 1
    assert [total.item() for _, total in seen] == [4.0 + 3 * i for i in range(6)]
