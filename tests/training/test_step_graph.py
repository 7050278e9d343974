"""A step as one CUDA graph: the step that would be captured runs eagerly here, on the same static
memory, and ends like the ordinary loop, bit for bit."""

import copy

import pytest
import torch

import dapt_ext
from dapt.errors import DaptError, UsageError
from dapt.runs.options import TrainOptions
from dapt.training import loop, step_graph
from dapt.training.optimization import adamw, set_schedule
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
    monkeypatch.setattr(loop, "check_graph", lambda *_: None)
    return replayed


def steps_of(model, graph, count=7):
    """Weights after some steps, each with its own seed, and the losses."""
    options = TrainOptions(out="x", cuda_graph=graph, learning_rate=1e-2)
    optimizer = adamw(model.own_parameters(), options, torch.device("cpu"))
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
    ordinary, _ = run("ordinary", **fields)
    folder, code = run("graph", "--cuda_graph", "true", **fields)
    assert code == 0 and graphs
    if "command" in fields:
        assert lines(folder) == lines(ordinary)
        assert_same_state(weights(folder), weights(ordinary))
    else:
        assert_same_run(folder, ordinary)


def test_part_segmentation(run, graphs, tmp_path):
    task = {"name": "part_segmentation"}
    flags = ["--data.train", str(labeled(tmp_path / "parts.npz"))]
    ordinary, _ = run("ordinary", *flags, task=task)
    folder, code = run("graph", *flags, "--cuda_graph", "true", task=task)
    assert code == 0 and graphs
    assert_same_run(folder, ordinary)


@pytest.mark.parametrize("first, then", [(True, True), (True, False), (False, True)])
def test_killed_and_resumed_is_uninterrupted(run, graphs, monkeypatch, first, then):
    """A run may switch the graph on or off when it resumes."""
    fields = {"checkpoint_seconds": 0.0}
    whole, _ = run("whole", **fields)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 4)
        run("parts", "--cuda_graph", str(first).lower(), **fields)
    graphs.clear()
    folder, code = run("parts", "--resume", "--cuda_graph", str(then).lower(), **fields)
    assert code == 0 and bool(graphs) == then
    assert_same_run(whole, folder)


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
    options = TrainOptions(out="x", cuda_graph=True, **fields)
    with pytest.raises(UsageError, match=sentence):
        step_graph.check_graph(options, device, processes)
    step_graph.check_graph(TrainOptions(out="x", cuda_graph=True), torch.device("cuda"), 1)


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
def test_what_waits_for_values_is_refused(what):
    with step_graph.Watch(), pytest.raises(DaptError, match="waits for values"):
        WAITS[what]()


def test_what_a_graph_repeats_is_not_refused():
    with step_graph.Watch() as watch:
        VALUES[torch.tensor([2, 0])]
        torch.randint(2**63 - 1, ())
        VALUES.clone().bernoulli_(0.3).where(VALUES > 0, 0.0)
    assert len(watch.calls) > 4


def test_steps_that_differ_are_refused(graphs):
    """For example because of random numbers from Python, which a graph would repeat."""
    factors = iter(range(9))

    def step(batch):
        batch["points"] * next(factors)

    graph = step_graph.StepGraph(step, torch.device("cpu"))
    for _ in range(step_graph.WARM_UP):
        graph({"points": VALUES})
    with pytest.raises(DaptError, match=r"differ: one has aten::mul\(.*1\) where the next has"):
        graph({"points": VALUES})


def test_batches_of_another_shape_are_refused(graphs):
    graph = step_graph.StepGraph(lambda batch: None, torch.device("cpu"))
    graph({"points": VALUES})
    with pytest.raises(DaptError, match=r"points is \[2\] after \[3\]"):
        graph({"points": VALUES[:2]})


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
