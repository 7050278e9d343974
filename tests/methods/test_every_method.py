"""One matrix of all methods and backbones: what trains, what is kept, what is restored."""

import copy
import os
import pickle

import pytest
import safetensors.torch
import torch
from torch import nn

import dapt
from dapt.errors import UsageError
from dapt.training import loop as training
from support.methods import (
    FAMILY,
    LABELS,
    TASK,
    assert_same_state,
    attached,
    copy_of,
    each_backbone,
    each_method,
    randomize,
    train_steps,
)
from support.runs import assert_same_run

pytestmark = pytest.mark.usefixtures("one_thread")


@each_backbone
@each_method
def test_train_then_detach(small_backbone, name, method):
    backbone = small_backbone(name)
    backbone.norm.weight.requires_grad_(False)
    backbone.train().norm.eval()
    modes = {name: module.training for name, module in backbone.named_modules()}
    modules = dict(backbone.named_modules())
    before = copy_of(backbone.state_dict())
    frozen_before = {n: p.requires_grad for n, p in backbone.named_parameters()}
    model = attached(backbone, method)
    pretrained = copy_of(model.state_dict())

    train_steps(model)

    for entry, weight in model.named_parameters():
        assert model.trains(entry) == weight.requires_grad == (weight.grad is not None), entry
    for entry, value in model.state_dict().items():
        if not model.owns(entry):
            assert torch.equal(value, pretrained[entry]), entry
    changed = [e for e, w in model.own_parameters() if not torch.equal(w, pretrained[e])]
    # up-projections start at zero, so their inputs get no gradient at first
    assert len(changed) > len(model.own_parameters()) / 2

    assert dapt.detach(model) is backbone
    assert_same_state(backbone.state_dict(), before)
    assert dict(backbone.named_modules()) == modules
    assert {name: module.training for name, module in backbone.named_modules()} == modes
    assert {n: p.requires_grad for n, p in backbone.named_parameters()} == frozen_before
    with pytest.raises(UsageError, match="has no adapter"):
        model(torch.randn(1, 80, 3))


@each_method
def test_every_own_parameter_matters(small_backbone, method):
    """Away from the zeros at the start, every own parameter gets a nonzero gradient."""
    model = attached(small_backbone(), method, dapt.Classification(5, head="linear")).train()
    waiting = {entry for entry, _ in model.own_parameters()}
    for _ in range(30):  # for about half of all weights, a ReLU shuts off a whole adapter
        if not waiting:
            break
        randomize(model)
        TASK.loss(model(torch.randn(4, 80, 3)), {"labels": LABELS}).backward()
        waiting -= {e for e, weight in model.own_parameters() if weight.grad.count_nonzero()}
    assert not waiting


@each_method
def test_evaluation_is_repeatable(small_backbone, method):
    model = attached(small_backbone(), method).eval()
    randomize(model)
    points = torch.randn(4, 80, 3)
    assert torch.equal(model(points), model(points))


@each_backbone
@each_method
def test_reloads_to_identical_logits(small_backbone, tmp_path, name, method):
    task = dapt.Classification(3, class_names=("bag", "bin", "box"), label_smoothing=0.1)
    model = attached(small_backbone(name), method, task).eval()
    with torch.no_grad():
        for value in model.own_state().values():
            value.add_(0.1 * torch.rand_like(value) if value.is_floating_point() else 1)
    model.save_adapter(tmp_path)
    again = dapt.load_adapter(tmp_path, backbone=small_backbone(name)).eval()

    points = torch.randn(4, 80, 3)
    assert torch.equal(again(points), model(points))
    assert again.adapter.method == model.adapter.method and again.adapter.task == task
    assert set(os.listdir(tmp_path)) == {"adapter_config.json", "adapter_model.safetensors"}
    weights = safetensors.torch.load_file(tmp_path / "adapter_model.safetensors")
    assert set(weights) == set(model.own_state())


@each_method
@torch.no_grad()
def test_merging_changes_nothing(small_backbone, method):
    model = attached(small_backbone(), method).eval()
    randomize(model)
    points = torch.randn(4, 80, 3)
    before = model(points)
    torch.testing.assert_close(dapt.merge(model)(points), before, atol=1e-4, rtol=1e-4)


@each_method
def test_bfloat16(small_backbone, method):
    model = attached(small_backbone(), method).train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(torch.randn(4, 80, 3)).float().square().mean()
    loss.backward()
    assert all(w.grad.isfinite().all() for _, w in model.own_parameters())
    assert {w.dtype for w in model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    "method",
    ["dapt", *(pytest.param(name, marks=pytest.mark.slow) for name in FAMILY if name != "dapt")],
)
def test_compiles(small_backbone, method, fresh_compiler):
    """Values and gradients are the same; graph breaks are allowed here."""
    model = attached(small_backbone(depth=2, drop_path=0.0), method).eval()
    randomize(model)
    points = torch.randn(3, 80, 3)
    expected = model(points)
    compiled = torch.compile(model, backend="aot_eager")(points)
    torch.testing.assert_close(compiled, expected, atol=1e-4, rtol=1e-4)
    weights = [weight for _, weight in model.own_parameters()]
    got = torch.autograd.grad(compiled.square().sum(), weights)
    wanted = torch.autograd.grad(expected.square().sum(), weights)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


@each_backbone
@each_method
def test_data_parallel_finds_no_unused_parameter(small_backbone, one_process_group, name, method):
    model = attached(small_backbone(name), method)
    parallel = nn.parallel.DistributedDataParallel(model.train())
    for _ in range(2):  # a parameter without a gradient fails the second step
        parallel(torch.randn(4, 80, 3)).sum().backward()


class Killed(BaseException):
    """Raised like SIGKILL: the loop runs nothing after it."""


@pytest.mark.parametrize(
    "name", ["vpt", "adapter", "point_peft", "reversible:dapt", "density:dapt"]
)
def test_killed_and_resumed_is_uninterrupted(run, monkeypatch, name):
    fields = {"method": {"name": name}, "checkpoint_seconds": 0.0, "epochs": 2}
    whole, code = run("whole", **fields)
    assert code == 0
    step = training.Trainer._step

    def until(self, at, batch):
        if at == 4:
            raise Killed
        step(self, at, batch)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(training.Trainer, "_step", until)
        run("parts", **fields)
    assert_same_run(whole, run("parts", "--resume", **fields)[0])


@pytest.mark.parametrize(
    "method, trained",
    [
        (dapt.Vpt(), 360_463),
        # the published network has 62,268 more, which never receive a gradient
        (dapt.PointPeft(), 773_017 - 62_268),
    ],
    ids=["vpt", "point_peft"],
)
def test_published_counts(method, trained):
    model = dapt.attach(dapt.create_backbone("point_mae"), method, dapt.Classification(15))
    assert model.count_parameters()[0] == trained


def test_vpt_follows_its_formula(small_backbone):
    """In every block, prompts stand behind the class token, and none of them leaves the block."""
    backbone = small_backbone()
    blocks = list(backbone.blocks)
    model = attached(backbone, dapt.Vpt(prompts=3)).eval()
    randomize(model)
    x, positions = torch.randn(2, 12, 48), torch.randn(2, 12, 48)
    for plain, prompted in zip(blocks, model.backbone.blocks, strict=True):
        prompts = (prompted.prompt_tokens + prompted.prompt_token_positions).expand(2, 3, 48)
        tokens = x + positions
        tokens = torch.cat([tokens[:, :1], prompts, tokens[:, 1:]], 1)
        out = plain(tokens, torch.zeros_like(tokens))
        out = torch.cat([out[:, :1], out[:, 4:]], 1)
        torch.testing.assert_close(prompted(x, positions), out, atol=1e-5, rtol=1e-5)
    assert model.backbone(torch.randn(2, 80, 3)).prompts.shape == (2, 0, 48)


def test_adapter_follows_its_formula(small_backbone):
    backbone = small_backbone()
    plain = backbone.blocks[1]
    model = attached(backbone, dapt.Adapter(rank=5, scale=0.3)).eval()
    x, positions = torch.randn(2, 12, 48), torch.randn(2, 12, 48)
    wrapped = model.backbone.blocks[1]
    torch.testing.assert_close(  # a fresh adapter changes nothing
        wrapped(x, positions), plain(x, positions), atol=1e-5, rtol=1e-5
    )
    randomize(model)
    adapter = wrapped.adapter.double()
    after_attention = (x + positions).double()
    plain = plain.double()
    after_attention = after_attention + plain.attn(plain.norm1(after_attention))
    u = plain.norm2(after_attention)
    bottleneck = adapter.up(nn.functional.gelu(adapter.down(adapter.norm(u))))
    wanted = after_attention + plain.mlp(u) + 0.3 * bottleneck
    plain.float(), adapter.float()
    torch.testing.assert_close(wrapped(x, positions).double(), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: dapt.Vpt(prompts=0), "prompts must be at least 1, got 0"),
        (lambda: dapt.Adapter(rank=0), "rank must be from 1 to 256, got 0"),
        (lambda: dapt.Adapter(dropout=1.0), "dropout must be at least 0 and below 1, got 1.0"),
    ],
)
def test_settings_are_checked(make, message):
    with pytest.raises(UsageError, match=message):
        make()


@each_method
def test_settings_travel_to_other_processes(method):
    settings = FAMILY[method]
    again = pickle.loads(pickle.dumps(settings))
    assert again == settings and type(again) is type(settings)
    assert copy.deepcopy(settings) == settings


def test_a_method_that_does_not_fold_says_so(small_backbone, caplog):
    dapt.merge(attached(small_backbone(), dapt.Adapter(rank=4)))
    assert "method 'adapter' has nothing to fold" in caplog.text
    caplog.clear()
    dapt.merge(attached(small_backbone(), dapt.Linear()))
    assert not caplog.text


@each_method
@torch.no_grad()
def test_models_can_be_pickled(small_backbone, method):
    model, points = attached(small_backbone(), method).eval(), torch.randn(2, 80, 3)
    randomize(model)
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(again(points), model(points))
    assert again.adapter.method == model.adapter.method and not again.training
